"""The script that holds dates out of a training split for tuning."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics.data.utils import check_det_dataset

SPEC = importlib.util.spec_from_file_location("hold_out", Path(__file__).parents[1] / "experiments/hold_out.py")
hold_out = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(hold_out)

DATES = {"a": "20210101", "b": "20210102", "c": "20210103", "d": "20210102"}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "flights"
    (folder / "images/train").mkdir(parents=True)
    for name in DATES:
        cv2.imwrite(str(folder / f"images/train/{name}.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "meta.json").write_text(json.dumps({name: {"date": date} for name, date in DATES.items()}))
    return folder


def test_images_go_by_their_date_into_a_data_set_that_loads(source, tmp_path):
    counts = hold_out.hold_out(source, {"20210102"}, tmp_path / "tune", {0: "Car"})
    assert counts == (2, 2)
    data = check_det_dataset(str(tmp_path / "tune/data.yaml"))
    found = {split: [Path(line).stem for line in Path(data[split]).read_text().split()] for split in ("train", "val")}
    assert found == {"train": ["a", "c"], "val": ["b", "d"]}
    assert all(Path(line).is_file() for line in Path(data["train"]).read_text().split())
    assert data["names"] == {0: "Car"}


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"20210102", "1999"}, "has the date 1999"),
        (set(DATES.values()), "all training images are of the dates held out"),
    ],
)
def test_dates_that_leave_nothing_are_refused(source, tmp_path, dates, message):
    with pytest.raises(ValueError, match=message):
        hold_out.hold_out(source, dates, tmp_path / "tune", {0: "Car"})
    assert not (tmp_path / "tune").exists()


def test_an_image_without_a_date_is_named(source, tmp_path):
    (source / "meta.json").write_text(json.dumps({"a": {"date": "20210101"}}))
    with pytest.raises(KeyError, match="b"):
        hold_out.hold_out(source, {"20210101"}, tmp_path / "tune", {0: "Car"})
