from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from yolo_uncert.functional.pdq import PdqSums, image_pdq

SHAPE = (40, 60)
BOX = np.array([[10.0, 5.0, 30.0, 25.0]])
NONE = np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int)
"""No detections."""


def certain(boxes, conf=1.0, cls=0):
    """Return the detections of an image without uncertainty."""
    return boxes, np.zeros_like(boxes), np.full(len(boxes), conf), np.full(len(boxes), cls)


def pdq(detections, boxes=BOX, cls=0, shape=SHAPE):
    return image_pdq(*detections, boxes, np.full(len(boxes), cls), shape=shape)


def naive_quality(box, sigma, truth, shape):
    """Return the spatial quality of the definition, one pixel after the other."""

    def below(side, deviation, x):
        return (x >= side) if deviation == 0 else 0.5 * (1 + math.erf((x - side) / (deviation * math.sqrt(2))))

    loss = pixels = 0
    for row, column in itertools.product(range(shape[0]), range(shape[1])):
        x, y = column + 0.5, row + 0.5
        p = below(box[0], sigma[0], x) * (1 - below(box[2], sigma[2], x))
        p *= below(box[1], sigma[1], y) * (1 - below(box[3], sigma[3], y))
        p = 0.0 if p < 0.0027 else p
        if truth[0] <= x < truth[2] and truth[1] <= y < truth[3]:
            pixels += 1
            loss -= math.log(max(p, 1e-14))
        else:
            loss -= math.log(max(1 - p, 1e-14))
    quality = math.exp(-loss / pixels)
    return quality if quality >= 1e-8 else 0.0


def naive_pdq(boxes, sigma, conf, cls, truth, truth_cls, shape):
    """Return (quality, TP) of the best of all assignments, tried one after the other."""
    pairs = np.zeros((len(boxes), len(truth)))
    for i, j in np.ndindex(*pairs.shape):
        if cls[i] == truth_cls[j]:
            pairs[i, j] = math.sqrt(conf[i] * naive_quality(boxes[i], sigma[i], truth[j], shape))
    pairs = pairs if len(boxes) >= len(truth) else pairs.T
    choices = itertools.permutations(range(pairs.shape[0]), pairs.shape[1])
    best = max(choices, key=lambda rows: sum(pairs[row, column] for column, row in enumerate(rows)))
    values = [pairs[row, column] for column, row in enumerate(best)]
    return sum(values), sum(value > 0 for value in values)


def test_a_perfect_certain_detection_is_as_good_as_its_label():
    sums = pdq(certain(BOX, conf=0.64))
    assert (sums.tp, sums.fp, sums.fn) == (1, 0, 0)
    assert sums.spatial_quality == pytest.approx(1)
    assert sums.label_quality == pytest.approx(0.64)
    assert sums.pdq == pytest.approx(0.8)


def test_one_column_too_many_by_hand():
    # 20 of 400 pixels of background are claimed with certainty: ln(1e-14) each, over the 400 pixels of the object
    sums = pdq(certain(BOX + np.array([0, 0, 1, 0])))
    assert sums.spatial_quality == pytest.approx(1e-14 ** (20 / 400))


def test_one_column_too_few_by_hand():
    sums = pdq(certain(BOX - np.array([0, 0, 1, 0])))
    assert sums.spatial_quality == pytest.approx(1e-14 ** (20 / 400))


def test_a_pixel_centre_on_a_side_is_inside_at_the_left_and_outside_at_the_right():
    # sides at the centres of columns 10 and 30: 10 is inside, 30 is not, of detection and object alike
    centred = BOX + 0.5
    assert pdq(certain(centred), centred).spatial_quality == pytest.approx(1)
    assert pdq(certain(BOX), centred).spatial_quality == pytest.approx(1)


