"""Writers of detection rows. What they were given is in a readable file at once, whatever ends the process."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from yolo_uncert.output.rows import columns

if TYPE_CHECKING:
    from typing_extensions import Self

Row = Mapping[str, Any]


class RowWriter(Protocol):
    """A file of detection rows, and a context manager that closes it.

    ``RowWriter(path, task)`` makes a new file, never one in place of another, for the columns of ``detect`` or ``obb``.
    """

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of one frame, see ``rows_of``; they are in the file when this returns."""

    def close(self) -> None:
        """Complete the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonLinesWriter(RowWriter):
    """One JSON object per line; a missing value is null.

    Args:
        path: File to make.
        task: ``detect`` or ``obb``.

    Raises:
        FileExistsError: The file is there already.
    """

    def __init__(self, path: Path, task: str) -> None:
        self._names = tuple(columns(task))
        self._file = path.open("x", encoding="utf-8", newline="\n")

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of one frame."""
        lines = (json.dumps({name: row[name] for name in self._names}, ensure_ascii=False) for row in rows)
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvWriter(RowWriter):
    """Comma-separated values with a header; a missing value is empty, a matrix is JSON text.

    Args:
        path: File to make.
        task: ``detect`` or ``obb``.

    Raises:
        FileExistsError: The file is there already.
    """

    def __init__(self, path: Path, task: str) -> None:
        self._file = path.open("x", encoding="utf-8", newline="")
        self._table = csv.DictWriter(self._file, columns(task), lineterminator="\n")
        self._table.writeheader()
        self._file.flush()

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of one frame."""
        self._table.writerows(
            {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in rows
        )
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ParquetWriter(RowWriter):
    """A parquet file, made at the end of the JSON lines that are written until then.

    A parquet file without its last bytes is lost as a whole. Rows therefore go to a file of the same name with the
    suffix ``.jsonl``, which is removed when the table is complete and stays when the process is killed before.

    Args:
        path: File to make.
        task: ``detect`` or ``obb``.
        keep_lines: The JSON lines stay, too.

    Raises:
        FileExistsError: The file or that of the JSON lines is there already.
    """

    def __init__(self, path: Path, task: str, *, keep_lines: bool = False) -> None:
        if path.exists():
            raise FileExistsError(f"{path} is there already")
        self._path, self._task, self._keep = path, task, keep_lines
        self._journal = path.with_suffix(".jsonl")
        self._lines = JsonLinesWriter(self._journal, task)

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of one frame to the JSON lines."""
        self._lines.write(rows)

    def close(self) -> None:
        """Make the table of the JSON lines."""
        self._lines.close()
        lines_to_parquet(self._journal, self._path, self._task)
        if not self._keep:
            self._journal.unlink()


WRITERS: dict[str, type[JsonLinesWriter] | type[CsvWriter] | type[ParquetWriter]] = {
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
}
"""Writer of each format; the name is also the suffix of its file."""


def lines_to_parquet(lines: Path, parquet: Path, task: str) -> None:
    """Make a parquet file of JSON lines, such as a killed run leaves.

    A last line that was cut off is left out. The parquet file appears when it is complete.

    Args:
        lines: File of a :class:`JsonLinesWriter`.
        parquet: File to make or replace.
        task: ``detect`` or ``obb``.
    """
    import polars as pl  # not before it is needed: few runs write parquet

    kinds: dict[type, Any] = {str: pl.String, int: pl.Int64, float: pl.Float64, list: pl.List(pl.List(pl.Float64))}
    schema = {name: kinds[kind] for name, kind in columns(task).items()}
    source: Path | BytesIO = lines
    if not _is_whole(lines):
        content = lines.read_bytes()
        source = BytesIO(content[: content.rfind(b"\n") + 1])
    incomplete = parquet.with_name(f"{parquet.name}.incomplete")
    pl.scan_ndjson(source, schema=schema).sink_parquet(incomplete)
    incomplete.replace(parquet)


def _is_whole(lines: Path) -> bool:
    """Return whether the last line has its end."""
    with lines.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
