from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results

from yolo_uncert.engine.results import UncertResults

NAMES = {0: "cell", 1: "platelet"}


def changed(a, b):
    """Rows and columns of the pixels that differ."""
    return (np.asarray(a) != np.asarray(b)).any(-1)


class TestSummary:
    def test_values(self, image, detect):
        row = detect(image).summary()[1]
        assert row["std"] == {"x1": 2.0, "y1": 2.25, "x2": 2.5, "y2": 2.75}
        assert row["iou"] == 0.85
        assert {key: row[key] for key in ("name", "class", "confidence")} == {
            "name": "platelet",
            "class": 1,
            "confidence": 0.8,
        }

    def test_normalised(self, image, detect, oriented):
        assert detect(image).summary(normalize=True, decimals=6)[1]["std"] == {
            "x1": 0.005,  # 2 / 400
            "y1": 0.01125,  # 2.25 / 200
            "x2": 0.00625,
            "y2": 0.01375,
        }
        # the angle stays in radians
        assert oriented(image).summary(normalize=True)[0]["std"] == {
            "x": 0.005,
            "y": 0.02,
            "w": 0.015,
            "h": 0.04,
            "angle": 0.1,
        }

    def test_without_fields_it_is_the_stock_summary(self, image, detect, oriented, bare):
        assert bare(image).summary() == bare(image, Results).summary()
        assert "iou" not in oriented(image).summary()[0]
        assert UncertResults(image, "a.jpg", NAMES).summary() == []
        assert detect(image)[:0].summary() == []

    def test_decimals_and_unknown_values(self, image, detect, box_fields):
        std = box_fields["std"].clone() + 1 / 3
        std[0] = math.nan
        iou = torch.tensor([math.nan, 0.5, 0.5, 0.5])
        rows = detect(image, std=std, iou=iou).summary(decimals=2)
        assert rows[0]["std"] is None
        assert rows[0]["iou"] is None
        assert rows[1]["std"]["x1"] == 2.33

    def test_exports(self, image, make):
        result = make(image)
        first = result.summary()[0]["std"]
        assert json.loads(result.to_json())[0]["std"] == pytest.approx(first)
        frame = result.to_df()
        assert frame["std"].to_list()[0] == pytest.approx(first)
        assert "std" in result.to_csv().splitlines()[0].split(",")

    def test_exports_with_an_unknown_first_row(self, image, detect, box_fields):
        std = box_fields["std"].clone()
        std[0] = math.nan
        rows = json.loads(detect(image, std=std).to_json())
        assert rows[0]["std"] is None
        assert rows[1]["std"]["x1"] == 2.0


class TestSaveTxt:
    def lines(self, path):
        return [line.split() for line in path.read_text().splitlines()]

    @pytest.mark.parametrize("task", ["boxes", "obb"])
    @pytest.mark.parametrize("track", [False, True])
    def test_stock_columns_come_first_and_unchanged(self, image, tmp_path, task, track, detect, oriented):
        result = detect(image) if task == "boxes" else oriented(image)
        if track:
            data = getattr(result, task).data
            ids = torch.arange(len(data))[:, None] + 5
            result.update(**{task: torch.cat((data[:, :-2], ids, data[:, -2:]), 1)})
        stock = Results(image, "a.jpg", NAMES, **{task: getattr(result, task).data})
        stock.save_txt(tmp_path / "stock.txt", save_conf=True)
        assert result.save_txt(tmp_path / "new" / "ours.txt", save_conf=True) == str(tmp_path / "new" / "ours.txt")
        n = 4 if task == "boxes" else 5
        ours = self.lines(tmp_path / "new" / "ours.txt")
        assert [line[:-n] for line in ours] == self.lines(tmp_path / "stock.txt")
        stdn = getattr(result, task).stdn
        np.testing.assert_allclose(np.array([line[-n:] for line in ours], float), stdn, rtol=1e-5)

    def test_a_label_file_stays_a_label_file(self, image, tmp_path, detect, bare):
        detect(image).save_txt(tmp_path / "ours.txt")
        bare(image, Results).save_txt(tmp_path / "stock.txt")
        assert (tmp_path / "ours.txt").read_text() == (tmp_path / "stock.txt").read_text()

    @pytest.mark.parametrize(
        ("save_conf", "save_std", "columns"), [(False, True, 9), (True, False, 6), (True, True, 10)]
    )
    def test_explicit_choice(self, image, tmp_path, save_conf, save_std, columns, detect):
        detect(image).save_txt(tmp_path / "a.txt", save_conf, save_std)
        assert {len(line) for line in self.lines(tmp_path / "a.txt")} == {columns}

    def test_appends(self, image, tmp_path, detect):
        path = tmp_path / "a.txt"
        path.write_text("existing\n")
        detect(image).save_txt(path, save_conf=True)
        detect(image).save_txt(path, save_conf=True)
        lines = self.lines(path)
        assert lines[0] == ["existing"]
        assert lines[1:5] == lines[5:]
        assert len(lines) == 9

    def test_nothing_found_writes_no_file(self, image, tmp_path, detect):
        detect(image)[:0].save_txt(tmp_path / "a.txt", save_conf=True)
        UncertResults(image, "a.jpg", NAMES).save_txt(tmp_path / "a.txt", save_conf=True)
        assert not (tmp_path / "a.txt").exists()

    def test_without_std_it_is_the_stock_file(self, image, tmp_path, bare):
        bare(image).save_txt(tmp_path / "ours.txt", save_conf=True)
        bare(image, Results).save_txt(tmp_path / "stock.txt", save_conf=True)
        assert (tmp_path / "ours.txt").read_text() == (tmp_path / "stock.txt").read_text()
