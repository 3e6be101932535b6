from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from ultralytics.engine.results import OBB, Boxes

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.functional.boxes import rbox_std
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.output.rows import covariance

SHAPE = (100, 200)  # height, width


def detect(n: int = 4) -> UncertBoxes:
    """Boxes whose every value in row i ends in i, so that a row out of step shows."""
    row = torch.arange(n, dtype=torch.float32)
    data = torch.stack((10 + row, 20 + row, 50 + row, 60 + row, 0.9 - row / 10, row), 1)
    return UncertBoxes(data, SHAPE, {"std": row[:, None] + torch.arange(4) / 10, "iou": row / 10, "quality": row / 20})


def oriented(n: int = 4) -> UncertOBB:
    row = torch.arange(n, dtype=torch.float32)
    data = torch.stack((50 + row, 40 + row, 30 + row, 10 + row, 0.1 * row, 0.9 - row / 10, row), 1)
    fields = {"std": row[:, None] + torch.arange(5) / 10, "sides": row[:, None] + torch.arange(7) / 10, "iou": row / 10}
    return UncertOBB(data, SHAPE, fields)


MAKERS = pytest.mark.parametrize("make", [detect, oriented])


@MAKERS
def test_is_the_stock_class_with_the_stock_values(make):
    boxes = make()
    kind = OBB if make is oriented else Boxes
    stock = kind(boxes.data, SHAPE)
    assert isinstance(boxes, kind)
    for name in ("xyxy", "conf", "cls", "xywhr" if make is oriented else "xywhn"):
        torch.testing.assert_close(getattr(boxes, name), getattr(stock, name), rtol=0, atol=0)
    assert boxes.id is None
    assert len(boxes) == 4
    assert "std" in str(boxes)


@MAKERS
@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (2, [2]),
        (-1, [3]),
        (np.int64(1), [1]),
        (torch.tensor(1), [1]),
        (slice(1, 3), [1, 2]),
        (slice(0, 0), []),
        ([3, 0], [3, 0]),
        (np.array([3, 3, 1]), [3, 3, 1]),
        (torch.tensor([2, 0]), [2, 0]),
        (np.array([True, False, False, True]), [0, 3]),
    ],
)
@pytest.mark.parametrize("to_numpy", [False, True])
def test_indexing_carries_the_fields(make, index, rows, to_numpy):
    boxes = make().numpy() if to_numpy else make()
    picked = boxes[index]
    assert type(picked) is type(boxes)
    assert len(picked) == len(rows)
    np.testing.assert_array_equal(picked.cls, rows)
    for name, value in boxes.fields.items():
        np.testing.assert_array_equal(picked.fields[name], np.asarray(value)[rows])


def test_iteration_ends_and_yields_single_rows():
    rows = list(detect(3))
    assert [int(row.cls.item()) for row in rows] == [0, 1, 2]
    assert [tuple(row.std.shape) for row in rows] == [(1, 4)] * 3
    assert [tuple(row.iou.shape) for row in rows] == [(1,)] * 3
    assert [int(row.cls.item()) for row in reversed(detect(3))] == [2, 1, 0]


@MAKERS
def test_conversions_take_the_fields_along(make):
    boxes = make()
    assert all(isinstance(value, np.ndarray) for value in boxes.numpy().fields.values())
    assert all(isinstance(value, torch.Tensor) for value in boxes.numpy().to("cpu").fields.values())
    half = boxes.to(torch.float16)
    assert {value.dtype for value in (half.data, *half.fields.values())} == {torch.float16}
    meta = boxes.to("meta")
    assert {value.device.type for value in (meta.data, *meta.fields.values())} == {"meta"}
    np.testing.assert_array_equal(boxes.cpu().numpy().std, boxes.std)
    assert boxes.numpy().numpy().std is not None
    assert boxes.numpy().cpu().std is not None


@MAKERS
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_takes_the_fields_along(make):
    boxes = make().cuda()
    assert all(value.is_cuda for value in (boxes.data, *boxes.fields.values()))
    np.testing.assert_array_equal(boxes.numpy().std, make().std)


def test_fields_take_the_kind_of_the_boxes():
    data = detect().data
    assert isinstance(UncertBoxes(data, SHAPE, {"std": np.ones((4, 4))}).std, torch.Tensor)
    assert isinstance(UncertBoxes(data.numpy(), SHAPE, {"std": torch.ones(4, 4)}).std, np.ndarray)


def test_one_dimensional_data_is_one_box():
    box = UncertBoxes(detect().data[0], SHAPE, {"std": torch.ones(1, 4)})
    assert len(box) == 1


