"""Several images at once equal one image after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_uncert.ops import (
    Suppression,
    batched_soft_nms,
    batched_suppress,
    batched_var_vote,
    soft_nms,
    suppress,
    var_vote,
)


@pytest.fixture
def images(scenes) -> list[tuple[np.ndarray, ...]]:
    return [scenes.horizontal(seed, count, "dense") for seed, count in enumerate((40, 0, 2, 70))]


def flat(images, numbers=(7, 8, 9, -2)) -> tuple:
    """All images in one array, shuffled; and which image each row is of."""
    columns = [np.concatenate(column) for column in zip(*images, strict=True)]
    number = np.repeat(numbers, [len(image[0]) for image in images])
    order = np.random.default_rng(0).permutation(len(number))
    return *(column[order] for column in columns), number[order]


@pytest.mark.parametrize("method", ["soft", "iou-guided"])
def test_a_list_of_images(images, method) -> None:
    boxes, scores, classes, variances, ious = map(list, zip(*images, strict=True))
    options = Suppression(method, vote="var", max_det=20)
    ious = ious if options.guided else None
    for row, kept in enumerate(batched_suppress(boxes, scores, classes, variances, options, ious=ious)):
        alone = suppress(*images[row][:4], options, ious=ious[row] if ious else None)
        for name in ("index", "scores", "boxes", "variances"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(alone, name))
    assert batched_suppress([], []) == []


@pytest.mark.parametrize("kind", [np.stack, lambda images: torch.from_numpy(np.stack(images))])
def test_images_of_as_many_boxes_may_be_stacked(images, kind) -> None:
    boxes, scores, classes, variances, ious = (
        kind([x[:30] for x in column[::3]]) for column in zip(*images, strict=True)
    )
    options = Suppression("iou-guided", vote="var")
    for row, kept in enumerate(batched_suppress(boxes, scores, classes, variances, options, ious=ious)):
        alone = suppress(boxes[row], scores[row], classes[row], variances[row], options, ious=ious[row])
        assert kept.index.tolist() == alone.index.tolist()
        assert kept.boxes.tolist() == alone.boxes.tolist()


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_an_array_of_images(images, kind) -> None:
    boxes, scores, classes, variances, _, number = map(kind, flat(images))
    index, decayed = batched_soft_nms(boxes, scores, number, classes, max_det=20)
    voted, merged = batched_var_vote(boxes, scores, index, number, classes, variances)
    start = 0
    for image in (-2, 7, 9):
        rows = (number == image).nonzero()
        rows = rows[0] if kind is np.asarray else rows[:, 0]
        alone, scores_alone = soft_nms(boxes[rows], scores[rows], classes[rows], max_det=20)
        part = slice(start, start + len(alone))
        assert index[part].tolist() == rows[alone].tolist()
        assert decayed[part].tolist() == scores_alone.tolist()
        boxes_alone, merged_alone = var_vote(boxes[rows], scores[rows], alone, classes[rows], variances[rows])
        assert voted[part].tolist() == boxes_alone.tolist()
        assert merged[part].tolist() == merged_alone.tolist()
        start = part.stop
    assert start == len(index) == 41
    assert type(index) is type(voted) is type(boxes)


def test_agnostic_votes_stay_within_an_image(images) -> None:
    boxes, scores, classes, variances, _, number = flat(images)
    rows = np.flatnonzero(number == 7)
    voted, _ = batched_var_vote(boxes, scores, rows, number, classes, variances, agnostic=True)
    alone, _ = var_vote(boxes[rows], scores[rows], np.arange(len(rows)), None, variances[rows])
    np.testing.assert_array_equal(voted, alone)


@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_no_candidates(kind) -> None:
    index, decayed = batched_soft_nms(kind((0, 4)), kind(0), kind(0))
    assert len(index) == len(decayed) == 0
    assert "int64" in str(index.dtype)


def test_lengths_are_checked(images) -> None:
    boxes, scores, *_ = map(list, zip(*images, strict=True))
    with pytest.raises(ValueError, match="scores must have one entry for each of the 4 images; got 3"):
        batched_suppress(boxes, scores[:3])
    with pytest.raises(ValueError, match=r"images must be \[40\], one per box; got \[3\]"):
        batched_soft_nms(boxes[0], scores[0], np.zeros(3))
