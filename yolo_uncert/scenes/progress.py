"""What a scene has given so far, on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from ultralytics.utils import LOGGER

from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.engine.postprocess import Detections
from yolo_uncert.files import replacing
from yolo_uncert.model import YOLO
from yolo_uncert.scenes.raster import companions

STATE = "state.safetensors"
"""File that names the last complete row of tiles; written after all that it stands for."""

ROWS, SEEN = "done.rows", "done.seen"
"""Names of what it says beside the options of the run."""

T = TypeVar("T", Candidates, Detections)


@dataclass
class State:
    """Where a run stands between two rows of tiles.

    Attributes:
        rows: Rows of tiles that are done.
        seen: Tiles in them with a valid pixel.
        waiting: Candidates that tiles to come may still add to.
        parts: What was settled after each row, None where that was nothing.
    """

    rows: int = 0
    seen: int = 0
    waiting: Candidates | None = None
    parts: list[Detections | None] = field(default_factory=list)


class Progress:
    """A folder with the state of one run.

    Args:
        folder: Where it is kept; made with the first row.
        run: What the result depends on, as plain values by name: a state of anything else is not taken up.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder = folder
        self._run = {name: value if isinstance(value, str) else json.dumps(value) for name, value in run.items()}

    def load(self) -> State:
        """Return the state that was saved last; a new one, without the folder, if there is none of this run."""
        if not (self.folder / STATE).exists():
            return self._anew()
        try:
            with safe_open(self.folder / STATE, "pt") as file:
                said = dict(file.metadata())
            rows, seen = int(said.pop(ROWS)), int(said.pop(SEEN))
            if changed := [name for name in {**self._run, **said} if self._run.get(name) != said.get(name)]:
                LOGGER.warning(f"{self.folder} is of another run: {self._told(changed, said)}. Starting over")
                return self._anew()
            waiting = _read(self.folder / STATE, Candidates)
            parts = [_read(self._part(row), Detections) for row in range(rows)]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            LOGGER.warning(f"{self.folder} cannot be read ({error}). Starting over")
            return self._anew()
        return State(rows, seen, waiting, parts)

    def save(self, state: State) -> None:
        """Keep the state after a row; one that was killed at this leaves that of the row before."""
        _write(self._part(state.rows - 1), state.parts[-1])
        _write(self.folder / STATE, state.waiting, {**self._run, ROWS: str(state.rows), SEEN: str(state.seen)})

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _anew(self) -> State:
        self.remove()
        return State()

    def _part(self, row: int) -> Path:
        return self.folder / f"row-{row:05}.safetensors"

    def _told(self, changed: list[str], said: Mapping[str, str]) -> str:
        pairs = [(name, said.get(name, "not given"), self._run.get(name, "not given")) for name in changed]
        return "; ".join(f"{name} was {before}, is {now}" for name, before, now in pairs)


def model_digest(model: YOLO) -> str:
    """Return a hash of a model: of its file, or of its tensors if it has none.

    Tensors in memory are others after the first prediction, which fuses layers; the file stays.
    """
    digest = hashlib.sha256()
    # After a training the module, unlike `ckpt_path`, names the file that it is now; `load` leaves that of the module.
    file = model.model if isinstance(model.model, str) else model.ckpt_path and getattr(model.model, "pt_path", None)
    if file and Path(file).is_file():
        with Path(file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    elif isinstance(model.model, torch.nn.Module):
        for name, values in model.model.state_dict().items():
            digest.update(name.encode())
            digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(str(file).encode())
    return digest.hexdigest()


def source_stamp(source: str | Path | npt.NDArray[Any]) -> str:
    """Return what tells a scene from another one: place, size and time of its files, a hash of an image in memory.

    Files are those that GDAL reads with it, too: where it lies, and of what a mosaic is made.
    """
    if isinstance(source, np.ndarray):
        return f"{source.shape} {source.dtype} {hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()}"
    path = Path(source)
    if not path.is_file():
        return str(source)
    files, geo = companions(path)
    place = [f"at {geo.transform}, {geo.crs}"] if geo else []  # an .aux.xml may say so, which others write to
    return "; ".join([*map(_stamp, [path, *sorted(files - {path.resolve()})]), *place])


def _stamp(path: Path) -> str:
    about = path.stat()
    return f"{path.resolve()} of {about.st_size} bytes, {about.st_mtime_ns} ns"


def _write(path: Path, rows: Candidates | Detections | None, metadata: dict[str, str] | None = None) -> None:
    tensors = {}
    if rows is not None:
        plain = {"boxes": rows.boxes, "conf": rows.conf, "cls": rows.cls, "index": rows.index}
        tensors = {**plain, **{f"fields.{name}": values for name, values in rows.fields.items()}}
    with replacing(path) as part:
        # Views of one tensor cannot be saved side by side.
        save_file({name: values.contiguous().clone() for name, values in tensors.items()}, part, metadata)


def _read(path: Path, kind: type[T]) -> T | None:
    tensors = load_file(path)
    if not tensors:
        return None
    fields = {name: tensors.pop(name) for name in list(tensors) if name.startswith("fields.")}
    return kind(**tensors, fields={name.removeprefix("fields."): values for name, values in fields.items()})
