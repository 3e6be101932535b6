"""The files that a result is written to, and what must not be lost by it: the scene, and files of other origin."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from yolo_uncert.config import OptionError
from yolo_uncert.scenes.geojson import GENERATOR
from yolo_uncert.scenes.geopackage import STYLES
from yolo_uncert.scenes.layers import DESCRIPTIONS

HEAD = 400
"""Characters of a file that its origin shows in: those before the first feature, or row."""


def check_targets(folder: str | Path, name: str, source: str) -> None:
    """Refuse to replace the scene itself, and files that this package did not write as they are.

    Args:
        folder: Where a result is to be written.
        name: Its name, see `scenes.result.name_of`.
        source: File of the scene.

    Raises:
        OptionError: A file in the folder has the name of one that is to be written, and is neither of an earlier run
            nor empty.
    """
    scene = Path(source)
    for file in _present(Path(folder), name):
        if scene.exists() and file.samefile(scene):
            raise OptionError(f"scene: {file} is the scene itself and would be replaced; choose another folder as out=")
        if not _ours(file):
            raise OptionError(
                f"scene: {file} would be replaced, and is not, or no longer, as yolo-uncert wrote it; move it, or "
                "choose another folder as out="
            )


def _present(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of a result that are there."""
    kinds = ("", "-sigma", "-pixels", "-pixels-sigma")
    ends = (*(f"{kind}.geojson" for kind in kinds), ".gpkg", ".jsonl")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in there:
        end = file.name.removeprefix(name) if file.name.startswith(name) else ""
        if end in ends or (end.startswith("-epsg") and end.endswith(".geojson")):
            yield file


def _ours(file: Path) -> bool:
    """Return whether a file is empty or as this package writes it."""
    if not file.stat().st_size:
        return True
    if file.suffix == ".gpkg":
        return _has_our_layers(file)
    with file.open(encoding="utf-8", errors="replace") as stream:
        head = stream.read(HEAD)
    return head.startswith('{"path"') if file.suffix == ".jsonl" else f'"generator": "{GENERATOR}"' in head


def _has_our_layers(file: Path) -> bool:
    """Return whether a GeoPackage holds our layers and no other."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as database:
            found = dict(database.execute("SELECT table_name, description FROM gpkg_contents").fetchall())
    except sqlite3.Error:
        return False
    return found.get("boxes") == DESCRIPTIONS["boxes"] and found.keys() <= {*DESCRIPTIONS, STYLES}
