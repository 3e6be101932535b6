from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.ops import Suppression, suppress
from yolo_uncert.scenes.merge import Merger, extents, groups
from yolo_uncert.scenes.tiles import Tile


def candidates(boxes, scores=None, classes=None, std=1.0):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), -1)
    scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    classes = torch.zeros(len(boxes)) if classes is None else torch.tensor(classes)
    fields = {"gaussian": torch.as_tensor(std).expand(len(boxes), 4 if boxes.shape[1] == 4 else 7).clone()}
    return Candidates(boxes, scores, classes, torch.arange(len(boxes)), fields)


def merger_of(finder, size=(300, 300), agnostic=False):
    return Merger(size, finder.settle, agnostic=lambda: agnostic)


def random_boxes(count, size, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size, (count, 2))
    return np.concatenate((corner, corner + rng.uniform(3, 60, (count, 2))), 1)


def test_overlapping_boxes_are_in_one_group():
    boxes = random_boxes(60, 600)
    group = groups(boxes)
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high > low).all(2)
    assert (group[:, None] == group[None])[overlap].all()
    assert 1 < len(np.unique(group)) < len(boxes), "far ones are apart"
    assert groups(np.zeros((0, 4))).shape == (0,)


def test_extents_of_an_oriented_box():
    # A 10 x 10 square turned by 45 degrees reaches 5 sqrt(2) from its centre.
    found = extents(torch.tensor([[50.0, 40.0, 10.0, 10.0, np.pi / 4]]))
    reach = 5 * np.sqrt(2)
    assert found == pytest.approx(np.array([[50 - reach, 40 - reach, 50 + reach, 40 + reach]]), abs=1e-5)


@pytest.mark.parametrize("var_vote", [False, True])
def test_groups_solved_apart_are_the_whole_solved_at_once(rectangles, var_vote):
    rng = np.random.default_rng(3)
    boxes = np.repeat(random_boxes(40, 1000, seed=1), 3, axis=0) + rng.normal(0, 1, (120, 4)).astype(np.float32)
    classes = (rng.uniform(size=120) < 0.3).astype(float)
    scores = rng.uniform(0.3, 1, 120)
    std = torch.from_numpy(rng.uniform(0.5, 3, (120, 4)))
    finder = rectangles(var_vote=var_vote)
    merger = merger_of(finder, (1100, 1100))
    whole = Tile(0, 0, 1100, 1100)
    for rows in np.array_split(np.arange(120), 3):
        merger.add(candidates(boxes[rows], scores[rows], classes[rows], std[rows]), whole, [])
    parts = [merger.settle(500.0), merger.settle()]
    assert parts[0] is not None
    assert len(parts[1].boxes) > 0
    vote = "var" if var_vote else "off"
    options = Suppression("hard", iou_threshold=0.7, score_threshold=0.25, vote=vote, max_det=1000)
    expected = suppress(boxes.astype(np.float32).astype(float), scores, classes.astype(int), std.numpy() ** 2, options)
    found = torch.cat([part.boxes for part in parts]).numpy()
    order = np.argsort(-torch.cat([part.conf for part in parts]).numpy())
    assert found[order] == pytest.approx(expected.boxes, abs=1e-4)
    labels = torch.cat([part.cls for part in parts]).numpy()[order]
    assert labels.tolist() == classes[expected.index].tolist()
    assert merger.settle(500.0) is None
    assert [len(rows) for rows in (merger.settle().boxes, merger.settle().fields["std"])] == [0, 0]


def test_boxes_that_tiles_to_come_may_meet_are_kept_back(rectangles):
    merger = merger_of(rectangles())
    merger.add(candidates([[10, 10, 30, 30], [200, 80, 220, 120]]), Tile(0, 0, 300, 150), [])
    first = merger.settle(100.0)
    assert first.boxes.tolist() == [[10, 10, 30, 30]]
    assert merger.settle(100.0) is None
    assert merger.settle().boxes.tolist() == [[200, 80, 220, 120]]


def test_a_cut_box_gives_way_where_another_tile_sees_the_place(rectangles):
    left, right = Tile(0, 0, 100, 300), Tile(60, 0, 160, 300)
    merger = merger_of(rectangles())
    merger.add(candidates([[80, 10, 100, 30]], [0.95]), left, [right])  # the visible half, with the better score
    merger.add(candidates([[20, 10, 60, 30]], [0.6]), right, [left])
    found = merger.settle()
    assert found.boxes.tolist() == [[80, 10, 120, 30]]
    assert found.fields["cut"].tolist() == [0.0]


def test_a_box_that_no_tile_sees_whole_stays_and_is_marked(rectangles):
    left, right = Tile(0, 0, 100, 300), Tile(60, 0, 160, 300)
    merger = merger_of(rectangles())
    merger.add(candidates([[10, 10, 105, 30]]), left, [right])
    found = merger.settle()
    assert found.boxes.tolist() == [[10, 10, 100, 30]], "nothing is known of what lies outside the tile"
    assert found.fields["cut"].tolist() == [1.0]


def test_what_lies_behind_an_inner_border_is_dropped(rectangles):
    merger = merger_of(rectangles())
    merger.add(candidates([[105, 10, 125, 30], [10, 50, 40, 70]]), Tile(0, 0, 100, 300), [])
    assert merger.settle().boxes.tolist() == [[10, 50, 40, 70]]


def test_two_views_of_an_object_vote(rectangles):
    # Sides at 80 (sigma 1) and 82 (sigma 2); IoU = (80..120 with 82..120) = 38 / 40 = 0.95, so the second weighs
    # exp(-(0.05^2) / 0.02) / 4 against 1.
    left, right = Tile(0, 0, 130, 300), Tile(60, 0, 190, 300)
    merger = merger_of(rectangles(var_vote=True))
    merger.add(candidates([[80, 10, 120, 30]], [0.9], std=1.0), left, [right])
    merger.add(candidates([[22, 10, 60, 30]], [0.6], std=2.0), right, [left])
    found = merger.settle()
    weight = np.exp(-(0.05**2) / 0.02) / 4
    assert found.boxes[0].tolist() == pytest.approx([(80 + 82 * weight) / (1 + weight), 10, 120, 30], abs=1e-5)


@pytest.mark.parametrize(("agnostic", "count"), [(False, 2), (True, 1)])
def test_classes_act_on_each_other_only_if_asked(rectangles, agnostic, count):
    merger = merger_of(rectangles(), agnostic=agnostic)
    merger.add(candidates([[10, 10, 30, 30], [10, 10, 30, 31]], classes=[0.0, 1.0]), Tile(0, 0, 300, 300), [])
    assert len(merger.settle().boxes) == count


def test_more_boxes_than_an_image_may_have(rectangles):
    finder = rectangles(max_det=3)
    merger = merger_of(finder)
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(12)]
    merger.add(candidates(boxes), Tile(0, 0, 300, 300), [])
    assert len(merger.settle().boxes) == 12
