"""Files that are whole at every moment, and values that JSON can hold."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is complete; on an error what was there stays.

    Args:
        target: The file; its folder is made.

    Yields:
        Where to write meanwhile, a file of the same name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=target.parent) as folder:
        part = Path(folder) / target.name
        yield part
        os.replace(part, target)


def check_folder(folder: Path, where: str) -> None:
    """Make a folder and see that files can be written to it, before the work whose results it is for.

    Args:
        folder: The folder.
        where: Start of the message.

    Raises:
        OSError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{where}: cannot write to {folder}: {error.strerror or error}") from error


def plain(value: Any) -> Any:
    """Return nested mappings, lists and tuples with plain numbers, None for those that are not finite."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
