from __future__ import annotations

import csv
import json
import math
import shutil
from contextlib import suppress

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from torch.testing import assert_close

from yolo_uncert import YOLO
from yolo_uncert.engine.metrics import KEYS
from yolo_uncert.engine.val import UncertDetectionValidator, UncertOBBValidator
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD
from yolo_uncert.options import OptionError

QUIET = {"imgsz": 64, "batch": 8, "plots": False, "device": "cpu", "workers": 0}


def validate(weights, tiny, tmp_path, task="detect", facade=YOLO, **options):
    given = {**QUIET, "data": str(tiny.data(task)), "project": str(tmp_path), "name": "val", "exist_ok": True}
    return facade(weights).val(**{**given, **options})


def ours(results):
    """Results on sigma."""
    return {k: v for k, v in results.items() if k.startswith("uncert/")}


def stock(results):
    """Results that Ultralytics has."""
    further = [f"metrics/mAP{level}(B)" for level in (60, 70, 75, 80, 90, 95)]
    return {k: v for k, v in results.items() if not k.startswith(("uncert/", "scores/")) and k not in further}


# --- matching, by hand ------------------------------------------------------------------------------------------------


@pytest.fixture
def detect(tmp_path):
    return UncertDetectionValidator(save_dir=tmp_path, args={"task": "detect", "iou_alpha": 0.3})


@pytest.fixture
def obb(tmp_path):
    return UncertOBBValidator(save_dir=tmp_path, args={"task": "obb"})


def detections(boxes, cls, std):
    """Detections by descending score."""
    std = torch.tensor(std)
    return {
        "bboxes": torch.tensor(boxes),
        "cls": torch.tensor(cls),
        "conf": torch.linspace(0.9, 0.1, len(cls)),
        "std": std,
    }


def objects(boxes, cls, gain=1.0):
    """Ground truth of an image in network pixels; the padding makes the shapes useless for finding the gain."""
    ratio_pad = ((gain, gain), (12.0, 3.0))
    return {
        "bboxes": torch.tensor(boxes),
        "cls": torch.tensor(cls),
        "ratio_pad": ratio_pad,
        "imgsz": (999, 999),
        "ori_shape": (7, 7),
        "im_file": "images/a.jpg",
    }


