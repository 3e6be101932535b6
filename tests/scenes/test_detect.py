from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_uncert import YOLO
from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.options import OptionError
from yolo_uncert.scenes import SceneError, detect_scene
from yolo_uncert.scenes.finder import _scaled, settle


def scattered(width, height, seed=0):
    """Rectangles of up to 28 pixels, one in each cell of 40 pixels, at least 3 pixels apart."""
    rng = np.random.default_rng(seed)
    cells = [(x, y) for x in range(0, width - 39, 40) for y in range(0, height - 39, 40)]
    places = rng.integers(0, 9, (len(cells), 2))
    sizes = rng.integers(6, 29, (len(cells), 2))
    corner = np.array(cells) + places
    return np.concatenate((corner, corner + sizes), 1).tolist()


def rows(result):
    data = np.concatenate((result.boxes.data, result.boxes.std), 1)
    return data[np.lexsort(data.T)]


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize(("tile", "overlap"), [(128, 40), (97, 61), (300, 100), (128, 90)])
def test_tiles_find_what_the_whole_image_shows(rectangles, look_at, blank_scene, task, tile, overlap):
    boxes = scattered(400, 320)
    image = blank_scene(400, 320, boxes)
    image[:, :200] = np.where(image[:, :200] > 0, 100, 0)
    whole = look_at(rectangles(task), image, 400, 0)
    tiled = look_at(rectangles(task), image, tile, overlap)
    assert len(whole) == len(boxes) == 80
    assert rows(tiled) == pytest.approx(rows(whole), abs=1e-9)
    assert not tiled.boxes.fields["cut"].any()


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_an_object_on_the_crossing_of_four_tiles_comes_out_once_and_whole(rectangles, look_at, blank_scene, task):
    image = blank_scene(200, 200, [(85, 88, 117, 112)])  # tiles begin at 0, 60, 100
    result = look_at(rectangles(task), image, 100, 40)
    assert result.tiles == 9
    assert result.polygons.min(1).tolist() == [[85, 88]]
    assert result.polygons.max(1).tolist() == [[117, 112]]


def test_an_object_longer_than_the_overlap_comes_out_in_marked_parts(rectangles, look_at, blank_scene):
    image = blank_scene(180, 100, [(20, 40, 160, 60)])
    result = look_at(rectangles(), image, 100, 20)
    assert result.boxes.fields["cut"].tolist() == [1.0, 1.0]
    assert sorted(result.boxes.xyxy[:, [0, 2]].tolist()) == [[20, 100], [80, 160]]


def test_boxes_that_reach_out_of_their_tile_meet_those_of_the_next_row(rectangles, look_at, blank_scene):
    class Reaching(rectangles):
        def find(self, tiles):
            # The same object: 60 to 98 in the first tile, which ends at 100, and 64 to 106 from the second one.
            (score, y, h), self.seen = ((0.8, 79.0, 38.0), (0.9, -15.0, 42.0))[self.seen], self.seen + 1
            gaussian = torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.1, 0.0, 0.0]])
            box = torch.tensor([[50.0, y, 30.0, h, 0.0]])
            return [
                Candidates(box, torch.tensor([score]), torch.zeros(1), torch.zeros(1).long(), {"gaussian": gaussian})
            ]

    result = look_at(Reaching("obb"), blank_scene(100, 200, [(0, 0, 100, 200)]), 100, 0, batch=1)
    assert result.tiles == 2
    assert result.boxes.conf.tolist() == pytest.approx([0.9])


def test_what_an_end_to_end_head_selected_only_loses_its_duplicates(rectangles):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.5, 0.0, 10.5, 10.0], [40.0, 0.0, 50.0, 10.0]])
    scores, zeros = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3)
    found = Candidates(boxes, scores, zeros, zeros.long(), {"gaussian": torch.ones(3, 4)})
    finder = rectangles(suppress="soft", var_vote=True, conf=0.01)
    assert len(settle(found, finder.schema, finder.args).conf) == 3
    kept = settle(found, finder.schema, finder.args, end2end=True)
    assert torch.equal(kept.boxes, boxes[[0, 2]])
    assert torch.equal(kept.conf, scores[[0, 2]])


