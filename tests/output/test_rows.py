from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD, rbox_covariance, rbox_std, sides_to_rbox
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.output import columns, covariance, rows_of

IMAGE = np.zeros((100, 200, 3), np.uint8)
NAMES = {0: "cell", 3: "plate"}


def detect(fields=None, track=()):
    data = torch.tensor([[10.0, 20, 30, 60, *track, 0.9, 3], [1.1, 2.2, 3.3, 4.4, *track, 0.5, 0]])
    return UncertResults(IMAGE, "a.jpg", NAMES, data, fields=fields)


def oriented(sides, angle, **fields):
    """One box of 40 x 20 about (50, 40), with the std that its sides imply."""
    sides = torch.tensor([sides])
    turn = torch.tensor([angle])
    std = rbox_std(sides[:, :4], sides[:, 4], sides[:, 5:], turn)
    data = torch.tensor([[50.0, 40, 40, 20, angle, 0.9, 0]])
    return UncertResults(IMAGE, "a.jpg", NAMES, obb=data, fields={"std": std, "sides": sides, **fields})


STD = torch.tensor([[1.0, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]])


def test_a_row_has_the_columns_of_its_task_in_their_order():
    for task, result in (("detect", detect({"std": STD})), ("obb", oriented([1.0, 2, 3, 4, 0.1, 5, 6], 0.3))):
        for row in rows_of(result):
            assert list(row) == list(columns(task))
            assert all(row[name] is None or type(row[name]) is kind for name, kind in columns(task).items())


def test_values_of_a_horizontal_box():
    row = rows_of(detect({"std": STD, "iou": torch.tensor([0.75, 0.5])}), frame=7, time_s=0.5, stream=1)[0]
    z = 1.6448536  # standard normal quantile of 0.95, for an interval of 0.9
    assert (row["path"], row["frame"], row["time_s"], row["stream"]) == ("a.jpg", 7, 0.5, 1)
    assert (row["class"], row["name"], row["confidence"], row["track_id"]) == (3, "plate", 0.9, None)
    assert [row[c] for c in ("x1", "y1", "x2", "y2")] == [10, 20, 30, 60]
    assert [row[f"std_{c}"] for c in ("x1", "y1", "x2", "y2")] == [1, 2, 3, 4]
    assert row["covariance"] == [[1, 0, 0, 0], [0, 4, 0, 0], [0, 0, 9, 0], [0, 0, 0, 16]]
    assert (row["iou"], row["quality"], row["interval_level"]) == (0.75, None, 0.9)
    assert [row["low_x2"], row["high_x2"]] == pytest.approx([30 - 3 * z, 30 + 3 * z])
    assert [row["low_y1"], row["high_y1"]] == pytest.approx([20 - 2 * z, 20 + 2 * z])


def test_class_score_box_and_track_are_those_of_ultralytics_summary():
    for result in (detect({"std": STD}, track=(5,)), oriented([1.0, 2, 3, 4, 0.1, 5, 6], 0.3)):
        for row, stock in zip(rows_of(result), result.summary(decimals=4), strict=True):
            assert {k: round(row[k], 4) for k in stock["box"]} == stock["box"]
            assert (row["class"], row["name"], round(row["confidence"], 4)) == tuple(
                stock[k] for k in ("class", "name", "confidence")
            )
            assert row["track_id"] == stock.get("track_id")


def test_numbers_are_short_and_read_back_as_the_same_float32():
    data = torch.rand(50, 6) * 100
    data[:, 5] = 0
    rows = rows_of(UncertResults(IMAGE, "a.jpg", NAMES, data))
    back = np.array([[row[c] for c in ("x1", "y1", "x2", "y2", "confidence")] for row in rows], np.float32)
    assert np.array_equal(back, data[:, :5].numpy())
    assert max(len(repr(row["x1"])) for row in rows) <= 11, "nine digits, a point, and room for a zero before it"


def test_a_model_without_uncertainty_leaves_columns_empty():
    row = rows_of(detect())[0]
    empty = {k for k, value in row.items() if value is None}
    assert empty == columns("detect").keys() - {"path", "class", "name", "confidence", "x1", "y1", "x2", "y2"}


def test_a_track_without_a_detection_has_a_box_and_no_uncertainty():
    std = STD.clone()
    std[0] = math.nan
    rows = rows_of(detect({"std": std, "iou": torch.tensor([math.nan, 0.5])}, track=(8,)))
    unknown = rows[0]
    assert (unknown["x1"], unknown["track_id"]) == (10, 8)
    assert [unknown[k] for k in ("std_x1", "std_y2", "covariance", "iou", "low_x1", "high_y2")] == [None] * 6
    assert (rows[1]["std_x1"], rows[1]["iou"]) == (0.1, 0.5)


def test_covariance_of_the_filtered_box_has_a_column_of_its_own():
    filtered = torch.stack((torch.eye(4) * 0.25, torch.full((4, 4), math.nan)))
    first, second = rows_of(detect({"std": STD, "track_cov": filtered}, track=(8,)))
    assert first["track_covariance"] == [[0.25, 0, 0, 0], [0, 0.25, 0, 0], [0, 0, 0.25, 0], [0, 0, 0, 0.25]]
    assert second["track_covariance"] is None
    assert first["covariance"][1][1] == 4, "that of the detection"


def test_no_boxes_no_rows():
    for key, width in (("boxes", 6), ("obb", 7)):
        std = torch.zeros(0, 4 if key == "boxes" else 5)
        assert rows_of(UncertResults(IMAGE, "a.jpg", NAMES, **{key: torch.zeros(0, width)}, fields={"std": std})) == []
    assert rows_of(UncertResults(IMAGE, "a.jpg", NAMES)) == []


