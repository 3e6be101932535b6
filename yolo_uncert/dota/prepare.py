"""DOTA's scenes made into a data set of tiles that Ultralytics trains on.

::

    out/data.yaml                       splits relative to this file, and class names
    out/images/<split>/<tile>.jpg
    out/labels/<split>/<tile>.txt       "class x1 y1 x2 y2 x3 y3 x4 y4", divided by the tile's width and height
    out/labelTxt/<split>/<tile>.txt     DOTA's format in pixels of the tile, with the flag difficult
    out/records/<split>/<scene>.json    what was made of a scene, written when all its tiles are there
    out/prepare.json                    the options
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import LOGGER, TQDM

from yolo_uncert.dota.cutting import cut_scene
from yolo_uncert.dota.sources import SPLITS, Scene, class_names, find_scenes, read_scene
from yolo_uncert.files import replacing
from yolo_uncert.options import OptionError, parse_options
from yolo_uncert.run_options import PrepareOptions

_VERSION = 1
"""Raised when the same options would give other tiles than before."""


@dataclass(frozen=True)
class PreparedDota:
    """What was prepared.

    Attributes:
        data: The data yaml, to be handed to training.
        names: Class names in the order of their indices.
        counts: Numbers for each split: ``scenes``, ``tiles``, of them ``without`` labels, ``without_dropped`` (left out
            by ``background``), ``objects`` in the scenes, of them ``difficult``; ``labels`` written, of them ``cut`` to
            the tile; ``away``, parts too small to be labelled; ``lost``, objects that no tile labels.
    """

    data: Path
    names: tuple[str, ...]
    counts: Mapping[str, Counter[str]]

    def summary(self) -> str:
        """Return the numbers as text, a line for each split."""
        lines = []
        for split, n in self.counts.items():
            lines.append(f"{split}: {n['scenes']} scenes, {n['tiles']} tiles")
            if n["objects"] or split != "test":
                dropped = f", {n['without_dropped']} more left out" if n["without_dropped"] else ""
                lines[-1] += (
                    f" ({n['without']} without labels{dropped}); {n['objects']} objects, {n['difficult']} difficult; "
                    f"{n['labels']} labels, {n['cut']} cut to the tile; {n['away']} parts too small to be labelled, "
                    f"{n['lost']} objects in no tile"
                )
        return "\n".join([*lines, f"{len(self.names)} classes; data={self.data}"])


def prepare_dota(source: str | Path, out: str | Path | None = None, **options: Any) -> PreparedDota:
    """Cut a data set in DOTA's layout into tiles.

    Memory holds one scene at a time (and a resized copy). A run that was stopped continues where it was: scenes that
    are done, and whose files have not changed since, are left as they are.

    Args:
        source: Folder with ``train``, ``val`` and, if there is one, ``test``; see `find_scenes`.
        out: Folder for the tiles; by default that of the source with ``-tiles`` behind its name.
        **options: Those of `PrepareOptions`: ``tile``, ``overlap``, ``scales`` and so on.

    Raises:
        OptionError: An option is wrong, a class is not among the names, or ``out`` holds something else.
        FileNotFoundError: The source has no images or labels where they are expected.
        ValueError: A line of a label file is malformed; nothing has been written then.
        OSError: An image cannot be read.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    chosen = parse_options(PrepareOptions, plain, "prepare")
    folder = Path(f"{Path(source)}-tiles") if out is None else Path(out)
    scenes = find_scenes(source)
    names = class_names(scenes, chosen.names)
    _claim(folder, {"version": _VERSION, **asdict(chosen), "scales": chosen.scale_list, "names": names})
    _forget_others(folder, scenes)
    counts: dict[str, Counter[str]] = {scene.split: Counter() for scene in scenes}
    for scene in TQDM(scenes, desc="scenes", unit="scene"):
        counts[scene.split] += _scene(scene, names, folder, chosen)
    return PreparedDota(_describe(folder, list(counts), names), tuple(names), counts)


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Note the options in a new folder, or see that the one there was made with the same."""
    file = folder / "prepare.json"
    if not file.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise OptionError(f"out={folder} holds something else: choose another folder, or empty it")
        _write_json(file, recipe)
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if changed := sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key)):
        raise OptionError(
            f"out={folder} holds tiles that were made with another {', '.join(changed)}: choose another folder, or "
            "delete that one"
        )


def _scene(scene: Scene, names: Sequence[str], folder: Path, options: PrepareOptions) -> Counter[str]:
    """Cut a scene unless its record says that it has been done; return its numbers."""
    record = folder / "records" / scene.split / f"{scene.name}.json"
    source = [[file.stat().st_size, file.stat().st_mtime_ns] for file in (scene.image, scene.labels) if file]
    if record.is_file():
        done = json.loads(record.read_text(encoding="utf-8"))
        if done["source"] == source:
            return Counter(done["counts"])
        _forget(folder, record)
    tiles, counts = cut_scene(scene, read_scene(scene), names, folder, options)
    _write_json(record, {"source": source, "counts": dict(counts), "tiles": tiles})
    return counts


def _forget_others(folder: Path, scenes: Sequence[Scene]) -> None:
    """Take away the tiles of scenes that the source no longer has."""
    present = {(scene.split, scene.name) for scene in scenes}
    for record in (folder / "records").glob("*/*.json"):
        if (record.parent.name, record.stem) not in present:
            _forget(folder, record)


def _forget(folder: Path, record: Path) -> None:
    split = record.parent.name
    for tile in json.loads(record.read_text(encoding="utf-8"))["tiles"]:
        for name in (f"images/{split}/{tile}.jpg", f"images/{split}/{tile}.png"):
            (folder / name).unlink(missing_ok=True)
        for kind in ("labels", "labelTxt"):
            (folder / kind / split / f"{tile}.txt").unlink(missing_ok=True)
    record.unlink()


def _describe(folder: Path, splits: Sequence[str], names: Sequence[str]) -> Path:
    """Write the data yaml."""
    if missing := [split for split in SPLITS[:2] if split not in splits]:
        LOGGER.warning(f"the source has no {' and no '.join(missing)}: training needs both")
    target = folder / "data.yaml"
    content = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(names))}
    with replacing(target) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target


def _write_json(target: Path, content: Any) -> None:
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