SQUARES = [[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]


def test_each_object_is_measured_by_its_best_scored_detection(detect):
    boxes = [[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [20.0, 1.0, 30.0, 10.0]]
    std = [[1.0] * 4, [2.0] * 4, [3.0] * 4, [1.0, 2.0, 3.0, 4.0]]
    # The second finds its object taken, the third is of the wrong class.
    stats = detect._process_batch(detections(boxes, [0.0, 0.0, 0.0, 1.0], std), objects(SQUARES, [0.0, 1.0]))
    assert np.array_equal(stats["residual"], [[0, 0, 0, 2], [0, -1, 0, 0]]), "truth minus prediction"
    assert np.array_equal(stats["sigma"], [[1, 1, 1, 1], [1, 2, 3, 4]])
    assert stats["tp"].shape == (4, 10)


def test_detection_takes_the_best_object_that_is_left(detect):
    truth = [[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    stats = detect._process_batch(
        detections([[0.0, 0.0, 10.0, 10.0]] * 2, [0.0, 0.0], [[1.0] * 4] * 2), objects(truth, [0.0, 0.0])
    )
    assert np.array_equal(stats["residual"], [[0, 0, 0, 0], [2, 0, 2, 0]])


@pytest.mark.parametrize(("width", "matched"), [(4.9, 0), (5.1, 1)])
def test_match_needs_half_of_the_union(detect, width, matched):
    found = detections([[0.0, 0.0, width, 10.0]], [0.0], [[1.0] * 4])
    assert len(detect._process_batch(found, objects(SQUARES, [0.0, 1.0]))["residual"]) == matched


def test_residual_and_sigma_are_in_pixels_of_the_original_image(detect):
    found = detections([[0.0, 0.0, 10.0, 8.0]], [0.0], [[1.0, 2.0, 3.0, 4.0]])
    stats = detect._process_batch(found, objects(SQUARES, [0.0, 1.0], gain=0.5))
    assert np.array_equal(stats["residual"], [[0, 0, 0, 4]])
    assert np.array_equal(stats["sigma"], [[2, 4, 6, 8]])


def test_boxes_lose_their_padding(detect, obb):
    detect.training = obb.training = False  # while training, nobody asks for boxes
    found = detections([[12.0, 3.0, 32.0, 23.0]], [0.0], [[1.0] * 4])
    stats = detect._process_batch(found, objects([[14.0, 3.0, 32.0, 23.0]], [0.0], gain=2.0))
    assert stats["boxes"].tolist() == [[0, 0, 10, 10]]
    assert stats["target_boxes"].tolist() == [[1, 0, 10, 10]]
    found = detections([[32.0, 23.0, 20.0, 8.0, 0.5]], [0.0], [[1.0] * 5])
    stats = obb._process_batch(found, objects([[32.0, 25.0, 20.0, 8.0, 0.5]], [0.0], gain=2.0))
    assert stats["boxes"].tolist() == [[10, 10, 10, 4, 0.5]]
    assert stats["target_boxes"].tolist() == [[10, 11, 10, 4, 0.5]]


def test_oriented_residual_compares_the_same_name_of_a_rectangle(obb):
    truth = [[50.0, 50.0, 40.0, 10.0, 0.4]]
    turned = [[50.0, 52.0, 10.0, 42.0, 0.3 - math.pi / 2]]  # width along the short side
    found = detections(turned, [0.0], [[1.0, 2.0, 3.0, 4.0, 0.1]])
    stats = obb._process_batch(found, objects(truth, [0.0], gain=2.0))
    assert stats["residual"] == pytest.approx(np.array([[0, -1, 0, -1, 0.1]]), abs=1e-5)
    assert stats["sigma"] == pytest.approx(np.array([[0.5, 1, 1.5, 2, 0.1]]), abs=1e-6)


def test_axes_of_a_long_image_are_scaled_apart(detect, obb):
    # 1500 x 101 px at 320: the height is rounded up to 22, so that y has a gain of 22 / 101 and x one of 320 / 1500.
    gains = (22 / 101, 320 / 1500)
    batch = {**objects([[0.0, 0.0, 32.0, 22.0]], [0.0]), "ratio_pad": (gains, (0.0, 0.0))}
    stats = detect._process_batch(detections([[0.0, 0.0, 32.0, 20.0]], [0.0], [[1.0] * 4]), batch)
    assert stats["matched"][0, :4] == pytest.approx([0, 0, 150, 20 * 101 / 22])
    assert stats["residual"][0] == pytest.approx([0, 0, 0, 2 * 101 / 22])
    assert stats["sigma"][0] == pytest.approx([1500 / 320, 101 / 22] * 2)
    batch = {**objects([[16.0, 11.0, 32.0, 22.0, 0.0]], [0.0]), "ratio_pad": (gains, (0.0, 0.0))}
    stats = obb._process_batch(detections([[16.0, 11.0, 32.0, 22.0, 0.0]], [0.0], [[1.0] * 5]), batch)
    assert stats["matched"][0, :2] == pytest.approx([75, 50.5])
    assert stats["sigma"][0, 4] == 1


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_nothing_to_match(detect, obb, task):
    validator, columns = (detect, 4) if task == "detect" else (obb, 5)
    some = detections([[5.0] * columns], [0.0], [[1.0] * columns])
    none = {"bboxes": torch.zeros(0, columns), "cls": torch.zeros(0), "conf": torch.zeros(0)}
    for found, truth in (
        ({**none, "std": torch.zeros(0, columns)}, objects([[5.0] * columns], [0.0])),
        (some, {**objects([], []), "bboxes": torch.zeros(0, columns), "cls": torch.zeros(0)}),
    ):
        stats = validator._process_batch(found, truth)
        assert stats["residual"].shape == stats["sigma"].shape == (0, columns)


def test_sigma_of_a_model_without_it_is_unknown(detect):
    found = {**detections([SQUARES[0]], [0.0], [[1.0] * 4]), "std": torch.zeros(1, 0)}
    stats = detect._process_batch(found, objects(SQUARES, [0.0, 1.0]))
    assert stats["residual"].tolist() == [[0, 0, 0, 0]]
    assert np.isnan(stats["sigma"]).all()


def test_predictions_are_scaled_with_their_sigma(detect):
    found = detections([[12.0, 3.0, 22.0, 13.0]], [0.0], [[1.0, 2.0, 3.0, 4.0]])
    scaled = detect.scale_preds(found, {**objects(SQUARES, [0.0, 1.0], gain=0.5), "ori_shape": (100, 100)})
    assert_close(scaled["bboxes"], torch.tensor([[0.0, 0.0, 20.0, 20.0]]))
    assert_close(scaled["std"], torch.tensor([[2.0, 4.0, 6.0, 8.0]]))
    assert_close(found["std"], torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


def test_options_are_kept_and_checked(detect, tmp_path):
    assert (detect.args.iou_alpha, detect.args.sigma_source) == (0.3, None)
    with pytest.raises(OptionError, match="val: iou_alpha must be at most 1"):
        UncertDetectionValidator(save_dir=tmp_path, args={"iou_alpha": 2})


# --- a whole validation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [("detect", "detect"), ("obb", "obb"), ("e2e", "detect")])
def test_validation_measures_sigma(tiny, tmp_path, caplog, kind, task):
    weights = tiny.weights(kind)
    caplog.clear()
    metrics = validate(weights, tiny, tmp_path, task, plots=kind == "obb")
    prefixes = ["", "angle_"] if task == "obb" else [""]
    results = ours(metrics.results_dict)
    assert list(results) == [f"uncert/{p}{key}" for p in prefixes for key in KEYS if (p, key) != ("angle_", "relative")]
    assert all(math.isfinite(v) for v in results.values())
    assert results["uncert/sharpness"] == metrics.sigma.sharpness > 0
    printed = "\n".join(caplog.messages)
    for caption in ("AP at IoU", "Sigma (px)", "Coverage", "Scores"):
        assert f"{caption:>22} " in printed
    assert f"{'all':>22}{metrics.sigma.n:>11}" in printed
    assert ("all angle (rad)" in printed) == (task == "obb")
    written = json.loads((tmp_path / "val" / "uncertainty.json").read_text(encoding="utf-8"))
    assert written["results"] == pytest.approx(metrics.results_dict, nan_ok=True)
    assert written["sigma"]["all"]["nll"] == metrics.sigma.nll
    assert written["settings"]["suppress"] == "hard"
    table = list(csv.DictReader((tmp_path / "val" / "uncertainty.csv").open(encoding="utf-8")))
    assert table[0]["class"] == "all"
    assert float(table[0]["nll"]) == metrics.sigma.nll


def test_end_to_end_head_is_validated_too(tiny, tmp_path):
    assert ours(validate(tiny.weights("e2e"), tiny, tmp_path, nms=False, conf=1e-5).results_dict)


@pytest.mark.parametrize(("source", "angle"), [("dfl", False), ("gaussian", True)])
def test_source_of_sigma_can_be_chosen(tiny, tmp_path, source, angle):
    metrics = validate(tiny.weights("obb"), tiny, tmp_path, "obb", sigma_source=source)
    assert metrics.sigma.n > 0
    assert (metrics.angle_sigma is not None) == angle


def test_without_sigma_there_are_no_numbers_on_it(tiny, tmp_path, caplog):
    metrics = validate(tiny.weights("detect"), tiny, tmp_path, sigma_source="none")
    assert ours(metrics.results_dict) == {}
    assert "Sigma (px)" not in "\n".join(caplog.messages)


def test_sigma_source_leaves_the_detection_metrics_alone(tiny, tmp_path):
    all_results = [
        validate(tiny.weights("detect"), tiny, tmp_path, sigma_source=s).results_dict for s in ("none", "dfl", None)
    ]
    assert stock(all_results[0]) == stock(all_results[1]) == stock(all_results[2])


@pytest.mark.parametrize("options", [{}, {"rect": False}, {"single_cls": True}, {"agnostic_nms": True, "iou": 0.3}])
def test_stock_model_validates_as_in_ultralytics(tiny, tmp_path, options):
    results = [
        validate(tiny.weights("stock"), tiny, tmp_path, facade=facade, **options).results_dict
        for facade in (YOLO, ultralytics.YOLO)
    ]
    assert stock(results[0]) == results[1]
    assert results[0]["metrics/mAP50(B)"] > 0
    assert results[0]["metrics/mAP50(B)"] >= results[0]["metrics/mAP75(B)"] >= results[0]["metrics/mAP95(B)"]


def test_stock_model_can_be_validated_with_dfl_moments(tiny, tmp_path):
    model = YOLO(tiny.weights("stock"))
    common = {**QUIET, "data": str(tiny.data("detect")), "project": str(tmp_path)}
    own, lent = model.val(**common).results_dict, model.val(**common, sigma_source="dfl").results_dict
    assert {k: v for k, v in lent.items() if k not in ours(lent)} == own
    assert lent["uncert/sharpness"] > 0
    assert type(model.model).__name__ == "DetectionModel", "lent for the one call"
    assert model.val(**common).results_dict == own


def test_stock_model_without_dfl_cannot_lend_it(tiny, tmp_path):
    with pytest.raises(OptionError, match="reg_max: 1"):
        YOLO("yolo26n.yaml").val(data=str(tiny.data("detect")), sigma_source="dfl", project=str(tmp_path), **QUIET)


def test_missing_source_is_an_error(tiny, tmp_path):
    with pytest.raises(OptionError, match="sigma_source=dfl: this model has no such branch"):
        validate(tiny.weights("e2e"), tiny, tmp_path, sigma_source="dfl")


def test_misspelt_option_is_an_error(tiny, tmp_path):
    with pytest.raises(OptionError, match=r"val: unknown option 'sigma_sorce'.*'sigma_source'"):
        validate(tiny.weights("detect"), tiny, tmp_path, sigma_sorce="dfl")
    with pytest.raises(SyntaxError, match="agnostic_nmss"):
        validate(tiny.weights("detect"), tiny, tmp_path, agnostic_nmss=True)


def test_detection_quality_is_measured_on_request(tiny, tmp_path, caplog):
    results = validate(tiny.weights("detect"), tiny, tmp_path, pdq=True, conf=0.2).results_dict
    assert 0 < results["uncert/pdq"] < min(results["uncert/pdq_spatial"], results["uncert/pdq_label"]) ** 0.5
    assert "PDQ" in "\n".join(caplog.messages)
    assert "uncert/pdq" not in validate(tiny.weights("detect"), tiny, tmp_path).results_dict


@pytest.mark.parametrize(("kind", "task"), [("obb", "obb"), ("stock", "detect")])
def test_detection_quality_needs_horizontal_sigma(tiny, tmp_path, kind, task):
    with pytest.raises(OptionError, match="pdq=True needs horizontal boxes"):
        validate(tiny.weights(kind), tiny, tmp_path, task, pdq=True)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_data(tiny, tmp_path_factory):
    """The validation scenes, each doubled in size and cut to the upper half: 128 x 64 px."""
    root = tmp_path_factory.mktemp("wide")
    source = tiny.data("detect").parent
    for folder in ("images/val", "labels/val"):
        (root / folder).mkdir(parents=True)
    for file in sorted((source / "images" / "val").iterdir()):
        image = cv2.resize(cv2.imread(str(file)), None, fx=2, fy=2)[:64]
        cv2.imwrite(str(root / "images" / "val" / file.name), image)
        shutil.copy(source / "labels" / "val" / f"{file.stem}.txt", root / "labels" / "val")
    data = {"path": str(root), "train": "images/val", "val": "images/val", "names": {0: "disc", 1: "plate"}}
    (root / "data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return root / "data.yaml"


@pytest.fixture
def network_std(monkeypatch):
    """Standard deviations of every image as the network gives them."""
    seen = []
    postprocess = UncertDetectionValidator.postprocess

    def note(self, preds):
        found = postprocess(self, preds)
        seen.extend(d["std"].clone() for d in found)
        return found

    monkeypatch.setattr(UncertDetectionValidator, "postprocess", note)
    return seen


@pytest.mark.parametrize("rect", [True, False])
def test_json_rows_carry_sigma_in_pixels_of_the_image(tiny, tmp_path, wide_data, network_std, rect):
    validate(tiny.weights("detect"), tiny, tmp_path, data=str(wide_data), save_json=True, rect=rect)
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    std = torch.cat(network_std)
    assert len(rows) == len(std) > 0
    # 128 px become 64, however far the batch is padded beyond that.
    assert_close(torch.tensor([row["std"] for row in rows]), 2 * std, rtol=1e-3, atol=1e-3)


def test_json_rows_of_oriented_boxes(tiny, tmp_path):
    options = {"save_json": True, "sigma_source": "dfl", "conf": 0.1}
    validate(tiny.weights("obb"), tiny, tmp_path, "obb", **options)
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    assert rows
    for row in rows:
        assert len(row["std"]) == 5
        assert row["std"][4] == pytest.approx(UNKNOWN_ANGLE_STD, abs=1e-4)


def test_json_rows_of_a_model_without_sigma(tiny, tmp_path):
    validate(tiny.weights("stock"), tiny, tmp_path, save_json=True)
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    assert rows
    assert not any("std" in row for row in rows)


@pytest.mark.parametrize(
    ("kind", "task", "columns"), [("detect", "detect", 6 + 4), ("obb", "obb", 10 + 5), ("stock", "detect", 6)]
)
def test_labels_are_written_as_by_a_prediction(tiny, tmp_path, kind, task, columns):
    validate(tiny.weights(kind), tiny, tmp_path, task, save_txt=True, save_conf=True, save_json=True, conf=0.1)
    labels = tmp_path / "val" / "labels"
    lines = [line.split() for f in labels.glob("*.txt") for line in f.read_text().splitlines()]
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    assert len(lines) == len(rows) > 0
    assert {len(line) for line in lines} == {columns}
    if kind != "stock":  # images of 64 x 64 pixels
        scale = [64, 64, 64, 64, 1][: len(rows[0]["std"])]
        written = sorted(
            [float(value) * s for value, s in zip(line[-len(scale) :], scale, strict=True)] for line in lines
        )
        np.testing.assert_allclose(written, sorted(row["std"] for row in rows), atol=2e-3)


def test_labels_for_training_have_no_sigma(tiny, tmp_path):
    validate(tiny.weights("detect"), tiny, tmp_path, save_txt=True, conf=0.1)
    lines = [line for f in (tmp_path / "val" / "labels").glob("*.txt") for line in f.read_text().splitlines()]
    assert {len(line.split()) for line in lines} == {5}


def test_classes_of_other_names_are_warned_of(tiny, tmp_path, caplog):
    validate(tiny.weights("detect"), tiny, tmp_path)
    assert "are not those of the model" not in caplog.text
    data = yaml.safe_load(tiny.data("detect").read_text(encoding="utf-8"))
    other = tmp_path / "other.yaml"
    place = {"path": str(tiny.data("detect").parent), "names": {0: "disc", 1: "dish"}}
    other.write_text(yaml.safe_dump({**data, **place}), encoding="utf-8")
    validate(tiny.weights("detect"), tiny, tmp_path, data=str(other))
    assert "1 classes of the data are not those of the model, and compared by their number: 1 is 'dish'" in caplog.text
    caplog.clear()
    other.write_text(yaml.safe_dump({**data, **place, "names": {0: "disc"}}), encoding="utf-8")
    with suppress(Exception):  # labels of a class that the data do not have
        validate(tiny.weights("detect"), tiny, tmp_path, data=str(other))
    assert "are not those of the model" not in caplog.text, "the model may know more"