def test_one_uncertain_side_by_hand():
    # an object of one pixel at columns 2 to 3, the right side of the detection at 3 +- 1: the centres 2.5, 3.5, 4.5,
    # 5.5 are inside with the probability that the side is beyond; from 5.5 on it is Phi(-2.5) = 0.0062, 6.5 is too far
    inside = [0.5 * math.erfc(z / math.sqrt(2)) for z in (-0.5, 0.5, 1.5, 2.5)]
    expected = inside[0] * (1 - inside[1]) * (1 - inside[2]) * (1 - inside[3])
    detection = np.array([[2.0, 0.0, 3.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 0.0]]), np.ones(1), np.zeros(1, dtype=int)
    assert pdq(detection, np.array([[2.0, 0.0, 3.0, 1.0]]), shape=(1, 9)).spatial == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_an_image_is_that_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    shape, objects, detections = (18, 24), 3, int(rng.integers(1, 6))
    corner = rng.uniform(-2, 12, (objects, 2))
    truth = np.hstack([corner, corner + rng.uniform(4, 12, (objects, 2))])
    boxes = truth[rng.integers(0, objects, detections)] + rng.normal(0, 0.7, (detections, 4))
    sigma = rng.uniform(0.1, 2, (detections, 4)) * (rng.uniform(size=(detections, 4)) < 0.8)
    conf, cls, truth_cls = rng.uniform(0.2, 1, detections), rng.integers(0, 2, detections), rng.integers(0, 2, objects)
    sums = image_pdq(boxes, sigma, conf, cls, truth, truth_cls, shape=shape)
    quality, tp = naive_pdq(boxes, sigma, conf, cls, truth, truth_cls, shape)
    assert sums.quality == pytest.approx(quality, abs=1e-9)
    assert (sums.tp, sums.fp, sums.fn) == (tp, detections - tp, objects - tp)


def test_the_best_pairs_are_chosen_not_the_most_confident_first():
    # the first detection fits both objects, the second one fits the first object only
    truth = np.array([[0.0, 0.0, 20.0, 20.0], [1.0, 0.0, 21.0, 20.0]])
    boxes, sigma = np.array([[0.5, 0.0, 20.5, 20.0], [0.0, 0.0, 20.0, 20.0]]), np.ones((2, 4))
    sigma[1] = [0, 0, 0, 0]
    sums = image_pdq(boxes, sigma, np.ones(2), np.zeros(2), truth, np.zeros(2), shape=(30, 30))
    assert sums.tp == 2
    assert sums.quality == pytest.approx(1 + math.sqrt(naive_quality(boxes[0], sigma[0], truth[1], (30, 30))))


def test_honest_uncertainty_pays():
    # two pixels off: sure of it, honest about it, and far too unsure
    sure, honest, unsure = (
        pdq((BOX + 2, np.full((1, 4), s), np.ones(1), np.zeros(1, dtype=int))).pdq for s in (0.1, 2.0, 10.0)
    )
    assert sure < honest
    assert unsure < honest


def test_another_class_is_no_detection():
    sums = pdq(certain(BOX, cls=1))
    assert sums == PdqSums(fp=1, fn=1)
    assert sums.pdq == 0
    assert math.isnan(sums.spatial_quality)
    assert math.isnan(sums.label_quality)


def test_elsewhere_is_no_detection():
    assert pdq(certain(BOX + 20)) == PdqSums(fp=1, fn=1)
    assert pdq(certain(BOX + 1000)) == PdqSums(fp=1, fn=1)


def test_a_score_of_0_is_no_detection():
    assert pdq(certain(BOX, conf=0.0)) == PdqSums(fp=1, fn=1)


def test_a_duplicate_is_a_false_positive():
    sums = pdq(certain(np.repeat(BOX, 3, axis=0)))
    assert (sums.tp, sums.fp, sums.fn) == (1, 2, 0)
    assert sums.pdq == pytest.approx(1 / 3)


def test_nothing_found_and_nothing_there():
    nothing = np.zeros((0, 4))
    assert pdq(NONE) == PdqSums(fn=1)
    assert pdq(certain(BOX), nothing) == PdqSums(fp=1)
    assert pdq(NONE, nothing) == PdqSums()
    assert math.isnan(PdqSums().pdq)


