"""Bootstrap over images: the data set itself gives the stock numbers, draws give those of data sets made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ultralytics.utils.metrics import ap_per_class

from yolo_uncert.engine.bootstrap import resample, score_statistics, sigma_statistics
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.functional.summary import summarise


def scored_of(images=12, seed=0):
    random = np.random.default_rng(seed)
    n, t = 40 * images, 8 * images
    correct = random.random((n, 1)) > np.linspace(0.3, 0.95, 10)
    return Scored(
        conf=random.random(n),
        cls=random.integers(0, 3, n),
        correct=correct,
        matched=correct[:, 0],
        iou=random.random(n),
        image=random.integers(0, images, n),
        target_cls=random.integers(0, 3, t),
        target_image=random.integers(0, images, t),
    )


def matches_of(images=12, n=200, seed=0):
    random = np.random.default_rng(seed)
    sigma = random.uniform(1, 3, (n, 4))
    return Matches(
        residual=sigma * random.standard_normal((n, 4)),
        sigma=sigma,
        boxes=np.tile([0.0, 0, 9, 9], (n, 1)),
        iou=np.ones(n),
        conf=np.ones(n),
        cls=np.zeros(n, int),
        image=random.integers(0, images, n),
        shapes=np.ones((images, 2)),
    )


def test_draws_have_as_many_images_and_repeat_with_the_seed():
    counts = resample(7, 50)
    assert counts.shape == (51, 7)
    assert (counts.sum(1) == 7).all()
    assert (counts[0] == 1).all()
    assert np.array_equal(counts, resample(7, 50))
    assert not np.array_equal(counts, resample(7, 50, seed=1))


def test_the_data_set_itself_has_the_ap_of_ultralytics():
    scored = scored_of()
    ap = ap_per_class(scored.correct, scored.conf, scored.cls, scored.target_cls)[5].mean(0)
    found = score_statistics(scored, resample(12, 0))
    expected = {"AP": ap.mean(), "AP50": ap[0], "AP75": ap[5], "AP90": ap[8]}
    assert {k: v[0] for k, v in found.items()} == pytest.approx({k: 100 * v for k, v in expected.items()})


def test_a_draw_is_a_data_set_with_its_images_repeated():
    scored, matches = scored_of(), matches_of()
    counts = resample(12, 3)
    found = {**score_statistics(scored, counts), **sigma_statistics(matches, counts)}
    for draw in range(1, 4):
        rows, targets, boxes = (
            np.repeat(np.arange(len(image)), counts[draw, image])
            for image in (scored.image, scored.target_image, matches.image)
        )
        ap = ap_per_class(scored.correct[rows], scored.conf[rows], scored.cls[rows], scored.target_cls[targets])[5]
        # Copies of a detection have one score; in which order they come moves the interpolated curve by a little.
        assert found["AP50"][draw] == pytest.approx(100 * ap.mean(0)[0], rel=0.01)
        summary = summarise(matches.residual[boxes], matches.sigma[boxes])
        assert found["NLL"][draw] == pytest.approx(summary.nll)
        assert found["cal. error"][draw] == pytest.approx(summary.calibration_error)
        assert found["Spearman"][draw] == pytest.approx(summary.spearman)


def test_a_class_that_a_draw_lacks_does_not_count_there():
    scored = scored_of(images=2)
    only = np.array([[1, 1], [1, 0]])
    present = Scored(**{**vars(scored), "target_cls": np.where(scored.target_image == 0, 0, 1)})
    first = Scored(
        **{
            **vars(present),
            "target_cls": present.target_cls[present.target_image == 0],
            "target_image": present.target_image[present.target_image == 0],
        }
    )
    found, expected = score_statistics(present, only), score_statistics(first, np.array([[1, 0]]))
    assert found["AP"][1] == pytest.approx(expected["AP"][0])


def test_nothing_matched_and_nothing_to_find():
    empty = scored_of().__class__(
        *(np.zeros(0), np.zeros(0, int), np.zeros((0, 10), bool), np.zeros(0, bool), np.zeros(0), np.zeros(0, int)),
        *(np.zeros(0, int), np.zeros(0, int)),
    )
    counts = resample(12, 2)
    assert all(np.isnan(v).all() for v in score_statistics(empty, counts).values())
    none = matches_of().take(np.zeros(200, bool))
    assert all(np.isnan(v).all() for v in sigma_statistics(none, counts).values())
