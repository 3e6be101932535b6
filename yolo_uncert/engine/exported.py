"""Exported files: the size that they were made for, and files of earlier exports that a new one must not take away."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ultralytics.nn.backends.base import BaseBackend
from ultralytics.utils import LOGGER

WRITTEN = (".onnx", ".torchscript")
"""Suffixes of the files that an export writes, or passes through on its way to another format."""

FLOATS = ("none", "16", "fp16", "w16a16", "32", "fp32", "w32a32")
"""Values of ``quantize`` that keep floating-point numbers; all others are calibrated on images."""


def is_quantized(options: Mapping[str, Any]) -> bool:
    """Whether an export is to integers, which takes images, and passes through a file of floating-point numbers."""
    return str(options.get("quantize")).lower() not in FLOATS


def with_size(model: Any, options: Mapping[str, Any], overrides: Mapping[str, Any], *, square: bool) -> dict[str, Any]:
    """Return the options of a run with the size of the exported file, for which Ultralytics would take 640 instead.

    Args:
        model: Path of an exported file; anything else leaves the options as they are.
        options: Options of the run.
        overrides: Further ones, of the facade.
        square: The run takes one number for both sides.
    """
    given = options.get("imgsz", overrides.get("imgsz"))
    file = Path(model) if isinstance(model, str) else None
    size, dynamic = _made_for(file, file.stat().st_mtime_ns) if file and file.exists() else (None, False)
    if size and given is None:
        return {**options, "imgsz": max(size) if square or len(set(size)) == 1 else list(size)}
    if size and not dynamic and str(given) not in (str(size[0]) if len(set(size)) == 1 else "", str(list(size))):
        _warn_once(f"{model} was exported for imgsz={','.join(map(str, size))}: imgsz={given} has no effect")
    return dict(options)


@contextmanager
def keeping(model: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Put the files of earlier exports back if a new export fails, or passes through them to another format.

    Args:
        model: What is exported; if it came from a checkpoint, the files lie beside that under its name.
        options: Those of the export.
    """
    form, source = str(options.get("format", "torchscript")), getattr(model, "pt_path", None)
    stem = Path(source).with_suffix("") if source else None
    files = [file for suffix in WRITTEN if stem and (file := stem.with_suffix(suffix)).is_file()]
    passed = [file for file in files if file.suffix != f".{form}" or is_quantized(options)]
    with TemporaryDirectory() as folder:
        copies = {file: Path(folder, file.name) for file in files}
        for file, copy in copies.items():
            copy.write_bytes(file.read_bytes())
        lost = files
        try:
            yield
            lost = passed
        finally:
            for file in lost:
                file.write_bytes(copies[file].read_bytes())


@cache
def _made_for(file: Path, changed: int) -> tuple[tuple[int, ...] | None, bool]:
    """Return the height and width that a file was exported for, None if it does not say, and whether others do, too.

    Args:
        file: The file.
        changed: When it was written, so that it is read again after a new export.
    """
    metadata = {k: _value(v) for k, v in BaseBackend.read_metadata(file).items() if k in ("imgsz", "args")}
    size, args = metadata.get("imgsz"), metadata.get("args") or {}
    return tuple(map(int, size)) if isinstance(size, (list, tuple)) else None, bool(args.get("dynamic"))


def _value(entry: Any) -> Any:
    return literal_eval(entry) if isinstance(entry, str) else entry


@cache
def _warn_once(text: str) -> None:
    LOGGER.warning(text)