def test_no_fields_means_none():
    boxes = UncertBoxes(detect().data, SHAPE)
    assert (boxes.std, boxes.stdn, boxes.iou, boxes.side_std) == (None,) * 4
    assert boxes[1:3].numpy().fields == {}
    assert UncertOBB(oriented().data, SHAPE).side_std is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": torch.ones(3, 4)}, r"field 'std' has shape \(3, 4\), 4 boxes need \(4, 4\)"),
        ({"std": torch.ones(4, 5)}, r"field 'std' has shape \(4, 5\)"),
        ({"iou": torch.ones(4, 1)}, r"field 'iou' has shape \(4, 1\), 4 boxes need \(4,\)"),
        ({"iou": torch.tensor(0.5)}, r"field 'iou' has shape \(\)"),
        ({"depth": torch.ones(5, 2)}, r"field 'depth' has shape \(5, 2\), 4 boxes need \(4, 2\)"),
        ({"depth": torch.tensor(0.5)}, r"field 'depth' has shape \(\), 4 boxes need \(4,\)"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UncertBoxes(detect().data, SHAPE, fields)


def test_oriented_std_has_five_columns():
    with pytest.raises(ValueError, match=r"4 boxes need \(4, 5\)"):
        UncertOBB(oriented().data, SHAPE, {"std": torch.ones(4, 4)})
    with pytest.raises(ValueError, match=r"4 boxes need \(4, 7\)"):
        UncertOBB(oriented().data, SHAPE, {"sides": torch.ones(4, 4)})


def test_copies_survive_pickle_and_deepcopy():
    boxes = detect()
    for clone in (pickle.loads(pickle.dumps(boxes)), copy.deepcopy(boxes)):
        torch.testing.assert_close(clone[1].std, boxes[1].std)


@pytest.mark.parametrize("to_numpy", [False, True])
def test_relative_std_leaves_the_angle(to_numpy):
    boxes, obb = detect(1), oriented(1)
    if to_numpy:
        boxes, obb = boxes.numpy(), obb.numpy()
    # width 200, height 100: std (0, 0.1, 0.2, 0.3) -> (0, 0.1/100, 0.2/200, 0.3/100)
    np.testing.assert_allclose(boxes.stdn, [[0, 0.001, 0.001, 0.003]], rtol=1e-6)
    np.testing.assert_allclose(obb.stdn, [[0, 0.001, 0.001, 0.003, 0.4]], rtol=1e-6)


def test_side_std_of_oriented_boxes():
    obb = oriented(2)
    torch.testing.assert_close(obb.side_std, obb.fields["sides"][:, :4])
    # independent sides of equal sigma s: var(w) = var(l) + var(r) = 2 s^2
    sigma = torch.tensor([[3.0, 4.0, 3.0, 4.0]])
    std = torch.tensor([[9.0, 9.0, 3 * math.sqrt(2), 4 * math.sqrt(2), 0.1]])
    torch.testing.assert_close(UncertOBB(obb.data[:1], SHAPE, {"std": std}).side_std, sigma)


class TestAdopt:
    """What happens to the fields when a tracker replaces the boxes."""

    @staticmethod
    def tracks(boxes, **change):
        """Stock boxes with track ids, moved by 2 pixels."""
        coordinates = boxes.data[:, :-2] + 2 * torch.tensor([1.0, 1, 0, 0, 0])[: boxes.data.shape[1] - 2]
        score = change.get("score", boxes.conf)
        data = torch.cat((coordinates, torch.arange(len(boxes))[:, None] + 7, score[:, None], boxes.cls[:, None]), 1)
        return (OBB if isinstance(boxes, UncertOBB) else Boxes)(data, SHAPE)

    @MAKERS
    def test_rows_keep_their_fields(self, make):
        boxes = make()
        tracked = boxes.adopt(self.tracks(boxes))
        assert type(tracked) is type(boxes)
        assert tracked.id.tolist() == [7, 8, 9, 10]
        assert (tracked.xyxy != boxes.xyxy).any()
        for name, value in boxes.fields.items():
            torch.testing.assert_close(tracked.fields[name], value, rtol=0, atol=0)

    def test_a_track_of_another_detection_has_unknown_fields(self):
        boxes = detect()
        before = boxes.std.clone()
        score = boxes.conf.clone()
        score[3] = 0.31  # row 3 was picked by index -1; its track comes from a box that suppression dropped
        tracked = boxes.adopt(self.tracks(boxes, score=score))
        assert tracked.std[3].isnan().all()
        assert tracked.iou[3].isnan()
        torch.testing.assert_close(tracked.std[:3], before[:3])
        torch.testing.assert_close(boxes.std, before)

    def test_untracked_boxes_are_taken_as_they_are(self):
        boxes = detect()
        rescored = boxes.data.clone()
        rescored[:, 4] *= 0.5
        torch.testing.assert_close(boxes.adopt(Boxes(rescored, SHAPE)).std, boxes.std)

    def test_other_number_of_rows_drops_the_fields(self):
        boxes = detect()
        assert boxes.adopt(Boxes(boxes.data[:2], SHAPE)).fields == {}

    @pytest.mark.parametrize("to_numpy", [False, True])
    @pytest.mark.parametrize("half_turns", [-1, 1, 2, -3])
    def test_sides_follow_an_angle_past_the_half_turn(self, half_turns, to_numpy):
        obb = oriented(2)
        data = obb.data.clone()
        data[1, 4] += half_turns * math.pi
        obb, stock = (obb.numpy(), OBB(data.numpy(), SHAPE)) if to_numpy else (obb, OBB(data, SHAPE))
        sides = obb.adopt(stock).fields["sides"]
        # row 1 is (1.0, 1.1, ... 1.6): an odd number of half turns exchanges l/r and t/b and negates the offset
        want = [1.2, 1.3, 1.0, 1.1, 1.4, -1.5, -1.6] if half_turns % 2 else [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
        np.testing.assert_allclose(sides[1], want, rtol=1e-6)
        np.testing.assert_allclose(sides[0], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rtol=1e-6)
        np.testing.assert_allclose(obb.fields["sides"][1], [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], rtol=1e-6)

    @pytest.mark.parametrize("to_numpy", [False, True])
    @pytest.mark.parametrize("quarters", range(-5, 6))
    def test_sigma_follows_the_axes_of_the_box(self, quarters, to_numpy):
        generator = torch.Generator().manual_seed(quarters + 5)
        data = torch.rand(6, 7, generator=generator, dtype=torch.float64) + torch.tensor([50, 40, 30, 10, 0, 0, 0])
        sides = torch.rand(6, 7, generator=generator, dtype=torch.float64) * torch.tensor([3, 3, 3, 3, 0.2, 9, 9])
        std = rbox_std(sides[:, :4], sides[:, 4], sides[:, 5:], data[:, 4], angle_known=True)
        obb = UncertOBB(data, SHAPE, {"std": std, "sides": sides})
        turned = data.clone()
        turned[::2, 4] += quarters * math.pi / 2
        swap = [0, 1, 3, 2, 4] if quarters % 2 else [0, 1, 2, 3, 4]
        turned[::2] = turned[::2][:, [*swap, 5, 6]]
        found = obb.adopt(OBB(turned.numpy() if to_numpy else turned, SHAPE))
        # The covariance knows nothing of the code under test: that of the same box, w and h in the other order.
        want = covariance(obb)
        want[::2] = want[::2][:, swap][:, :, swap]
        np.testing.assert_allclose(covariance(found), want, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(np.asarray(found.std) ** 2, want.diagonal(0, 1, 2), rtol=1e-6)
        assert obb.std is not found.std
        torch.testing.assert_close(obb.std, std)

    @pytest.mark.parametrize("to_numpy", [False, True])
    def test_conformal_intervals_follow_the_axes_of_the_box(self, to_numpy):
        obb = oriented(2)
        scores = np.arange(1.0, 20)[:, None] * np.array([1, 1, 2, 5, 1])
        obb = UncertOBB(obb.data, SHAPE, obb.fields, Conformal.fit(scores, np.ones_like(scores)))
        turned = obb.data[:, [0, 1, 3, 2, 4, 5, 6]].clone()
        turned[:, 4] += math.pi / 2
        turned[0] = obb.data[0]
        tracked = obb.adopt(OBB(turned.numpy() if to_numpy else turned, SHAPE))
        interval, before = np.asarray(tracked.interval(0.9)), np.asarray(obb.interval(0.9))
        np.testing.assert_allclose(interval[0], before[0], rtol=1e-6)
        np.testing.assert_allclose(interval[1, :4], before[1, [0, 1, 3, 2]], rtol=1e-6)
        np.testing.assert_allclose(np.asarray(tracked[1:].interval(0.9)), interval[1:], rtol=1e-6)
        assert tracked[:0].interval(0.9).shape == (0, 5, 2)
        back = tracked.adopt(OBB(obb.data.numpy() if to_numpy else obb.data, SHAPE))
        np.testing.assert_allclose(np.asarray(back.interval(0.9)), before, rtol=1e-6)

    def test_no_rows(self):
        empty = detect()[:0]
        assert empty.adopt(self.tracks(empty)).std.shape == (0, 4)


class TestInterval:
    """Intervals around coordinates: scores 1 ... 19 per coordinate, and 2 ... 20 for the largest of a box."""

    @staticmethod
    def conformal(columns):
        scores = np.repeat(np.arange(1.0, 20)[:, None], columns, axis=1)
        scores[:, 0] += 1
        return Conformal.fit(scores, np.ones_like(scores))

    def calibrated(self, make):
        boxes = make()
        return type(boxes)(boxes.data, SHAPE, boxes.fields, self.conformal(boxes.std.shape[1]))

    @MAKERS
    def test_gaussian_without_a_calibration(self, make):
        boxes = make()
        found = boxes.interval(0.6826894921370859)  # one sigma
        centre = boxes.xyxy if make is detect else boxes.xywhr
        assert found.shape == (4, boxes.std.shape[1], 2)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[..., 0], centre - boxes.std)
        torch.testing.assert_close(found[..., 1], centre + boxes.std)
        torch.testing.assert_close(boxes.interval(), boxes.interval(0.9))

    def test_gaussian_boxwise(self):
        boxes = detect()
        # Each of four independent coordinates is within one sigma: 0.6827^4 of all boxes.
        torch.testing.assert_close(
            boxes.interval(0.6826894921370859**4, boxwise=True), boxes.interval(0.6826894921370859)
        )

    @MAKERS
    def test_conformal(self, make):
        boxes = self.calibrated(make)
        count = boxes.std.shape[1]
        std = boxes.std.clip(1e-3)  # as the scores were measured
        # Rank ceil(20 * 0.5) = 10, of the first coordinate 11.
        want = torch.tensor([11.0] + [10.0] * (count - 1)) * std
        torch.testing.assert_close(boxes.interval(0.5)[..., 1], boxes.data[:, :count] + want)
        torch.testing.assert_close(boxes.interval(0.5, boxwise=True)[..., 0], boxes.data[:, :count] - 11 * std)

    @MAKERS
    @pytest.mark.parametrize("boxwise", [False, True])
    def test_stays_in_step(self, make, boxwise):
        boxes = self.calibrated(make)
        found = boxes.interval(0.8, boxwise)
        for index in (slice(1, 3), [3, 0], torch.tensor([True, False, False, True])):
            torch.testing.assert_close(boxes[index].interval(0.8, boxwise), found[index])
        torch.testing.assert_close(boxes[2].interval(0.8, boxwise), found[2:3])
        assert boxes[:0].interval(0.8, boxwise).shape == found[:0].shape
        torch.testing.assert_close(boxes.cpu().interval(0.8, boxwise), found)
        torch.testing.assert_close(boxes.to(torch.float64).interval(0.8, boxwise).float(), found)
        array = boxes.numpy().interval(0.8, boxwise)
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, found, rtol=1e-6)
        for copied in (copy.deepcopy(boxes), pickle.loads(pickle.dumps(boxes))):
            torch.testing.assert_close(copied.interval(0.8, boxwise), found)

    @MAKERS
    def test_follows_the_track(self, make):
        boxes = self.calibrated(make)
        tracked = boxes.adopt(TestAdopt.tracks(boxes))
        moved = (tracked.data - torch.cat((boxes.data[:, :-2], tracked.data[:, -3:]), 1))[:, : boxes.std.shape[1]]
        torch.testing.assert_close(tracked.interval(0.5), boxes.interval(0.5) + moved[..., None])
        score = boxes.conf.clone()
        score[3] = 0.31  # a track without a detection
        assert boxes.adopt(TestAdopt.tracks(boxes, score=score)).interval(0.5)[3].isnan().all()

    @MAKERS
    def test_levels(self, make):
        for boxes in (make(), self.calibrated(make)):
            for level in (0, 1, -1, 2.0, math.nan):
                with pytest.raises(ValueError, match="level must be between 0 and 1"):
                    boxes.interval(level)
        with pytest.raises(ValueError, match=r"needs a calibration by 99 boxes, it had 19: the largest level is 0\.95"):
            self.calibrated(make).interval(0.99)

    def test_without_sigma(self):
        assert UncertBoxes(detect().data, SHAPE).interval(0.9) is None
        with pytest.raises(ValueError, match="level must be"):
            UncertBoxes(detect().data, SHAPE).interval(9)
