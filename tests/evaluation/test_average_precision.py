"""Average precision, by hand and against the definition written as a loop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from yolo_uncert.evaluation import average_precision, precision_recall

FLAGS = np.array([True, False, True, False, True])  # hits at ranks 1, 3, 5: precision 1, 1/2, 2/3, 1/2, 3/5


def by_definition(recall: np.ndarray, precision: np.ndarray, method: str) -> float:
    def envelope(level: float) -> float:
        return max(precision[recall >= level], default=0.0)

    if method == "voc07":
        return sum(envelope(level) for level in np.arange(0, 1.1, 0.1)) / 11
    levels = sorted({0.0, *recall})
    return sum((high - low) * envelope(high) for low, high in pairwise(levels))


class TestPrecisionRecall:
    def test_by_hand(self):
        recall, precision = precision_recall(FLAGS, ~FLAGS, 4)
        np.testing.assert_allclose(recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
        np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])

    def test_what_is_ignored_changes_nothing(self):
        # Rank 1 is neither: no precision yet, and none of the later ones sees it.
        recall, precision = precision_recall(np.array([False, True]), np.array([False, False]), 1)
        assert recall.tolist() == [0, 1]
        assert precision.tolist() == [0, 1]

    def test_no_detections(self):
        none = np.zeros(0, dtype=bool)
        assert [part.size for part in precision_recall(none, none, 3)] == [0, 0]

    def test_errors(self):
        with pytest.raises(ValueError, match=r"got \[5\] and \[4\]"):
            precision_recall(FLAGS, FLAGS[1:], 1)
        with pytest.raises(ValueError, match="positives=0"):
            precision_recall(FLAGS, ~FLAGS, 0)


class TestAveragePrecision:
    def test_by_hand(self):
        curve = precision_recall(FLAGS, ~FLAGS, 4)
        # Envelope: 1 up to a recall of 1/4, 2/3 up to 1/2, 3/5 up to 3/4, then 0.
        assert average_precision(*curve, "area") == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
        # Levels 0, .1, .2 | .3, .4, .5 | .6, .7 | .8, .9, 1.
        assert average_precision(*curve, "voc07") == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)

    @pytest.mark.parametrize("method", ["area", "voc07"])
    def test_limits(self, method):
        perfect = precision_recall(np.ones(7, dtype=bool), np.zeros(7, dtype=bool), 7)
        assert average_precision(*perfect, method) == pytest.approx(1, abs=1e-15)
        assert average_precision([], [], method) == 0
        assert average_precision([0, 0], [0, 0], method) == 0

    def test_a_level_of_the_devkit_lies_above_three_tenths(self):
        # Three of ten are found: recall ends at exactly 3/10, which the level 0.30000000000000004 misses.
        curve = precision_recall(np.ones(3, dtype=bool), np.zeros(3, dtype=bool), 10)
        assert average_precision(*curve, "voc07") == pytest.approx(3 / 11)

    @pytest.mark.parametrize("method", ["area", "voc07"])
    def test_against_the_definition(self, method):
        rng = np.random.default_rng(0)
        for positives in (1, 3, 10, 40):
            tp = np.zeros(60, dtype=bool)
            tp[rng.choice(60, min(positives, 25), replace=False)] = True
            fp = ~tp & (rng.random(60) < 0.7)
            curve = precision_recall(tp, fp, positives)
            assert average_precision(*curve, method) == pytest.approx(by_definition(*curve, method), abs=1e-14)

    def test_errors(self):
        with pytest.raises(ValueError, match="voc07, area; got 'coco'"):
            average_precision([1], [1], "coco")
        with pytest.raises(ValueError, match=r"got \[1\] and \[2\]"):
            average_precision([1], [1, 1])
