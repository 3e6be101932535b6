"""COCO's numbers: by hand, upstream's own summary, and the same from both backends."""

from __future__ import annotations

import copy
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_uncert.evaluation import CocoImage, coco_detections, coco_ground_truth, evaluate_coco

ROWS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
ROWS += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]
NAMES = {0: "red", 1: "white"}


@pytest.fixture(params=["pycocotools", "hotcoco"])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def tiny_truth() -> dict[str, Any]:
    """Two images with a medium box (50 x 50 pixels) of class 0 each; no object of class 1."""
    box = [[10.0, 10.0, 60.0, 60.0]]
    return coco_ground_truth([CocoImage(3, 480, 640, box, [0]), CocoImage(8, 480, 640, box, [0])], NAMES)


def random_case(seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Noisy detections of small, medium and large objects, with crowds, empty images and equal scores."""
    rng = np.random.default_rng(seed)
    images, rows = [], []
    for image in range(30):
        count = int(rng.integers(0, 7))
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.hstack((corner, corner + np.exp(rng.uniform(2, 5.3, (count, 2)))))
        classes = rng.integers(0, 3, count)
        images.append(CocoImage(image, 480, 640, boxes, classes))
        chosen = rng.integers(0, count, 12) if count else np.zeros(0, dtype=int)
        found = boxes[chosen] + rng.normal(0, 4, (len(chosen), 4))
        wrong = rng.random(len(chosen)) < 0.2
        scores = rng.random(len(chosen)).round(1)
        rows += coco_detections(image, found, np.where(wrong, 1, classes[chosen]), scores)
    truth = coco_ground_truth(images, {0: "a", 1: "b", 2: "c", 3: "never there"})
    for annotation in truth["annotations"][::9]:
        annotation["iscrowd"] = 1
    return truth, rows


def upstream(truth: dict[str, Any], rows: list[dict[str, Any]]) -> list[float]:
    """The summary of pycocotools, by its own way of loading."""
    data = COCO()
    data.dataset = copy.deepcopy(truth)
    data.createIndex()
    evaluator = COCOeval(data, data.loadRes(copy.deepcopy(rows)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return list(evaluator.stats)


class TestRows:
    def test_ground_truth_by_hand(self):
        truth = coco_ground_truth(
            [CocoImage(7, 100, 200, [[1, 2, 4, 8]], [1]), CocoImage(9, 50, 60, [], [])], NAMES, category_ids=[1, 90]
        )
        assert truth == {
            "images": [{"id": 7, "height": 100, "width": 200}, {"id": 9, "height": 50, "width": 60}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0}
            ],
            "categories": [{"id": 1, "name": "red"}, {"id": 90, "name": "white"}],
        }

    def test_detections_by_hand(self):
        rows = coco_detections(7, [[1, 2, 4, 8], [0, 0, 5, 5]], [1, 0], np.array([0.5, 0.25], np.float32))
        assert rows == [
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 6], "score": 0.5},
            {"image_id": 7, "category_id": 0, "bbox": [0, 0, 5, 5], "score": 0.25},
        ]
        assert coco_detections(7, np.zeros((0, 4)), [], []) == []

    def test_json_can_write_them(self):
        truth = coco_ground_truth(
            [CocoImage(np.int64(7), np.int32(9), 9, np.ones((1, 4), np.float32), np.array([0.0]))], NAMES
        )
        rows = coco_detections(np.int64(7), np.ones((1, 4), np.float32), np.array([0.0]), np.ones(1, np.float32))
        assert json.loads(json.dumps([truth, rows])) == [truth, rows]

    def test_errors(self):
        with pytest.raises(ValueError, match="image 7 has objects of class 5"):
            coco_ground_truth([CocoImage(7, 9, 9, [[0, 0, 1, 1]], [5])], NAMES)
        with pytest.raises(ValueError, match="same id"):
            coco_ground_truth([CocoImage(7, 9, 9, [], []), CocoImage(7, 9, 9, [], [])], NAMES)
        with pytest.raises(ValueError, match=r"must be \[1, 4\]; got \[1, 5\]"):
            coco_detections(7, [[0, 0, 1, 1, 0.3]], [0], [1.0])
        with pytest.raises(ValueError, match="1 classes, 2 scores"):
            coco_detections(7, [[0, 0, 1, 1]], [0], [1.0, 0.5])


class TestNumbers:
    def test_by_hand(self, backend):
        # Image 3 is hit with IoU 45 / 50 = 0.9, which counts at 9 of the 10 thresholds; a box beside it has more score;
        # nothing in image 8. So precision is 1/2 up to a recall of 1/2: 51 of the 101 levels, 0.00 to 0.50.
        rows = coco_detections(3, [[10, 10, 60, 55], [200, 200, 250, 250]], [0, 0], [0.8, 0.9])
        result = evaluate_coco(tiny_truth(), rows, backend)
        assert list(result) == ROWS
        level = 51 / 101 / 2
        assert result["AP50"] == result["AP75"] == pytest.approx(level, abs=1e-12)
        assert result["AP"] == result["AP_medium"] == pytest.approx(0.9 * level, abs=1e-12)
        # The best detection of the image is the wrong one; two detections find one of two objects.
        assert result["AR_1"] == 0
        assert result["AR_10"] == result["AR_100"] == result["AR_medium"] == pytest.approx(0.9 / 2, abs=1e-12)
        assert all(math.isnan(result[row]) for row in ("AP_small", "AP_large", "AR_small", "AR_large"))

    def test_perfect_detections(self, backend):
        truth = tiny_truth()
        rows = [{**annotation, "score": 0.5} for annotation in truth["annotations"]]
        result = evaluate_coco(truth, rows, backend)
        assert [result[row] for row in ("AP", "AP_medium", "AR_1", "AR_100")] == pytest.approx([1.0] * 4, abs=1e-12)

    def test_no_detections(self, backend):
        result = evaluate_coco(tiny_truth(), [], backend)
        assert [result[row] for row in ("AP", "AP50", "AP75", "AP_medium", "AR_1", "AR_100")] == [0] * 6
        assert math.isnan(result["AP_small"])

    @pytest.mark.parametrize("seed", range(3))
    def test_the_numbers_of_upstream(self, backend, seed):
        case = random_case(seed)
        np.testing.assert_allclose(list(evaluate_coco(*case, backend).values()), upstream(*case), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("options", [{}, {"max_dets": (1, 3)}, {"image_ids": range(5, 25)}])
    def test_both_backends_agree(self, options):
        pytest.importorskip("hotcoco")
        case = random_case(7)
        results = [evaluate_coco(*case, backend, **options) for backend in ("pycocotools", "hotcoco", "auto")]
        assert list(results[0]) == list(results[1])
        values = [list(result.values()) for result in results]
        np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=0, atol=1e-12)

    def test_number_of_detections(self, backend):
        rows = coco_detections(3, [[10, 10, 60, 60]] * 2, [0, 0], [0.9, 0.8])
        rows += coco_detections(8, [[300, 300, 350, 350], [10, 10, 60, 60]], [0, 0], [0.9, 0.8])
        few, more = (evaluate_coco(tiny_truth(), rows, backend, max_dets=(1, count)) for count in (2, 300))
        assert list(few)[6:8] == ["AR_1", "AR_2"]
        assert [few["AR_1"], few["AR_2"]] == [0.5, 1]
        assert few["AP"] == more["AP"]

    def test_images_can_be_chosen(self, backend):
        rows = coco_detections(3, [[10, 10, 60, 60]], [0], [0.9]) + coco_detections(8, [[0, 0, 9, 9]], [0], [0.95])
        assert evaluate_coco(tiny_truth(), rows, backend, image_ids=[3])["AP"] == pytest.approx(1, abs=1e-12)
        assert evaluate_coco(tiny_truth(), rows, backend, image_ids={8})["AP"] == 0

    def test_an_object_numbered_zero_can_be_found(self, backend):
        # pycocotools itself reads match number 0 as "not matched".
        truth = tiny_truth()
        for number, annotation in enumerate(truth["annotations"]):
            annotation["id"] = number
        rows = [{**annotation, "score": 0.5} for annotation in truth["annotations"]]
        assert evaluate_coco(truth, rows, backend)["AP"] == pytest.approx(1, abs=1e-12)

    def test_area_and_crowd_are_optional(self, backend):
        truth = tiny_truth()
        short = {
            **truth,
            "annotations": [{k: a[k] for k in ("image_id", "category_id", "bbox")} for a in truth["annotations"]],
        }
        rows = [{**annotation, "score": 0.5} for annotation in truth["annotations"]]
        np.testing.assert_equal(evaluate_coco(short, rows, backend), evaluate_coco(truth, rows, backend))


class TestBehaviour:
    def test_files(self, tmp_path, backend):
        truth, rows = random_case()
        paths = tmp_path / "truth.json", tmp_path / "found.json"
        for path, content in zip(paths, (truth, rows), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        expected = evaluate_coco(truth, rows, backend)
        assert evaluate_coco(paths[0], str(paths[1]), backend) == expected

    def test_nothing_is_printed_or_changed(self, backend, capfd):
        case = random_case()
        before = copy.deepcopy(case)
        evaluate_coco(*case, backend)
        assert case == before
        assert capfd.readouterr() == ("", "")

    def test_auto_falls_back(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "hotcoco", None)
        case = random_case()
        assert evaluate_coco(*case) == evaluate_coco(*case, "pycocotools")

    def test_backend_errors(self, monkeypatch):
        with pytest.raises(ValueError, match="auto, pycocotools, hotcoco; got 'fast'"):
            evaluate_coco(tiny_truth(), [], "fast")
        monkeypatch.setitem(sys.modules, "hotcoco", None)
        with pytest.raises(ModuleNotFoundError, match="pip install hotcoco"):
            evaluate_coco(tiny_truth(), [], "hotcoco")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"annotations": []}, "no annotations"),
            ({"images": []}, "no images"),
            ({"categories": [{"id": 5, "name": "other"}]}, "1 category_id are not among the categories .* truth: 0"),
            ({"images": [{"id": 3}]}, "1 image_id are not among the images .* truth: 8"),
            ({"annotations": [{"image_id": 3, "category_id": 0}]}, r"annotation needs .* KeyError\('bbox'\)"),
        ],
    )
    def test_bad_truth(self, change, message):
        with pytest.raises(ValueError, match=message):
            evaluate_coco({**tiny_truth(), **change}, [])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"category_id": 4}, "1 category_id are not among the categories .* truth: 4"),
            ({"image_id": "3"}, "1 image_id are not among the images .* truth: '3'"),
            ({"bbox": [1, 2, 3]}, "detection needs"),
            ({"score": None}, "finite numbers"),
            ({"bbox": [1, 2, 3, math.inf]}, "finite numbers"),
        ],
    )
    def test_bad_detections(self, change, message):
        row = coco_detections(3, [[0, 0, 1, 1]], [0], [0.5])[0]
        with pytest.raises(ValueError, match=message):
            evaluate_coco(tiny_truth(), [{**row, **change}])

    def test_other_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.json"):
            evaluate_coco(tmp_path / "gone.json", [])
        with pytest.raises(ValueError, match=r"max_dets must be ascending .* got \(10, 1\)"):
            evaluate_coco(tiny_truth(), [], max_dets=(10, 1))
        with pytest.raises(ValueError, match=r"image_ids must name images .* got \[5\]"):
            evaluate_coco(tiny_truth(), [], image_ids=[3, 5])
        truth = coco_ground_truth([CocoImage(1, 9, 9, [[0, 0, 1, 1]], [0]), CocoImage(2, 9, 9, [], [])], NAMES)
        with pytest.raises(ValueError, match="no annotations in the images"):
            evaluate_coco(truth, [], image_ids=[2])
