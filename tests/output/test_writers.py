from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from yolo_uncert.output import WRITERS, CsvWriter, JsonLinesWriter, ParquetWriter, columns, lines_to_parquet
from yolo_uncert.run_options import ROW_FORMATS

SCRIPT = Path(__file__).with_name("writing.py")
spec = importlib.util.spec_from_file_location("writing", SCRIPT)
writing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writing)

ROWS = [writing.row(1), {**writing.row(2), **dict.fromkeys(("track_id", "time_s", "covariance", "iou"))}]
ROWS[1]["name"] = 'größe, "7"\nµm'


def read(path):
    """Rows of a file of any format, as they were written."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    kinds = columns("detect")
    parse = {list: json.loads, str: str, int: int, float: float}
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: parse[kinds[k]](v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]


def test_formats_of_the_option_are_those_with_a_writer():
    assert tuple(WRITERS) == ROW_FORMATS


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_read_is_what_was_written(name, tmp_path):
    path = tmp_path / f"a.{name}"
    with WRITERS[name](path, "detect") as writer:
        writer.write([])
        writer.write(ROWS[:1])
        writer.write([])
        writer.write(ROWS[1:])
    assert read(path) == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_run_without_boxes_leaves_a_file_with_the_same_columns(name, task, tmp_path):
    path = tmp_path / f"a.{name}"
    with WRITERS[name](path, task) as writer:
        writer.write([])
    if name == "jsonl":
        assert path.read_bytes() == b""
    elif name == "csv":
        assert path.read_text(encoding="utf-8") == ",".join(columns(task)) + "\n"
    else:
        kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, list: pl.List(pl.List(pl.Float64))}
        table = pl.read_parquet(path)
        assert table.schema == {name: kinds[kind] for name, kind in columns(task).items()}
        assert table.height == 0


@pytest.mark.parametrize("name", WRITERS)
def test_no_file_is_overwritten(name, tmp_path):
    path = tmp_path / f"a.{name}"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        WRITERS[name](path, "detect")
    assert path.read_text() == "precious"


def test_parquet_does_not_take_the_json_lines_of_another(tmp_path):
    with JsonLinesWriter(tmp_path / "a.jsonl", "detect") as other:
        other.write(ROWS)
    with pytest.raises(FileExistsError):
        ParquetWriter(tmp_path / "a.parquet", "detect")
    assert read(tmp_path / "a.jsonl") == ROWS


def test_parquet_keeps_its_json_lines_on_demand(tmp_path):
    with ParquetWriter(tmp_path / "a.parquet", "detect", keep_lines=True) as writer:
        writer.write(ROWS)
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "a.parquet") == ROWS


@pytest.mark.parametrize("name", WRITERS)
def test_an_error_completes_the_file(name, tmp_path):
    path = tmp_path / f"a.{name}"

    def run():
        with WRITERS[name](path, "detect") as writer:
            writer.write(ROWS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert read(path) == ROWS


def test_rows_are_in_the_file_before_it_is_closed(tmp_path):
    for writer in (CsvWriter(tmp_path / "a.csv", "detect"), JsonLinesWriter(tmp_path / "a.jsonl", "detect")):
        writer.write(ROWS)
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.jsonl") == ROWS


def test_a_line_that_was_cut_off_is_left_out_of_the_table(tmp_path):
    with JsonLinesWriter(tmp_path / "a.jsonl", "detect") as writer:
        writer.write(ROWS)
    whole = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(whole + whole[:100])
    lines_to_parquet(tmp_path / "a.jsonl", tmp_path / "a.parquet", "detect")
    assert read(tmp_path / "a.parquet") == ROWS
    assert (tmp_path / "a.jsonl").read_bytes() == whole + whole[:100], "the lines stay as they are"


def test_a_failed_conversion_keeps_the_lines(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError("no space left")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
    writer = ParquetWriter(tmp_path / "a.parquet", "detect")
    writer.write(ROWS)
    with pytest.raises(OSError, match="no space left"):
        writer.close()
    assert read(tmp_path / "a.jsonl") == ROWS
    assert not (tmp_path / "a.parquet").exists()


def test_a_killed_process_loses_nothing_that_it_had_written(tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path], stdout=subprocess.PIPE, text=True)
    written = 0
    for line in process.stdout:
        written = int(line)
        if written == 50:
            process.kill()
    process.wait()
    process.stdout.close()
    assert written >= 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["csv.csv", "jsonl.jsonl", "parquet.jsonl"]
    lines_to_parquet(tmp_path / "parquet.jsonl", tmp_path / "parquet.parquet", "detect")
    expected = [writing.row(frame) for frame in range(1, written + 1) for _ in range(3)]
    for name in ("csv.csv", "jsonl.jsonl", "parquet.parquet"):
        found = read(tmp_path / name)
        assert found[: len(expected)] == expected, name
        # The process may have written more before the signal arrived than it had said.
        assert all(row["frame"] > written for row in found[len(expected) :])
