"""DOTA's result and label files."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_uncert.evaluation import DotaDetections, corners, evaluate_dota, read_dota, read_dota_labels, write_dota

NAMES = ("small vehicle", "plane", "ship")
HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"


def some_detections(count: int = 20) -> DotaDetections:
    rng = np.random.default_rng(0)
    boxes = np.column_stack(
        (rng.uniform(0, 9000, (count, 2)), rng.uniform(5, 90, (count, 2)), rng.uniform(-2, 2, count))
    )
    images, classes = rng.choice(["P0001", "P0002__1024__0___824"], count), rng.choice(NAMES[:2], count)
    quads = corners(boxes).astype(np.float32)
    return DotaDetections(images, classes, rng.random(count).astype(np.float32), quads)


class TestResults:
    def test_line_by_hand(self, tmp_path):
        found = DotaDetections.of_image("P1", [[10, 20, 4, 2, 0]], ["plane"], [0.25])
        files = write_dota(tmp_path / "new" / "folder", found, ["plane"])
        assert [file.name for file in files] == ["Task1_plane.txt"]
        assert files[0].read_text() == "P1 0.25 12 21 8 21 8 19 12 19\n"

    def test_round_trip(self, tmp_path):
        found = some_detections()
        files = write_dota(tmp_path, found, NAMES)
        assert [file.name for file in files] == ["Task1_small-vehicle.txt", "Task1_plane.txt", "Task1_ship.txt"]
        assert sorted(tmp_path.iterdir()) == sorted(files)  # and no temporary file
        assert files[2].read_text() == ""
        read = read_dota(tmp_path)
        for name in ("plane", "small-vehicle"):
            ours, theirs = found.classes == name, read.classes == name
            assert ours.any()
            for column in ("images", "scores", "polygons"):
                written, back = getattr(found, column)[ours], getattr(read, column)[theirs]
                np.testing.assert_array_equal(back if column == "images" else back.astype(np.float32), written)

    def test_old_files_are_replaced(self, tmp_path):
        write_dota(tmp_path, some_detections(), NAMES)
        write_dota(tmp_path, some_detections(0), NAMES)
        assert len(read_dota(tmp_path).scores) == 0

    @pytest.mark.parametrize(
        "line",
        [
            "P1 0.5 1 2 3 4 5 6 7",
            "P1 0.5 1 2 3 4 5 6 7 8 9",
            "P1 high 1 2 3 4 5 6 7 8",
            "P1 nan 1 2 3 4 5 6 7 8",
        ],
    )
    def test_malformed_lines(self, tmp_path, line):
        good = "P1 0.5 0 0 1 0 1 1 0 1"
        (tmp_path / "Task1_plane.txt").write_text(f"{good}\n\n{line}\n")
        with pytest.raises(ValueError, match=r"Task1_plane\.txt, line 3: expected 'image score x1 .*', got 'P1"):
            read_dota(tmp_path)

    def test_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"has no Task1_\*\.txt"):
            read_dota(tmp_path)
        with pytest.raises(ValueError, match="class 'plane' is not among the names: ship"):
            write_dota(tmp_path, some_detections(), ["ship"])
        with pytest.raises(ValueError, match="same file name"):
            write_dota(tmp_path, some_detections(0), ["small vehicle", "small-vehicle"])
        with pytest.raises(ValueError, match="one word; got 'my image'"):
            write_dota(tmp_path, DotaDetections.of_image("my image", [[1, 1, 1, 1, 0]], ["ship"], [1]), ["ship"])


class TestLabels:
    def test_by_hand(self, tmp_path):
        (tmp_path / "P1.txt").write_text(
            f"{HEADER}0 0 4.0 0 4 2 0 2 small-vehicle 1\n\n0 0 1 0 1 1 0 1 plane 0\n0 0 1 0 1 1 0 1 ship\n"
        )
        (tmp_path / "P2.txt").write_text(HEADER)
        truth = read_dota_labels(tmp_path)
        assert truth.images.tolist() == ["P1"] * 3
        assert truth.classes.tolist() == ["small-vehicle", "plane", "ship"]
        assert truth.difficult.tolist() == [True, False, False]
        assert truth.polygons[0].tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
        assert truth.empty == ("P2",)

    @pytest.mark.parametrize(
        "line", ["0 0 1 0 1 1 0 1", "0 0 1 0 1 1 0 x plane 0", "0 0 1 0 1 1 0 1 plane no", "0 0 1 0 1 1 0 1 a b 0"]
    )
    def test_malformed_lines(self, tmp_path, line):
        (tmp_path / "P7.txt").write_text(f"{HEADER}{line}\n")
        with pytest.raises(ValueError, match=r"P7\.txt, line 3: expected 'x1 y1 .* class difficult', got '0 0 1"):
            read_dota_labels(tmp_path)

    def test_empty_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"has no \*\.txt"):
            read_dota_labels(tmp_path)

    def test_files_meet_boxes(self, tmp_path):
        # Names with a space, as data yamls have them, and those of the files are the same class.
        (tmp_path / "P1.txt").write_text("8 19 12 19 12 21 8 21 small-vehicle 0\n")
        found = DotaDetections.of_image("P1", [[10, 20, 4, 2, 0]], ["small vehicle"], [0.5])
        assert evaluate_dota(found, read_dota_labels(tmp_path)).mean()["AP"] == pytest.approx(1)
