"""Shape shorthand: rows written by hand as (box, class scores, extra fields[, angle]) become Tensor[1, C, A]."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils.nms import non_max_suppression

from yolo_uncert.engine import candidates as module
from yolo_uncert.engine.postprocess import letterbox_gain, postprocess, scale_fields
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD, rbox_std
from yolo_uncert.nn.models import MODELS
from yolo_uncert.run_options import RunOptions
from yolo_uncert.schema import Schema

FAR = [100.0, 100.0, 10.0, 10.0]
NEAR = [50.0, 50.0, 20.0, 20.0]


def options(**given):
    defaults = {"conf": 0.01, "iou": 0.5, "max_det": 300, "agnostic_nms": False, "classes": None}
    return SimpleNamespace(**{**defaults, **asdict(RunOptions()), **given})


def anchors(*rows):
    return torch.tensor(rows).T[None]


def one(y, schema, **given):
    """Detections of the only image."""
    (found,) = postprocess(y, schema, options(**given))
    return found


def random_output(schema, anchors=200, batch=3):
    angle = schema.task == "obb"
    y = torch.rand(batch, 4 + schema.nc + schema.channels + angle, anchors)
    y[:, :2] *= 100
    y[:, 2:4] = 5 + 20 * y[:, 2:4]
    return y


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(module.LOGGER, "warning", seen.append)
    return seen


@pytest.mark.parametrize("names", [(), ("gaussian",), ("dfl",), ("gaussian", "dfl")])
@pytest.mark.parametrize("multi_label", [False, True])
def test_extra_channels_are_no_classes(names, multi_label):
    schema = Schema.of("detect", 3, names)
    y = random_output(schema)
    expected = non_max_suppression(y[:, :7].clone(), 0.6, 0.5, multi_label=multi_label)
    found = postprocess(y, schema, options(conf=0.6), multi_label=multi_label)
    for d, rows in zip(found, expected, strict=True):
        assert len(rows)
        assert_close(torch.cat((d.boxes, d.conf[:, None], d.cls[:, None]), 1), rows, rtol=0, atol=0)


@pytest.mark.parametrize("names", [(), ("gaussian",), ("dfl",), ("gaussian", "dfl")])
def test_extra_channels_are_no_angle(names):
    schema = Schema.of("obb", 3, names)
    y = random_output(schema)
    stock = torch.cat((y[:, :7], y[:, -1:]), 1)
    # Nothing overlaps by more than 1: Ultralytics suppresses oriented boxes by probIoU, we by their exact overlap.
    expected = non_max_suppression(stock, 0.6, 1.0, nc=3, rotated=True)
    for d, rows in zip(postprocess(y, schema, options(conf=0.6, iou=1.0)), expected, strict=True):
        assert len(rows)
        assert_close(d.boxes, rows[:, [0, 1, 2, 3, 6]], rtol=0, atol=0)
        assert_close(d.conf, rows[:, 4], rtol=0, atol=0)


@pytest.mark.parametrize(("task", "cls"), [("detect", DetectionModel), ("obb", OBBModel)])
def test_stock_model_detects_the_same_with_dfl_moments(task, cls):
    stock = cls("yolov8n-obb.yaml" if task == "obb" else "yolov8n.yaml", nc=2, verbose=False).eval()
    ours = MODELS[task].from_stock(stock, {"dfl": {}})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs, mine = stock(images)[0], ours(images)[0]
    # The scores of a fresh model are all alike, and Ultralytics' order of equal scores is arbitrary.
    theirs[:, 4:6] = mine[:, 4:6] = torch.rand(2, 2, theirs.shape[2])
    iou = 1.0 if task == "obb" else 0.7  # probIoU is not the exact overlap
    settings = {"nc": 2, "rotated": task == "obb", "return_idxs": True}
    expected, anchor = non_max_suppression(theirs, 0.25, iou, **settings)
    found = postprocess(mine, ours.model[-1].schema, options(conf=0.25, iou=iou))
    for d, rows, index in zip(found, expected, anchor, strict=True):
        assert len(rows)
        assert torch.equal(d.index, index.view(-1))
        assert_close(d.boxes[:, :4], rows[:, :4], rtol=0, atol=0)
        assert_close(d.conf, rows[:, 4], rtol=0, atol=0)
        assert_close(d.cls, rows[:, 5], rtol=0, atol=0)
        assert (d.fields["std"] > 0).all()


def test_std_of_a_detection_is_that_of_its_anchor():
    schema = Schema.of("detect", 3, ["gaussian", "dfl", "iou_aware"])
    y = random_output(schema)
    for source, first in (("gaussian", 7), ("dfl", 11)):
        for image, d in zip(y, postprocess(y, schema, options(sigma_source=source)), strict=True):
            assert_close(d.fields["std"], image[first : first + 4, d.index].T)
            assert_close(d.fields["iou"], image[15, d.index])


@pytest.mark.parametrize(("alpha", "score"), [(0.0, 0.25), (0.5, 0.4), (1.0, 0.64)])
def test_score_is_fused_with_the_predicted_iou(alpha, score):
    # sqrt(0.64 * 0.25) = 0.8 * 0.5
    found = one(anchors([*NEAR, 0.64, 0.25]), Schema.of("detect", 1, ["iou_aware"]), iou_alpha=alpha)
    assert_close(found.conf, torch.tensor([score]))
    assert_close(found.fields["iou"], torch.tensor([0.25]))


@pytest.mark.parametrize(("fusion", "score"), [("quality", 0.32), ("none", 0.64)])
def test_score_is_multiplied_by_the_quality(fusion, score):
    found = one(anchors([*NEAR, 0.64, 0.5]), Schema.of("detect", 1, ["quality"]), score_fusion=fusion)
    assert_close(found.conf, torch.tensor([score]))
    assert_close(found.fields["quality"], torch.tensor([0.5]))


def test_quality_comes_before_the_predicted_iou():
    # sqrt(0.64 * 0.25 * 0.36) = 0.8 * 0.5 * 0.6
    found = one(anchors([*NEAR, 0.64, 0.25, 0.36]), Schema.of("detect", 1, ["quality", "iou_aware"]))
    assert_close(found.conf, torch.tensor([0.24]))


def test_fused_score_decides_what_survives():
    y = anchors([*NEAR, 0.9, 0.01], [51.0, *NEAR[1:], 0.5, 0.9])  # two names of one object
    schema = Schema.of("detect", 1, ["iou_aware"])
    assert one(y, schema).index.tolist() == [1]
    assert one(y, schema, iou_alpha=1.0).index.tolist() == [0]
    assert one(y, schema, conf=0.7).index.tolist() == [], "0.67 and 0.09"


def end2end_rows():
    """Box, score, class, predicted IoU: the ranking by class score is not the one by fused score."""
    return torch.tensor([[[0.0, 0, 9, 9, 0.81, 0, 0.01], [1, 1, 8, 8, 0.64, 1, 0.64], [2, 2, 7, 7, 0.49, 0, 0.25]]])


def test_selected_rows_are_sorted_anew():
    (found,) = postprocess(end2end_rows(), Schema.of("detect", 2, ["iou_aware"]), options(), end2end=True)
    assert_close(found.conf, torch.tensor([0.64, 0.35, 0.09]))
    assert found.cls.tolist() == [1, 0, 0]
    assert found.boxes[:, 0].tolist() == [1, 2, 0]
    assert_close(found.fields["iou"], torch.tensor([0.64, 0.25, 0.01]))


def test_selected_rows_are_limited_after_sorting():
    schema = Schema.of("detect", 2, ["iou_aware"])
    (found,) = postprocess(end2end_rows(), schema, options(max_det=1), end2end=True)
    assert found.boxes[:, 0].tolist() == [1]
    (found,) = postprocess(end2end_rows(), schema, options(classes=[0]), end2end=True)
    assert found.boxes[:, 0].tolist() == [2, 0]


def test_selected_rows_without_fusion_keep_their_order():
    (found,) = postprocess(end2end_rows(), Schema.of("detect", 2, ["iou_aware"]), options(iou_alpha=1), end2end=True)
    assert_close(found.conf, torch.tensor([0.81, 0.64, 0.49]))
    assert found.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("channel", [0, 4, 6], ids=["box", "score", "std"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_dropped_and_counted(warnings, channel, bad):
    schema = Schema.of("detect", 2, ["gaussian"])
    y = anchors([*NEAR, 0.9, 0.1, 1, 1, 1, 1], [*FAR, 0.1, 0.8, 1, 1, 1, 1]).repeat(2, 1, 1)
    y[:, channel, 0] = bad
    found = postprocess(y, schema, options())
    assert [d.index.tolist() for d in found] == [[1], [1]]
    assert [len(d.fields["std"]) for d in found] == [1, 1]
    assert warnings == ["dropped 2 prediction(s) whose box, score or standard deviation is not finite"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_selected_rows_that_are_not_finite_are_dropped_and_counted(warnings, bad):
    rows = end2end_rows()
    rows[0, 1, 2] = bad
    (found,) = postprocess(rows, Schema.of("detect", 2, ["iou_aware"]), options(), end2end=True)
    assert found.boxes[:, 0].tolist() == [2, 0]
    assert len(warnings) == 1


def test_finite_rows_raise_no_warning(warnings):
    one(anchors([*NEAR, 0.9]), Schema("detect", 1))
    assert not warnings


def test_oriented_std_follows_from_the_sides():
    schema = Schema.of("obb", 1, ["gaussian"])
    sides = [1.0, 2.0, 3.0, 4.0, 0.1, 5.0, -6.0]
    found = one(anchors([*NEAR, 0.9, *sides, 0.5]), schema)
    assert_close(found.boxes, torch.tensor([[*NEAR, 0.5]]))
    assert_close(found.fields["sides"], torch.tensor([sides]))
    std, offset = torch.tensor([sides[:4]]), torch.tensor([sides[5:]])
    expected = rbox_std(std, torch.tensor([0.1]), offset, torch.tensor([0.5]))
    assert_close(found.fields["std"], expected)
    # w = l + r: sqrt(1 + 9); h = t + b: sqrt(4 + 16)
    assert_close(found.fields["std"][0, 2:], torch.tensor([10**0.5, 20**0.5, 0.1]))


def test_oriented_std_without_an_angle():
    found = one(anchors([*NEAR, 0.9, 1.0, 2.0, 3.0, 4.0, 0.0]), Schema.of("obb", 1, ["dfl"]))
    assert pytest.approx(math.pi / math.sqrt(12)) == UNKNOWN_ANGLE_STD, "uniform over a half turn"
    # cx = (r - l) / 2 and cy likewise, at angle 0; the unknown angle leaves them alone
    expected = [10**0.5 / 2, 20**0.5 / 2, 10**0.5, 20**0.5, math.pi / math.sqrt(12)]
    assert_close(found.fields["std"], torch.tensor([expected]))
    assert_close(found.fields["sides"], torch.tensor([[1.0, 2.0, 3.0, 4.0, math.pi / math.sqrt(12), 0.0, 0.0]]))


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_input_is_not_mutated(task):
    schema = Schema.of(task, 3, ["gaussian", "dfl", "quality", "iou_aware"])
    y = random_output(schema)
    before = y.clone()
    postprocess(y, schema, options())
    assert torch.equal(y, before)
    rows = random_output(Schema.of(task, 2, schema.names)).transpose(1, 2)
    before = rows.clone()
    postprocess(rows, Schema.of(task, 2, schema.names), options(), end2end=True)
    assert torch.equal(rows, before)


@pytest.mark.parametrize(("task", "columns"), [("detect", 4), ("obb", 5)])
@pytest.mark.parametrize("end2end", [False, True])
def test_nothing_found(task, columns, end2end):
    schema = Schema.of(task, 2, ["gaussian", "iou_aware"])
    y = torch.zeros(2, 6 + schema.channels + (task == "obb"), 8)
    y = y.transpose(1, 2) if end2end else y
    for d in postprocess(y, schema, options(), end2end=end2end):
        assert d.boxes.shape == d.fields["std"].shape == (0, columns)
        assert d.conf.shape == d.cls.shape == d.index.shape == d.fields["iou"].shape == (0,)


def test_scaling_divides_pixels_and_leaves_radians():
    fields = {
        "std": torch.tensor([[2.0, 4.0, 6.0, 8.0, 0.1]]),
        "sides": torch.tensor([[2.0, 4.0, 6.0, 8.0, 0.1, -10.0, 12.0]]),
        "iou": torch.tensor([0.7]),
    }
    before = {name: rows.clone() for name, rows in fields.items()}
    scaled = scale_fields(fields, 2.0)
    assert_close(scaled["std"], torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.1]]))
    assert_close(scaled["sides"], torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.1, -5.0, 6.0]]))
    assert_close(scaled["iou"], torch.tensor([0.7]))
    assert_close(fields, before)
    assert scale_fields({"std": torch.zeros(3, 0)}, 2.0)["std"].shape == (3, 0)


def test_gain_of_a_letterboxed_image():
    assert letterbox_gain((64, 128), (32, 32)) == 2, "the height limits"
    assert letterbox_gain((64, 64), (32, 256)) == 0.25


@pytest.mark.parametrize("labels", [None, False, True])
def test_multi_label_option_decides_over_the_default_of_the_mode(labels):
    y = anchors([*NEAR, 0.9, 0.8])
    schema = Schema.of("detect", 2, [])
    for default in (False, True):
        (found,) = postprocess(y, schema, options(multi_label=labels), multi_label=default)
        assert len(found.conf) == 1 + (default if labels is None else labels)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_half_precision_output_gives_full_precision_detections(task):
    schema = Schema.of(task, 2, ["gaussian"])
    y = random_output(schema).half()
    y[:, 6:10] *= 400  # variances beyond the range of half precision
    given = {"var_vote": True, "conf": 0.3}
    for d, expected in zip(
        postprocess(y, schema, options(**given)), postprocess(y.float(), schema, options(**given)), strict=True
    ):
        assert len(d.conf)
        assert {d.boxes.dtype, d.conf.dtype, d.cls.dtype, d.fields["std"].dtype} == {torch.float32}
        assert_close(d.boxes, expected.boxes)
        assert_close(d.fields["std"], expected.fields["std"])


def test_half_precision_of_an_end_to_end_head():
    (found,) = postprocess(end2end_rows().half(), Schema.of("detect", 2, ["iou_aware"]), options(), end2end=True)
    assert found.boxes.dtype == found.conf.dtype == torch.float32
