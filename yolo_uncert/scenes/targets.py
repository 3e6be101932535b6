"""The files that a result is written to, and what must not be lost by it: the scene, and files of other origin."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from yolo_uncert.evaluation import read_dota
from yolo_uncert.files import replacing
from yolo_uncert.options import OptionError

DERIVED = r"-(sigma|pixels|pixels-sigma|epsg\d+)"
"""What the names of a result's files have behind its own."""

Digests = dict[str, list[str]]
"""The last two digests of each file by its name: a run that is stopped leaves one or the other."""


def check_targets(folder: str | Path, name: str, source: str) -> None:
    """Refuse to replace the scene itself, and files that are not as this package wrote them.

    Args:
        folder: Where a result is to be written.
        name: Its name, see `scenes.result.name_of`.
        source: File of the scene.

    Raises:
        OptionError: A file in the folder has the name of one that is to be written, and is neither as an earlier run
            wrote it nor empty.
    """
    scene, known = Path(source), _known(Path(folder), name)
    for file in _present(Path(folder), name):
        if scene.exists() and file.samefile(scene):
            raise OptionError(f"scene: {file} is the scene itself and would be replaced; choose another folder as out=")
        if file.stat().st_size and _digest(file) not in known.get(file.name, []):
            raise OptionError(
                f"scene: {file} would be replaced, and is not, or no longer, as yolo-uncert wrote it; move it, or "
                "choose another folder as out="
            )


@contextmanager
def replacing_own(target: Path, name: str) -> Iterator[Path]:
    """Write a file of a result as `files.replacing` does, and note what it holds for `check_targets`.

    Args:
        target: The file; its folder is made.
        name: Name of the result.

    Yields:
        Where to write meanwhile, a file of the same name.
    """
    with replacing(target) as part:
        yield part
        known = _known(target.parent, name)
        known[target.name] = [*known.get(target.name, [])[-1:], _digest(part)]
        with replacing(_notes(target.parent, name)) as notes:
            notes.write_text(json.dumps(known, indent=1), encoding="utf-8")


def _notes(folder: Path, name: str) -> Path:
    return folder / f".{name}.written"


def _known(folder: Path, name: str) -> Digests:
    """Return what earlier runs have noted; nothing if that cannot be read."""
    try:
        known: Digests = json.loads(_notes(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def check_dota(folder: Path) -> None:
    """Refuse to replace result files of DOTA that cannot be any.

    Args:
        folder: Where such files are to be written.

    Raises:
        OptionError: A file there of such a name holds something else.
    """
    if any(folder.glob("Task1_*.txt")):
        try:
            read_dota(folder)
        except ValueError as error:
            raise OptionError(f"scene: {folder} would be replaced, and holds no results of DOTA: {error}") from error


def remove_outdated(folder: Path, name: str, written: Iterable[Path]) -> None:
    """Remove the files of an earlier result that this one has no successor of, if they are as they were written.

    Args:
        folder: Where the result was written.
        name: Its name.
        written: Its files.
    """
    known, kept = _known(folder, name), {file.name for file in written}
    for file in _present(folder, name):
        if file.name not in kept and _digest(file) in known.get(file.name, []):
            file.unlink()


def _present(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of a result that are there."""
    kinds = ("", "-sigma", "-pixels", "-pixels-sigma")
    ends = (*(f"{kind}{end}" for kind in kinds for end in (".geojson", ".qml")), ".gpkg", ".jsonl")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in there:
        end = file.name.removeprefix(name) if file.name.startswith(name) else ""
        if end in ends or re.fullmatch(r"-epsg\d+\.(geojson|qml)", end):
            yield file


def _digest(file: Path) -> str:
    """Return a digest of what a file holds, of a GeoPackage that of its tables: QGIS changes bytes when it looks."""
    if file.suffix == ".gpkg":
        with suppress(sqlite3.Error):
            return _hash(repr(row).encode() for row in _rows(file))
    with file.open("rb") as stream:
        return _hash(iter(lambda: stream.read(1 << 20), b""))


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _rows(file: Path) -> Iterator[tuple[object, ...]]:
    """Yield the rows of all layers of a GeoPackage, each layer's name before its own."""
    with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT table_name FROM gpkg_contents ORDER BY table_name").fetchall():
            yield (table,)
            quoted = table.replace('"', '""')
            yield from database.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608  quoted, and read only
