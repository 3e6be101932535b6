"""Candidates: which predictions take part, with which score and class."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from yolo_uncert.engine.candidates import extract, extract_selected, fuse_scores, least_class_score
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import RunOptions
from yolo_uncert.schema import Schema

PLAIN = Schema.of("detect", 3, [])


def options(**given):
    defaults = {"conf": 0.3, "iou": 0.5, "max_det": 300, "agnostic_nms": False, "classes": None}
    return SimpleNamespace(**{**defaults, **asdict(RunOptions()), **given})


def anchors(*rows):
    """Tensor[1, C, A] from one row per anchor."""
    return torch.tensor(rows).T[None]


TWO = anchors([10.0, 20.0, 4.0, 8.0, 0.1, 0.9, 0.5], [30.0, 20.0, 2.0, 2.0, 0.2, 0.1, 0.3])


def test_best_class_of_each_anchor_above_the_threshold():
    (found,) = extract(TWO, PLAIN, options())
    assert found.boxes.tolist() == [[8.0, 16.0, 12.0, 24.0]]
    assert_close(found.conf, torch.tensor([0.9]))
    assert (found.cls.tolist(), found.index.tolist()) == ([1.0], [0])


def test_every_class_above_the_threshold():
    (found,) = extract(TWO, PLAIN, options(conf=0.15), multi_label=True)
    assert list(zip(found.index.tolist(), found.cls.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert_close(found.conf, torch.tensor([0.9, 0.5, 0.2, 0.3]))
    assert torch.equal(found.boxes[0], found.boxes[1])


@pytest.mark.parametrize("multi_label", [False, True])
def test_chosen_classes(multi_label):
    (found,) = extract(TWO, PLAIN, options(conf=0.15, classes=[2]), multi_label=multi_label)
    # without multi_label an anchor is what its best class says, as in Ultralytics
    assert found.index.tolist() == ([0, 1] if multi_label else [1])
    assert set(found.cls.tolist()) == {2.0}


@pytest.mark.parametrize(
    ("given", "plain", "fused", "end2end"),
    [
        ({"conf": 0.25}, 0.25, 0.0624375, 0.0624375),
        ({"conf": 0.001}, 0.001, 0.001, 0.999e-6),
        ({"conf": 0.0001}, 0.0001, 0.0001, 0.999e-8),
        ({"conf": 0.25, "iou_alpha": 0.0}, 0.25, 0.001, 0.0),
        ({"conf": 0.25, "iou_alpha": 1.0}, 0.25, 0.25, 0.25),
    ],
)
def test_class_score_that_a_candidate_exceeds(given, plain, fused, end2end):
    schema = Schema.of("detect", 3, ["iou_aware"])
    assert least_class_score(PLAIN, options(**given)) == pytest.approx(plain)
    assert least_class_score(schema, options(**given)) == pytest.approx(fused)
    assert least_class_score(schema, options(**given), end2end=True) == pytest.approx(end2end)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("fusion", ["quality", "gaussian", "both", "none"])
@pytest.mark.parametrize("conf", [0.0005, 0.01, 0.3])
def test_no_candidate_is_below_that_class_score(alpha, fusion, conf):
    schema = Schema.of("detect", 3, ["gaussian", "quality", "iou_aware"])
    y = 30 * torch.rand(1, 13, 2000, generator=torch.Generator().manual_seed(0))
    y[:, 4:7], y[:, 11:] = (y[:, 4:7] / 30) ** 6, 1 - (y[:, 11:] / 30) ** 6  # many low scores, and sure boxes
    args = options(conf=conf, iou_alpha=alpha, score_fusion=fusion)
    (found,) = extract(y, schema, args, multi_label=True)
    best = y[0, 4:7].amax(0)
    assert len(found.conf) > 10
    assert best[found.index].min() > least_class_score(schema, args)
    rows = torch.cat((y[0, :4], best[None], torch.zeros(1, 2000), y[0, 7:])).T[None]
    (selected,) = extract_selected(rows, schema, options(**{**vars(args), "max_det": 2000}))
    assert len(selected.conf) > 10
    assert best[selected.index].min() > least_class_score(schema, args, end2end=True)


def test_threshold_applies_to_the_fused_score():
    schema = Schema.of("detect", 1, ["iou_aware"])
    y = anchors([10.0, 20.0, 4.0, 8.0, 0.2, 0.8], [30.0, 20.0, 2.0, 2.0, 0.5, 0.1])
    (found,) = extract(y, schema, options(iou_alpha=0.5))
    # sqrt(0.2 * 0.8) = 0.4 passes, sqrt(0.5 * 0.1) = 0.22 does not
    assert found.index.tolist() == [0]
    assert_close(found.conf, torch.tensor([0.4]))


def test_oriented_boxes_keep_their_angle():
    (found,) = extract(anchors([10.0, 20.0, 4.0, 8.0, 0.9, 0.7]), Schema.of("obb", 1, []), options())
    assert_close(found.boxes, torch.tensor([[10.0, 20.0, 4.0, 8.0, 0.7]]))


@pytest.mark.parametrize(
    ("fusion", "factor"), [("none", 1.0), ("quality", 0.5), ("gaussian", 1 - 0.25), ("both", 0.5 * (1 - 0.25))]
)
def test_score_fusion(fusion, factor):
    # sides 4 and 8 px with sigma 1 and 2 px: sigma / side is 1 / 4 throughout
    fields = {"gaussian": torch.tensor([[1.0, 2.0, 1.0, 2.0]]), "quality": torch.tensor([[0.5]])}
    scores, size = torch.tensor([[0.8, 0.4]]), torch.tensor([[4.0, 8.0]])
    fused = fuse_scores(scores, fields, size, options(score_fusion=fusion))
    assert_close(fused, scores * factor)
    assert_close(scores, torch.tensor([[0.8, 0.4]]), msg="the input is not mutated")


@pytest.mark.parametrize("given", [{}, {"sigma_source": "none"}])
def test_gaussian_fusion_needs_sigma(given):
    schema = Schema.of("detect", 3, [] if not given else ["gaussian"])
    y = torch.rand(1, 7 + schema.channels, 5)
    with pytest.raises(OptionError, match="score_fusion=gaussian needs standard deviations"):
        extract(y, schema, options(score_fusion="gaussian", **given))


def test_images_without_candidates():
    found = extract(torch.cat((TWO, TWO * 0)), PLAIN, options())
    assert [len(c.conf) for c in found] == [1, 0]
    assert found[1].boxes.shape == (0, 4)


def test_selected_rows_are_sorted_limited_and_filtered():
    rows = torch.tensor(
        [[[0.0, 0, 4, 4, 0.5, 1], [9.0, 9, 14, 14, 0.9, 0], [5.0, 5, 9, 9, 0.7, 1], [1, 1, 2, 2, 0.1, 1]]]
    )
    (found,) = extract_selected(rows, PLAIN, options())
    assert found.index.tolist() == [1, 2, 0]
    (found,) = extract_selected(rows, PLAIN, options(classes=[1], max_det=1))
    assert found.index.tolist() == [2]


def test_selected_boxes_are_scored_by_sides_of_their_own():
    # Sides of 4 and 8 pixels, sigma 1: 0.8 * (1 - (1/4 + 1/8) / 2)
    rows = torch.tensor([[[10.0, 10.0, 14.0, 18.0, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]]])
    (found,) = extract_selected(rows, Schema.of("detect", 3, ["gaussian"]), options(score_fusion="gaussian"))
    assert_close(found.conf, torch.tensor([0.65]))


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_shortcuts_lose_no_candidate(alpha, multi_label):
    schema = Schema.of("detect", 3, ["gaussian", "quality", "iou_aware"])
    y = torch.rand(1, 7 + schema.channels, 500)
    y[:, 4:] **= 3  # scores on both sides of the threshold
    given = options(conf=0.2, iou_alpha=alpha, score_fusion="both")
    (found,) = extract(y, schema, given, multi_label=multi_label)
    rows = y[0].T
    scores = fuse_scores(rows[:, 4:7], schema.split(rows[:, 7:]), rows[:, 2:4], given)
    expected = (scores > 0.2) & (rows[:, 4:7] > 0.001)
    if not multi_label:
        expected &= torch.nn.functional.one_hot(scores.argmax(1), 3).bool()
    anchor, cls = expected.nonzero(as_tuple=True)
    assert len(anchor) > 10
    assert torch.equal(found.index, anchor)
    assert torch.equal(found.cls, cls.float())
    assert_close(found.conf, scores[anchor, cls])


def test_predicted_iou_lifts_no_class_that_is_out_of_the_question():
    y = anchors([10.0, 20.0, 4.0, 8.0, 0.0005, 0.9], [30.0, 20.0, 2.0, 2.0, 0.002, 0.9])
    (found,) = extract(y, Schema.of("detect", 1, ["iou_aware"]), options(conf=0.001))
    # sqrt(0.0005 * 0.9) = 0.02 is above conf, the class score is not
    assert found.index.tolist() == [1]
    (found,) = extract(y, Schema.of("detect", 1, ["iou_aware"]), options(conf=0.0001))
    assert found.index.tolist() == [0, 1]
