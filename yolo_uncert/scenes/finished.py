"""Results of finished scenes on disk, so that a run over many of them does none twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from ultralytics.utils import LOGGER

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.files import replacing
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.scenes.raster import Georeference
from yolo_uncert.scenes.result import SceneResult

BOXES = "boxes"
"""Name of the rows beside those of the fields."""

KINDS: dict[str, type[UncertBoxes] | type[UncertOBB]] = {kind.__name__: kind for kind in (UncertBoxes, UncertOBB)}


class Finished:
    """A file with the result of one scene.

    Args:
        file: Where it is kept.
        run: What the result depends on: that of anything else is not taken up.
    """

    def __init__(self, file: Path, run: Mapping[str, str]) -> None:
        self.file, self._run = file, dict(run)

    def load(self) -> SceneResult | None:
        """Return the result; None if there is none of this run."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "np") as file:
                said = {name: json.loads(value) for name, value in file.metadata().items()}
            return _restored(said["result"], load_file(self.file)) if said["run"] == self._run else None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            LOGGER.warning(f"{self.file} cannot be read ({error}). Its scene is done again")
            return None

    def save(self, result: SceneResult) -> None:
        """Keep a result."""
        boxes: Any = result.boxes
        arrays = {BOXES: boxes.data, **{f"fields.{name}": values for name, values in boxes.fields.items()}}
        said = {"run": self._run, "result": _described(result)}
        with replacing(self.file) as part:
            save_file(
                {name: np.ascontiguousarray(values) for name, values in arrays.items()},
                part,
                {name: json.dumps(value) for name, value in said.items()},
            )

    def remove(self) -> None:
        """Delete the file."""
        self.file.unlink(missing_ok=True)


def _described(result: SceneResult) -> dict[str, Any]:
    """Return what a result is beside its arrays, as plain values."""
    return {
        "path": result.path,
        "names": list(result.names.items()),
        "kind": type(result.boxes).__name__,
        "shape": list(result.boxes.orig_shape),
        "conformal": result.boxes.conformal.as_dict() if result.boxes.conformal else None,
        "geo": [list(result.geo.transform), result.geo.crs] if result.geo else None,
        "tiles": [result.tiles, result.empty_tiles],
    }


def _restored(said: Mapping[str, Any], arrays: dict[str, Any]) -> SceneResult:
    data = arrays.pop(BOXES)
    fields = {name.removeprefix("fields."): values for name, values in arrays.items()}
    conformal = Conformal.from_dict(said["conformal"]) if said["conformal"] else None
    height, width = said["shape"]
    boxes = KINDS[said["kind"]](data, (height, width), fields, conformal)
    geo = None
    if said["geo"]:
        a, b, c, d, e, f = said["geo"][0]
        geo = Georeference((a, b, c, d, e, f), said["geo"][1])
    return SceneResult(said["path"], dict(said["names"]), boxes, geo, *said["tiles"])