def test_a_data_set_is_the_sum_of_its_images():
    images = [pdq(certain(BOX, conf=0.64)), pdq(NONE), pdq(certain(BOX, conf=0.36))]
    total = sum(images, PdqSums())
    assert (total.tp, total.fp, total.fn) == (2, 0, 1)
    assert total.pdq == pytest.approx((0.8 + 0.6) / 3)
    assert total.label_quality == pytest.approx(0.5)
    assert total.spatial_quality == pytest.approx(1)


def test_mirrored_images_are_worth_the_same():
    rng = np.random.default_rng(1)
    boxes, sigma = BOX + rng.normal(0, 1, (1, 4)), rng.uniform(0.5, 2, (1, 4))
    truth = BOX + 0.3
    size = np.array([60.0, 40.0, 60.0, 40.0])
    swap = [2, 3, 0, 1]
    one = pdq((boxes, sigma, np.ones(1), np.zeros(1)), truth)
    other = pdq(((size - boxes)[:, swap], sigma[:, swap], np.ones(1), np.zeros(1)), (size - truth)[:, swap])
    assert one.pdq == pytest.approx(other.pdq)


def test_only_what_lies_in_the_image_counts():
    outwards = np.array([[-50.0, 5.0, 30.0, 25.0]])
    assert pdq(certain(np.array([[0.0, 5.0, 30.0, 25.0]])), outwards).pdq == pytest.approx(1)
    # an object outside and one that is thinner than a pixel still are objects
    assert pdq(NONE, np.array([[-30.0, -30.0, -10.0, -10.0]])) == PdqSums(fn=1)
    sliver = np.array([[10.1, 5.0, 10.2, 25.0]])
    assert 0 < pdq((sliver, np.full((1, 4), 0.5), np.ones(1), np.zeros(1)), sliver).spatial_quality < 1


@pytest.mark.parametrize(
    ("sigma", "spatial"),
    [
        (1e-300, 1.0),
        (1e-12, 1.0),
        # each side is on either side of a pixel with probability 1/2: 1/16 everywhere, 2000 pixels around 400
        (1e9, (1 / 16) * (15 / 16) ** (2000 / 400)),
    ],
)
def test_extreme_sigmas(sigma, spatial):
    sums = pdq((BOX, np.full((1, 4), sigma), np.ones(1), np.zeros(1)))
    assert sums.spatial_quality == pytest.approx(spatial, rel=1e-6)


def test_inputs_are_not_mutated():
    detections, truth = (BOX + 0.5, np.ones((1, 4)), np.ones(1), np.zeros(1)), BOX.copy()
    before = [array.copy() for array in detections]
    image_pdq(*detections, truth, np.zeros(1), shape=SHAPE)
    for array, copy in zip(detections, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(truth, BOX)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (0, np.zeros((1, 5)), r"boxes must have shape \(1, 4\), got \(1, 5\)"),
        (1, np.zeros((2, 4)), r"standard deviations must have shape \(1, 4\), got \(2, 4\)"),
        (2, np.zeros(3), r"scores must have shape \(1,\), got \(3,\)"),
        (3, np.zeros(3), r"classes must have shape \(1,\), got \(3,\)"),
        (4, np.zeros((1, 3)), r"boxes of objects must have shape \(1, 4\), got \(1, 3\)"),
        (5, np.zeros(2), r"classes of objects must have shape \(1,\), got \(2,\)"),
        (0, np.full((1, 4), math.nan), "boxes must be finite"),
        (4, np.full((1, 4), math.inf), "boxes must be finite"),
        (1, np.full((1, 4), -1.0), "standard deviations must be finite and not negative"),
        (1, np.full((1, 4), math.nan), "standard deviations must be finite and not negative"),
        (2, np.array([1.5]), r"scores must lie in \[0, 1\]"),
        (2, np.array([math.nan]), r"scores must lie in \[0, 1\]"),
    ],
)
def test_what_has_no_quality(argument, value, message):
    arguments = [*certain(BOX), BOX, np.zeros(1)]
    arguments[argument] = value
    with pytest.raises(ValueError, match=message):
        image_pdq(*arguments, shape=SHAPE)