def test_an_angle_has_no_scale():
    assert _scaled("gaussian", torch.full((1, 7), 4.0), 2.0).tolist() == [[2, 2, 2, 2, 4, 2, 2]]
    assert _scaled("iou_aware", torch.full((1, 1), 0.5), 2.0).tolist() == [[0.5]]


def test_tiles_without_a_valid_pixel_are_not_looked_at(rectangles, look_at, blank_scene):
    pytest.importorskip("rasterio")
    image = np.dstack([blank_scene(200, 100, [(120, 20, 140, 40)])] * 4)
    image[:, :, 3] = 0
    image[:, 100:, 3] = 255
    finder = rectangles()
    result = look_at(finder, image, 100, 0)
    assert (result.tiles, result.empty_tiles, finder.seen, len(result)) == (2, 1, 1, 1)
    image[:, :, 3] = 0
    with pytest.raises(SceneError, match="no valid pixel"):
        look_at(finder, image, 100, 0)


def test_a_scene_without_objects(rectangles, look_at, blank_scene):
    result = look_at(rectangles("obb"), blank_scene(90, 50, []), 64, 8)
    assert (len(result), result.boxes.data.shape, result.boxes.std.shape) == (0, (0, 7), (0, 5))
    assert [result.geojson(layer=layer)["features"] for layer in ("boxes", "sigma")] == [[], []]


@pytest.fixture(scope="module", params=["detect", "obb"])
def model(tiny, request):
    import torch

    torch.manual_seed(0)
    return YOLO(tiny.yaml(request.param))


OPTIONS = {"conf": 1e-6, "device": "cpu", "max_det": 3000}


def test_one_tile_is_predict(model):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    options = {**OPTIONS, "var_vote": True}
    expected = model.predict(image, imgsz=96, verbose=False, **options)[0]
    predictor = model.predictor
    result = detect_scene(model, image, tile=96, overlap=10, **options)
    assert model.predictor is predictor, "predict goes on as before"
    boxes = expected.boxes if expected.obb is None else expected.obb
    assert len(result) == len(boxes) > 10
    assert result.boxes.data == pytest.approx(boxes.data.numpy(), abs=1e-3)
    for name, values in boxes.fields.items():
        assert result.boxes.fields[name] == pytest.approx(values.numpy(), abs=1e-3)


def test_several_tiles_of_a_real_model(model):
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    result = detect_scene(model, image, tile=64, overlap=16, batch=3, **OPTIONS)
    assert result.tiles == 3 * 2
    assert result.boxes.orig_shape == (100, 150)
    assert (np.diff(result.boxes.conf) <= 0).all()
    assert np.isfinite(result.boxes.std).all()
    assert result.boxes.interval(0.9).shape == (*result.boxes.std.shape, 2)


def test_an_end_to_end_head(tiny):
    image = np.random.default_rng(0).integers(0, 255, (64, 100, 3), dtype=np.uint8)
    result = detect_scene(YOLO(tiny.yaml("e2e")), image, tile=64, overlap=32, conf=1e-6, device="cpu")
    assert len(result) > 0


def test_a_model_of_another_task():
    with pytest.raises(OptionError, match="this one's task is classify"):
        detect_scene(YOLO("yolo11n-cls.yaml"), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be a whole number of at least 1, not 0"),
        ({"batch": 0.5}, "batch must be a whole number"),
        ({"overlap": 2000}, "overlap from 0 to tile - 1"),
        ({"rows": "csv"}, "scene: rows is about single images"),
        ({"save": True}, "scene: save is about single images"),
        ({"project": "x"}, "scene: project is about single images"),
        ({"stretch": 98}, "two percentiles"),
        ({"stretch": "2-98"}, "two percentiles"),
        ({"bands": (1, 2)}, "one or three numbers from 1 to 3"),
        ({"bands": 4}, "one or three numbers from 1 to 3"),
        ({"stretch": (98, 2)}, "two percentiles"),
        ({"suppress": "sotf"}, "suppress"),
        ({"vote_iuo": 0.1}, "did you mean 'vote_iou'"),
    ],
)
def test_wrong_options(model, options, message):
    with pytest.raises(OptionError, match=message):
        detect_scene(model, np.zeros((8, 8, 3), np.uint8), **options)
