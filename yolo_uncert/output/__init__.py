"""Detections as tables: one row per box, written while a run goes on as JSON lines, CSV or parquet."""

from __future__ import annotations

from yolo_uncert.output.record import record
from yolo_uncert.output.rows import columns, covariance, rows_of
from yolo_uncert.output.writers import WRITERS, CsvWriter, JsonLinesWriter, ParquetWriter, RowWriter, lines_to_parquet

__all__ = [
    "WRITERS",
    "CsvWriter",
    "JsonLinesWriter",
    "ParquetWriter",
    "RowWriter",
    "columns",
    "covariance",
    "lines_to_parquet",
    "record",
    "rows_of",
]
