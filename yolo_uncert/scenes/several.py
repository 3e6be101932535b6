"""Detect in many scenes, one after the other, into one folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeAlias

from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import LOGGER

from yolo_uncert.evaluation import DotaDetections, write_dota
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError
from yolo_uncert.scenes.detect import check_switches, detect_scene, origin, settings
from yolo_uncert.scenes.finished import Finished
from yolo_uncert.scenes.images import SceneError
from yolo_uncert.scenes.result import DOTA, INTERVAL_LEVEL, SceneResult, class_names, name_of
from yolo_uncert.scenes.targets import DERIVED, check_dota, check_targets

SUFFIXES = frozenset(f".{kind}" for kind in (*IMG_FORMATS, "img", "nitf", "ntf"))
"""Endings of the files of a folder that are taken for scenes."""

FINISHED = ".finished"
"""Folder beside the files with the results of finished scenes, as arrays."""

Source: TypeAlias = "str | Path | Iterable[str | Path]"


def detect_scenes(
    model: YOLO | str | Path,
    source: Source,
    *,
    out: str | Path | None = None,
    resume: bool = True,
    dota: bool = True,
    **options: Any,
) -> Iterator[SceneResult]:
    """Detect in scenes one after the other, by the rules of `detect_scene`; each is yielded when its files are written.

    One that cannot be read is reported and left out; the others go on. Of those that are done only the rows of the
    DOTA files stay in memory, about 200 bytes a box.

    Args:
        model: Detect or obb model, or its file.
        source: Folder (its rasters, not those of folders in it), pattern such as ``scenes/*.tif`` (``**`` for folders
            at any depth), text file with a name in each line (looked for in its own folder, too), or names.
        out: Folder that the files of all scenes are written to, and when the last one is done ``dota`` with one
            ``Task1_<class>.txt`` for each class over all scenes: a submission. None: nothing is written.
        resume: Take the results of scenes that an earlier call with the same model and options has finished into
            ``out``, and go on within the one it was stopped in; False starts over.
        dota: Write the folder ``dota``, which then holds the scenes of this call and no other.
        **options: Those of `detect_scene` and of predict.

    Returns:
        Iterator over the results, finished scenes of an earlier call included.

    Raises:
        FileNotFoundError: There is no scene.
        OptionError: An option is wrong, two scenes have the same name, a file would be replaced that this package
            did not write, or the model cannot do this.
        SceneError: At the end: some scenes could not be read, or have no valid pixel.
    """
    check_switches(resume=resume, dota=dota)
    files = list_scenes(source)
    if out is not None:
        _check_names({name_of(file): file for file in files})
        for file in files:
            check_targets(out, name_of(file), file)
        if dota:
            check_dota(Path(out) / DOTA)
    model = model if isinstance(model, YOLO) else YOLO(model)
    return _detect(model, files, None if out is None else Path(out), resume, dota, options)


def names_several(source: str | Path) -> bool:
    """Return whether a source is a folder with rasters, a pattern or a list, rather than one scene."""
    name, path = str(source), Path(source)
    if "://" in name or name.startswith("/vsi"):
        return False
    if path.is_dir():  # some formats of GDAL are folders
        return bool(_rasters(path))
    return path.suffix.lower() == ".txt" if path.is_file() else has_magic(name)


def list_scenes(source: Source) -> list[str]:
    """Return the files of a source in order, none twice.

    Args:
        source: As in `detect_scenes`.

    Raises:
        FileNotFoundError: There is none.
        OptionError: The files of two scenes would have the same name.
    """
    if not isinstance(source, (str, Path)):
        found = [str(name) for name in source]
    elif not names_several(source):
        found = [str(source)]
    elif (path := Path(source)).is_dir():
        found = [str(file) for file in _rasters(path)]
    elif path.is_file():
        found = [_beside(line.strip(), path) for line in _lines(path) if line.strip()]
    else:
        found = [name for name in sorted(glob(str(source), recursive=True)) if not Path(name).is_dir()]
    if not found:
        raise FileNotFoundError(f"source={source}: there is no such scene")
    named: dict[str, str] = {}
    for name in dict.fromkeys(found):
        if (other := named.setdefault(name_of(name), name)) != name:
            raise OptionError(f"scene: the files of {other} and of {name} would have the same name")
    return list(named.values())


def _check_names(named: Mapping[str, str]) -> None:
    """Refuse scenes one of which is named as the files of another one are."""
    for stem, file in named.items():
        for end in re.finditer("-", stem):
            base = stem[: end.start()]
            if base in named and re.fullmatch(DERIVED, stem[end.start() :]):
                raise OptionError(f"scene: the files of {named[base]} and of {file} might have the same name")


def _rasters(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _lines(listing: Path) -> list[str]:
    try:
        return listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise OptionError(f"scene: {listing} is no list of names in UTF-8: {error}") from error


def _beside(name: str, listing: Path) -> str:
    """Return a name from a list as it is, or relative to the list where only that exists."""
    beside = listing.parent / name
    return str(beside) if beside.exists() and not Path(name).exists() else name


def _detect(
    model: YOLO, files: list[str], out: Path | None, resume: bool, dota: bool, options: dict[str, Any]
) -> Iterator[SceneResult]:
    rows, names, failed = [], {}, []
    for number, file in enumerate(files, start=1):
        LOGGER.info(f"scene {number} of {len(files)}: {file}")
        try:
            result = _finish(model, file, out, resume, options)
        except (SceneError, FileNotFoundError) as error:
            LOGGER.error(str(error))
            failed.append(file)
            continue
        names = result.names
        if out is not None and dota:
            rows.append(result.dota())
        yield result
    if out is not None and rows:
        written = write_dota(out / DOTA, DotaDetections.stack(rows), class_names(names))
        for old in {*(out / DOTA).glob("Task1_*.txt")} - {*written}:  # classes of another model
            old.unlink()
    if failed:
        raise SceneError(f"{len(failed)} of {len(files)} scenes could not be done: {', '.join(failed)}")


def _finish(model: YOLO, file: str, out: Path | None, resume: bool, options: dict[str, Any]) -> SceneResult:
    """Detect in a scene, or take what an earlier call has found."""
    if out is None:
        return detect_scene(model, file, **options)
    run = {**origin(model, file), **settings(options)}
    finished = Finished(out / FINISHED / f"{name_of(file)}.safetensors", run)
    if resume and (known := finished.load()) is not None:
        LOGGER.info(f"{len(known)} boxes, found by an earlier run")
        # Somebody may have deleted the files, or made others of the same name.
        known.save(out, dota=False, interval_level=options.get("interval_level", INTERVAL_LEVEL))
        return known
    finished.remove()
    result = detect_scene(model, file, out=out, resume=resume, dota=False, **options)
    finished.save(result)
    return result