def test_intervals_are_those_of_the_boxes_at_the_level_asked_for():
    scores = np.random.default_rng(0).gamma(2, 1, (60, 4))
    result = UncertResults(
        IMAGE,
        "a.jpg",
        NAMES,
        detect().boxes.data,
        fields={"std": STD},
        conformal=Conformal.fit(scores, np.ones_like(scores)),
    )
    expected = result.boxes.interval(0.6)
    rows = rows_of(result, level=0.6)
    for row, bounds in zip(rows, expected, strict=True):
        assert row["interval_level"] == 0.6
        written = [[row[f"low_{c}"], row[f"high_{c}"]] for c in ("x1", "y1", "x2", "y2")]
        assert_close(torch.tensor(written), bounds.float())
    with pytest.raises(ValueError, match="needs a calibration by 999 boxes"):
        rows_of(result, level=0.999)


def test_corners_of_an_oriented_box():
    row = rows_of(oriented([1.0, 1, 1, 1, 0.1, 0, 0], math.pi / 2))[0]
    # 40 x 20 about (50, 40), turned by a quarter: 20 wide and 40 high
    corners = {(round(row[f"x{i}"]), round(row[f"y{i}"])) for i in (1, 2, 3, 4)}
    assert corners == {(40, 20), (60, 20), (60, 60), (40, 60)}
    assert [row[c] for c in ("x", "y", "w", "h")] == [50, 40, 40, 20]


def test_covariance_of_an_oriented_box_by_hand():
    """Sides l, t, r, b with variances 4, 1, 16, 9 of a box that is not turned, its centre (6, 0) from the anchor.

    var(x) = (4 + 16) / 4 = 5, var(w) = 20, cov(x, w) = (16 - 4) / 2 = 6; var(y) = (1 + 9) / 4 + (6 * 0.1)^2 = 2.86,
    var(h) = 10, cov(y, h) = (9 - 1) / 2 = 4, cov(y, angle) = 0.1^2 * 6 = 0.06.
    """
    (matrix,) = covariance(oriented([2.0, 1, 4, 3, 0.1, 6, 0], 0.0).obb)
    expected = np.diag([5, 2.86, 20, 10, 0.01])
    expected[0, 2] = expected[2, 0] = 6
    expected[1, 3] = expected[3, 1] = 4
    expected[1, 4] = expected[4, 1] = 0.06
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


def test_covariance_of_an_oriented_box_is_that_of_many_draws():
    sides, spread, angle = torch.tensor([26.0, 8, 14, 12]), torch.tensor([2.0, 0.5, 1, 1.5]), 0.7
    offset = torch.stack(((sides[2] - sides[0]) / 2, (sides[3] - sides[1]) / 2))
    draws = 200_000
    noisy = sides_to_rbox(
        torch.tensor([50.0, 40]).expand(draws, 2),
        sides + spread * torch.randn(draws, 4),
        angle + 0.02 * torch.randn(draws),
    )
    result = oriented([*spread.tolist(), 0.02, *offset.tolist()], angle)
    (matrix,) = covariance(result.obb)
    scale = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    np.testing.assert_allclose(np.cov(noisy.numpy().T) / scale, matrix / scale, atol=0.015)


def test_a_calibration_keeps_the_correlations():
    plain = oriented([2.0, 1, 4, 3, 0.1, 6, -2], 0.4)
    factor = torch.tensor([1.0, 2, 3, 0.5, 4])
    calibrated = UncertOBB(plain.obb.data, IMAGE.shape[:2], {**plain.obb.fields, "std": plain.obb.std * factor})
    expected = covariance(plain.obb) * np.outer(factor, factor)
    np.testing.assert_allclose(covariance(calibrated), expected, rtol=1e-5, atol=1e-6)
    assert np.linalg.eigvalsh(covariance(calibrated)).min() > -1e-9


def test_an_unknown_angle_correlates_with_nothing():
    (matrix,) = covariance(oriented([2.0, 1, 4, 3, UNKNOWN_ANGLE_STD, 0, 0], 0.4).obb)
    assert matrix[4, :4].tolist() == [0, 0, 0, 0]
    assert matrix[4, 4] == pytest.approx(math.pi**2 / 12)


def test_sigma_of_zero_is_a_covariance_of_zero():
    assert not covariance(oriented([0.0, 0, 0, 0, 0, 6, 0], 0.4).obb).any()
    assert not covariance(UncertBoxes(detect().boxes.data, (100, 200), {"std": torch.zeros(2, 4)})).any()


def test_covariance_of_an_oriented_box_needs_its_sides():
    result = oriented([2.0, 1, 4, 3, 0.1, 6, 0], 0.4)
    bare = UncertResults(IMAGE, "a.jpg", NAMES, obb=result.obb.data, fields={"std": result.obb.std})
    assert covariance(bare.obb) is None
    row = rows_of(bare)[0]
    assert row["covariance"] is None
    assert row["std_angle"] == pytest.approx(0.1)
    assert covariance(UncertBoxes(detect().boxes.data, (100, 200))) is None


def test_covariance_matches_the_functional_for_sides_as_predicted():
    result = oriented([2.0, 1, 4, 3, 0.1, 6, -2], -0.9)
    sides = result.obb.fields["sides"].double()
    derived = rbox_covariance(sides[:, :4], sides[:, 4], sides[:, 5:], result.obb.data[:, 4].double())
    np.testing.assert_allclose(covariance(result.obb), derived, rtol=1e-5, atol=1e-6)
