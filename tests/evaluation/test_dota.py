"""DOTA's average precision: by hand, and against the rules written as plain loops over shapely polygons."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from yolo_uncert.evaluation import (
    DotaDetections,
    DotaTruth,
    average_precision,
    corners,
    dota,
    evaluate_dota,
)

BOX = (50.0, 50.0, 20.0, 10.0, 0.3)
SHIFTED = (50.0 + 4 * math.cos(0.3), 50.0 + 4 * math.sin(0.3), 20.0, 10.0, 0.3)  # 4 of 20 px along: IoU 16/24 = 2/3
AWAY = (200.0, 200.0, 20.0, 10.0, 0.3)


def detections(*rows: tuple[str, str, float, tuple[float, ...]]) -> DotaDetections:
    return DotaDetections.stack(
        DotaDetections.of_image(image, [box], [name], [score]) for image, name, score, box in rows
    )


def objects(*rows: tuple[str, str, bool, tuple[float, ...]]) -> DotaTruth:
    return DotaTruth.stack(DotaTruth.of_image(image, [box], [name], [hard]) for image, name, hard, box in rows)


def random_case(seed: int = 0, angle: float = 3.0) -> tuple[DotaDetections, DotaTruth]:
    """Crowded images with quads that are no rectangles, difficult objects, duplicates and wrong classes."""
    rng = np.random.default_rng(seed)
    count, found = 80, 400
    boxes = np.column_stack(
        (rng.uniform(0, 120, (count, 2)), rng.uniform(8, 40, (count, 2)), rng.uniform(-1, 1, count))
    )
    boxes[:, 4] *= angle
    quads = corners(boxes) + (rng.uniform(-2, 2, (count, 4, 2)) if angle else 0)
    images, classes = rng.choice(["P0", "P1", "P2"], count), rng.choice(["ship", "plane", "harbor"], count)
    chosen = rng.integers(0, count, found)
    noisy = boxes[chosen] + rng.normal(0, 1, (found, 5)) * [2, 2, 2, 2, 0.1 if angle else 0]
    return (
        DotaDetections(images[chosen], classes[chosen], rng.random(found), corners(noisy)),
        DotaTruth(images, classes, rng.random(count) < 0.2, quads, empty=("P3",)),
    )


def naive_ap(found: DotaDetections, truth: DotaTruth, name: str, threshold: float, method: str) -> float:
    """The rules of the development kit for one class, an object and a detection at a time."""
    taken, tp, fp = set(), [], []
    shapes = [shapely.Polygon(polygon) for polygon in truth.polygons]
    for d in sorted(np.flatnonzero(found.classes == name), key=lambda d: -found.scores[d]):
        shape, best, match = shapely.Polygon(found.polygons[d]), -1.0, -1
        for t in np.flatnonzero((truth.classes == name) & (truth.images == found.images[d])):
            iou = shape.intersection(shapes[t]).area / shape.union(shapes[t]).area
            if iou > best:
                best, match = iou, t
        if best > threshold and truth.difficult[match]:
            continue
        right = best > threshold and match not in taken
        taken |= {match} if right else set()
        tp.append(right)
        fp.append(not right)
    recall = np.cumsum(tp) / np.sum((truth.classes == name) & ~truth.difficult)
    return average_precision(recall, np.cumsum(tp) / (np.cumsum(tp) + np.cumsum(fp)), method)


class TestByHand:
    def test_one_detection(self):
        result = evaluate_dota(detections(("a", "ship", 0.9, SHIFTED)), objects(("a", "ship", False, BOX)))
        # IoU 2/3 exceeds 0.50, 0.55, 0.60, 0.65: four of ten thresholds.
        assert result.per_class()["ship"] == pytest.approx(
            {"AP": 0.4} | {f"AP{percent}": float(percent < 66) for percent in range(50, 100, 5)}
        )

    def test_precision_and_recall(self):
        # Hit, miss, hit of two objects: precision 1 to a recall of 1/2, then 2/3.
        found = detections(("a", "ship", 0.9, BOX), ("b", "ship", 0.8, AWAY), ("b", "ship", 0.7, BOX))
        truth = objects(("a", "ship", False, BOX), ("b", "ship", False, BOX))
        assert evaluate_dota(found, truth, (0.5,), "area").mean()["AP50"] == pytest.approx((1 + 2 / 3) / 2)
        assert evaluate_dota(found, truth, (0.5,)).mean()["AP50"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)

    def test_a_duplicate_is_wrong(self):
        # The better score takes the object; the better box comes too late: precision 1/2 with the miss before it.
        truth = objects(("a", "ship", False, BOX))
        after = detections(("a", "ship", 0.9, SHIFTED), ("a", "ship", 0.8, BOX))
        assert evaluate_dota(after, truth, (0.5, 0.75), "area").ap.tolist() == [[1, 0.5]]

    def test_a_difficult_object_neither_counts_nor_hurts(self):
        truth = objects(("a", "ship", False, BOX), ("a", "ship", True, AWAY))
        found = detections(("a", "ship", 0.9, AWAY), ("a", "ship", 0.8, AWAY), ("a", "ship", 0.7, BOX))
        assert evaluate_dota(found, truth, (0.5,)).mean()["AP50"] == pytest.approx(1)

    def test_the_best_overlap_counts_though_it_is_taken(self):
        # The second detection overlaps a free object above 0.5 too, but its best one is taken: a false positive.
        near = (50.0 + 5 * math.cos(0.3), 50.0 + 5 * math.sin(0.3), 20.0, 10.0, 0.3)
        truth = objects(("a", "ship", False, BOX), ("a", "ship", False, near))
        one_px = (50.0 + math.cos(0.3), 50.0 + math.sin(0.3), 20.0, 10.0, 0.3)
        found = detections(("a", "ship", 0.9, BOX), ("a", "ship", 0.8, one_px))
        assert evaluate_dota(found, truth, (0.5,), "area").mean()["AP50"] == pytest.approx(0.5)

    def test_the_threshold_itself_is_not_enough(self):
        # Two squares of area 4, one half of the other's: IoU exactly 1/2.
        half = DotaDetections(["a"], ["c"], [0.9], [[[0, 0], [2, 0], [2, 1], [0, 1]]])
        whole = DotaTruth(["a"], ["c"], [False], [[[0, 0], [2, 0], [2, 2], [0, 2]]])
        assert evaluate_dota(half, whole, (0.49, 0.5)).ap.tolist() == [[pytest.approx(1), 0]]

    def test_images_and_classes_are_kept_apart(self):
        truth = objects(("a", "ship", False, BOX), ("b", "plane", False, BOX))
        found = detections(("b", "ship", 0.9, BOX), ("a", "plane", 0.9, BOX))
        assert evaluate_dota(found, truth, (0.5,)).ap.tolist() == [[0], [0]]

    def test_mean_over_the_classes_with_objects(self):
        truth = objects(("a", "ship", False, BOX), ("a", "plane", False, BOX), ("a", "harbor", True, BOX))
        found = detections(("a", "ship", 0.9, BOX), ("a", "harbor", 0.9, BOX), ("a", "bridge", 0.9, BOX))
        result = evaluate_dota(found, truth, (0.5,))
        assert result.classes == ("bridge", "harbor", "plane", "ship")
        np.testing.assert_allclose(result.ap[:, 0], [math.nan, math.nan, 0, 1])
        assert result.mean()["AP"] == pytest.approx(0.5)

    def test_nothing_but_difficult_objects(self):
        result = evaluate_dota(detections(("a", "ship", 0.9, BOX)), objects(("a", "ship", True, BOX)))
        assert math.isnan(result.mean()["AP75"])

    def test_no_detections(self):
        assert set(evaluate_dota(detections(), objects(("a", "ship", False, BOX))).mean().values()) == {0.0}


class TestAgainstReferences:
    @pytest.mark.parametrize("method", ["voc07", "area"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_naive_loops(self, method, seed):
        found, truth = random_case(seed)
        result = evaluate_dota(found, truth, (0.5, 0.75), method)
        expected = [[naive_ap(found, truth, name, level, method) for level in (0.5, 0.75)] for name in result.classes]
        assert 0.01 < np.min(expected) < np.max(expected) < 0.99
        np.testing.assert_allclose(result.ap, expected, rtol=0, atol=1e-12)

    def test_angle_zero_is_the_horizontal_case(self):
        found, truth = random_case(angle=0.0)
        low, high = np.split(np.hstack((truth.polygons.min(1), truth.polygons.max(1))), 2, axis=1)
        first, last = np.split(np.hstack((found.polygons.min(1), found.polygons.max(1))), 2, axis=1)
        sides = np.clip(np.minimum(last[:, None], high) - np.maximum(first[:, None], low), 0, None).prod(2)
        iou = sides / ((last - first).prod(1)[:, None] + (high - low).prod(1) - sides)
        iou *= (found.images[:, None] == truth.images) & (found.classes[:, None] == truth.classes)
        overlap, nearest = dota._best_match(found, truth)
        np.testing.assert_allclose(overlap, iou.max(1), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(nearest, iou.argmax(1))

    def test_chunks_change_nothing(self, monkeypatch):
        case = random_case()
        expected = evaluate_dota(*case)
        monkeypatch.setattr(dota, "_PAIRS_PER_CHUNK", 7)
        np.testing.assert_array_equal(evaluate_dota(*case).ap, expected.ap)

    def test_the_order_of_rows_does_not_matter(self):
        found, truth = random_case()
        order = np.random.default_rng(1).permutation(len(found.scores))
        shuffled = DotaDetections(
            *(getattr(found, name)[order] for name in ("images", "classes", "scores", "polygons"))
        )
        np.testing.assert_array_equal(evaluate_dota(shuffled, truth).ap, evaluate_dota(found, truth).ap)


class TestErrors:
    def test_evaluation(self):
        truth = objects(("a", "ship", False, BOX))
        with pytest.raises(ValueError, match="1 images of detections are not in the ground truth: b"):
            evaluate_dota(detections(("b", "ship", 0.9, BOX)), truth)
        with pytest.raises(ValueError, match="no objects"):
            evaluate_dota(detections(), DotaTruth.of_image("a", np.zeros((0, 5)), []))
        with pytest.raises(ValueError, match=r"in \[0, 1\); got \(0.5, 1.0\)"):
            evaluate_dota(detections(), truth, (0.5, 1.0))
        with pytest.raises(ValueError, match="voc07, area; got 'coco'"):
            evaluate_dota(detections(), truth, method="coco")

    def test_tables(self):
        with pytest.raises(ValueError, match=r"scores of 1 rows must be \[1\]; got \[2\]"):
            DotaDetections(["a"], ["ship"], [0.5, 0.4], np.zeros((1, 4, 2)))
        with pytest.raises(ValueError, match="polygons must be finite"):
            DotaTruth(["a"], ["ship"], [False], np.full((1, 4, 2), np.nan))

    def test_an_image_without_objects_is_known(self):
        truth = DotaTruth.stack([objects(("a", "ship", False, BOX)), DotaTruth.of_image("b", np.zeros((0, 5)), [])])
        assert truth.empty == ("b",)
        found = detections(("b", "ship", 0.9, BOX), ("a", "ship", 0.8, BOX))
        assert evaluate_dota(found, truth, (0.5,), "area").mean()["AP"] == pytest.approx(0.5)
