from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.engine.results import Results
from ultralytics.trackers.track import TRACKER_MAP, on_predict_postprocess_end
from ultralytics.utils import YAML, IterableSimpleNamespace
from ultralytics.utils.checks import check_yaml

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults

NAMES = {0: "cell", 1: "platelet"}
HEIGHT, WIDTH = 200, 400
QUIET = {"labels": False, "conf": False}

BOXES = torch.tensor(
    [
        [40.0, 40, 140, 120, 0.9, 0],
        [200, 50, 300, 150, 0.8, 1],
        [20, 130, 120, 190, 0.7, 0],
        [220, 60, 380, 170, 0.6, 1],
    ]
)
OBBS = torch.tensor([[90.0, 80, 100, 60, 0.3, 0.9, 0], [250, 100, 100, 60, -0.6, 0.8, 1]])
BOX_FIELDS = {"std": torch.arange(16).reshape(4, 4) / 4 + 1, "iou": torch.tensor([0.95, 0.85, 0.75, 0.65])}
OBB_FIELDS = {
    "std": torch.tensor([[2.0, 4, 6, 8, 0.1], [1, 2, 3, 4, 0.2]]),
    "sides": torch.tensor([[3.0, 4, 5, 6, 0.1, 1, -1], [2, 2, 2, 2, 0.2, 0, 0]]),
}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def detect(image, **fields):
    return UncertResults(image, "a.jpg", NAMES, boxes=BOXES.clone(), fields=fields or BOX_FIELDS)


def oriented(image, **fields):
    return UncertResults(image, "a.jpg", NAMES, obb=OBBS.clone(), fields=fields or OBB_FIELDS)


def bare(image, cls=UncertResults, task="boxes"):
    return cls(image, "a.jpg", NAMES, **{task: (BOXES if task == "boxes" else OBBS).clone()})


def changed(a, b):
    """Rows and columns of the pixels that differ."""
    return (np.asarray(a) != np.asarray(b)).any(-1)


class TestConstruction:
    def test_boxes_and_fields(self, image):
        result = detect(image)
        assert isinstance(result.boxes, UncertBoxes)
        assert result.obb is None
        assert len(result) == 4
        torch.testing.assert_close(result.boxes.std, BOX_FIELDS["std"])
        assert isinstance(oriented(image).obb, UncertOBB)

    def test_speed_is_the_stock_one(self, image):
        speed = {"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0}
        assert UncertResults(image, "a.jpg", NAMES, speed=speed).speed == speed
        assert set(bare(image).speed) == {"preprocess", "inference", "postprocess"}

    def test_fields_need_their_boxes(self, image):
        with pytest.raises(ValueError, match="either boxes or obb"):
            UncertResults(image, "a.jpg", NAMES, fields=BOX_FIELDS)
        with pytest.raises(ValueError, match="either boxes or obb"):
            UncertResults(image, "a.jpg", NAMES, boxes=BOXES, obb=OBBS, fields=BOX_FIELDS)

    def test_upstream_still_builds_on_the_seams_used_here(self):
        assert {"boxes", "obb"} <= set(bare(np.zeros((8, 8, 3), np.uint8), Results)._keys)
        assert bare(np.zeros((8, 8, 3), np.uint8)).verbose() == "2 cells, 2 platelets, "


class TestRows:
    @pytest.mark.parametrize("convert", ["cpu", "numpy"])
    def test_conversion_keeps_class_and_fields(self, image, convert):
        result = detect(image)
        result.save_dir = "runs"
        copy = getattr(result, convert)()
        assert type(copy) is UncertResults
        assert copy.save_dir == "runs"
        assert type(copy.boxes) is UncertBoxes
        np.testing.assert_array_equal(copy.boxes.std, BOX_FIELDS["std"])

    def test_to_dtype(self, image):
        assert detect(image).to(dtype=torch.float64).boxes.std.dtype == torch.float64

    @pytest.mark.parametrize(("index", "rows"), [(1, [1]), (slice(1, 3), [1, 2]), (np.array([3, 0]), [3, 0])])
    def test_indexing(self, image, index, rows):
        picked = detect(image)[index]
        torch.testing.assert_close(picked.boxes.std, BOX_FIELDS["std"][rows])
        torch.testing.assert_close(picked.boxes.iou, BOX_FIELDS["iou"][rows])

    def test_new_is_empty(self, image):
        new = detect(image).new()
        assert type(new) is UncertResults
        assert new.boxes is None
        assert len(new) == 0


class TestUpdate:
    def test_as_a_tracker_does(self, image):
        index = np.array([2, 0])
        tracked = detect(image)[index]
        ids = torch.tensor([[7.0], [8.0]])
        tracked.update(boxes=torch.cat((BOXES[index, :4] + 1.5, ids, BOXES[index, 4:]), 1))
        assert type(tracked.boxes) is UncertBoxes
        assert tracked.boxes.id.tolist() == [7, 8]
        torch.testing.assert_close(tracked.boxes.std, BOX_FIELDS["std"][index])
        torch.testing.assert_close(tracked.boxes.iou, BOX_FIELDS["iou"][index])

    def test_oriented(self, image):
        tracked = oriented(image)[np.array([1])]
        tracked.update(obb=torch.cat((OBBS[1:, :5], torch.tensor([[3.0]]), OBBS[1:, 5:]), 1))
        assert type(tracked.obb) is UncertOBB
        assert tracked.boxes is None
        torch.testing.assert_close(tracked.obb.fields["sides"], OBB_FIELDS["sides"][1:])

    def test_boxes_are_clipped_as_upstream_does(self, image):
        result = detect(image)
        result.update(boxes=BOXES + torch.tensor([-100.0, 0, 0, 0, 0, 0]))
        assert result.boxes.xyxy[0, 0] == 0

    def test_other_number_of_rows_drops_the_fields(self, image):
        result = detect(image)
        result.update(BOXES[:2])
        assert len(result) == 2
        assert result.boxes.std is None

    def test_where_there_were_none(self, image):
        result = UncertResults(image, "a.jpg", NAMES)
        result.update(boxes=BOXES)
        assert type(result.boxes) is UncertBoxes


class TestTrackers:
    """Ultralytics' own trackers, driven by its own callback."""

    @staticmethod
    def predictor(tracker, task="detect", **changes):
        args = IterableSimpleNamespace(**{**YAML.load(check_yaml(f"{tracker}.yaml")), "gmc_method": "none", **changes})
        args.device = torch.device("cpu")
        return SimpleNamespace(
            args=SimpleNamespace(mode="track", task=task),
            dataset=SimpleNamespace(mode="video", bs=1),
            trackers=[TRACKER_MAP[tracker](args=args)],
            vid_path=["a.jpg"],
        )

    @staticmethod
    def step(predictor, result):
        predictor.results = [result]
        on_predict_postprocess_end(predictor)
        return predictor.results[0]

    @pytest.mark.parametrize("tracker", ["bytetrack", "botsort", "ocsort", "fasttrack", "tracktrack"])
    @pytest.mark.parametrize("make", [detect, oriented])
    def test_every_track_has_the_uncertainty_of_its_detection(self, image, tracker, make):
        task = "obb" if make is oriented else "detect"
        predictor = self.predictor(tracker, task, track_high_thresh=0.3, new_track_thresh=0.3)
        for order in ([0, 1], [1, 0], [1, 0], [0, 1]):
            shown = self.step(predictor, make(image)[order])
        found = shown.obb if task == "obb" else shown.boxes
        source = OBB_FIELDS if task == "obb" else BOX_FIELDS
        assert sorted(found.cls.tolist()) == [0, 1]  # row 0 has class 0, row 1 class 1
        assert found.is_track
        torch.testing.assert_close(found.std, source["std"][found.cls.long()])

    def test_a_box_recovered_from_suppression_has_no_uncertainty_of_another(self, image):
        predictor = self.predictor("tracktrack")
        for _ in range(4):
            assert len(self.step(predictor, detect(image)[:2])) == 2
        # suppression now drops box 1, and TrackTrack gets it back from its looser second call, without a row
        predictor._raw_preds = torch.zeros(1)
        predictor._postprocess_im = predictor._postprocess_im0s = None
        predictor._orig_postprocess = lambda *args, iou: [detect(image)[:2]]
        shown = self.step(predictor, detect(image)[:1])
        rows = shown.boxes.cls.long().tolist()
        assert sorted(rows) == [0, 1]
        torch.testing.assert_close(shown.boxes.std[rows.index(0)], BOX_FIELDS["std"][0])
        assert shown.boxes.std[rows.index(1)].isnan().all()
        assert shown.summary()[rows.index(1)]["std"] is None


class TestSummary:
    def test_values(self, image):
        row = detect(image).summary()[1]
        assert row["std"] == {"x1": 2.0, "y1": 2.25, "x2": 2.5, "y2": 2.75}
        assert row["iou"] == 0.85
        assert {key: row[key] for key in ("name", "class", "confidence")} == {
            "name": "platelet",
            "class": 1,
            "confidence": 0.8,
        }

    def test_normalised(self, image):
        assert detect(image).summary(normalize=True, decimals=6)[1]["std"] == {
            "x1": 0.005,  # 2 / 400
            "y1": 0.01125,  # 2.25 / 200
            "x2": 0.00625,
            "y2": 0.01375,
        }
        # the angle stays in radians
        assert oriented(image).summary(normalize=True)[0]["std"] == {
            "x": 0.005,
            "y": 0.02,
            "w": 0.015,
            "h": 0.04,
            "angle": 0.1,
        }

    def test_without_fields_it_is_the_stock_summary(self, image):
        assert bare(image).summary() == bare(image, Results).summary()
        assert "iou" not in oriented(image).summary()[0]
        assert UncertResults(image, "a.jpg", NAMES).summary() == []
        assert detect(image)[:0].summary() == []

    def test_decimals_and_unknown_values(self, image):
        std = BOX_FIELDS["std"].clone() + 1 / 3
        std[0] = math.nan
        iou = torch.tensor([math.nan, 0.5, 0.5, 0.5])
        rows = detect(image, std=std, iou=iou).summary(decimals=2)
        assert rows[0]["std"] is None
        assert rows[0]["iou"] is None
        assert rows[1]["std"]["x1"] == 2.33

    @pytest.mark.parametrize("make", [detect, oriented])
    def test_exports(self, image, make):
        result = make(image)
        first = result.summary()[0]["std"]
        assert json.loads(result.to_json())[0]["std"] == pytest.approx(first)
        frame = result.to_df()
        assert frame["std"].to_list()[0] == pytest.approx(first)
        assert "std" in result.to_csv().splitlines()[0].split(",")

    def test_exports_with_an_unknown_first_row(self, image):
        std = BOX_FIELDS["std"].clone()
        std[0] = math.nan
        rows = json.loads(detect(image, std=std).to_json())
        assert rows[0]["std"] is None
        assert rows[1]["std"]["x1"] == 2.0


class TestSaveTxt:
    def lines(self, path):
        return [line.split() for line in path.read_text().splitlines()]

    @pytest.mark.parametrize("task", ["boxes", "obb"])
    @pytest.mark.parametrize("track", [False, True])
    def test_stock_columns_come_first_and_unchanged(self, image, tmp_path, task, track):
        result = detect(image) if task == "boxes" else oriented(image)
        if track:
            data = getattr(result, task).data
            ids = torch.arange(len(data))[:, None] + 5
            result.update(**{task: torch.cat((data[:, :-2], ids, data[:, -2:]), 1)})
        stock = Results(image, "a.jpg", NAMES, **{task: getattr(result, task).data})
        stock.save_txt(tmp_path / "stock.txt", save_conf=True)
        assert result.save_txt(tmp_path / "new" / "ours.txt", save_conf=True) == str(tmp_path / "new" / "ours.txt")
        n = 4 if task == "boxes" else 5
        ours = self.lines(tmp_path / "new" / "ours.txt")
        assert [line[:-n] for line in ours] == self.lines(tmp_path / "stock.txt")
        stdn = getattr(result, task).stdn
        np.testing.assert_allclose(np.array([line[-n:] for line in ours], float), stdn, rtol=1e-5)

    def test_a_label_file_stays_a_label_file(self, image, tmp_path):
        detect(image).save_txt(tmp_path / "ours.txt")
        bare(image, Results).save_txt(tmp_path / "stock.txt")
        assert (tmp_path / "ours.txt").read_text() == (tmp_path / "stock.txt").read_text()

    @pytest.mark.parametrize(
        ("save_conf", "save_std", "columns"), [(False, True, 9), (True, False, 6), (True, True, 10)]
    )
    def test_explicit_choice(self, image, tmp_path, save_conf, save_std, columns):
        detect(image).save_txt(tmp_path / "a.txt", save_conf, save_std)
        assert {len(line) for line in self.lines(tmp_path / "a.txt")} == {columns}

    def test_appends(self, image, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("existing\n")
        detect(image).save_txt(path, save_conf=True)
        detect(image).save_txt(path, save_conf=True)
        lines = self.lines(path)
        assert lines[0] == ["existing"]
        assert lines[1:5] == lines[5:]
        assert len(lines) == 9

    def test_nothing_found_writes_no_file(self, image, tmp_path):
        detect(image)[:0].save_txt(tmp_path / "a.txt", save_conf=True)
        UncertResults(image, "a.jpg", NAMES).save_txt(tmp_path / "a.txt", save_conf=True)
        assert not (tmp_path / "a.txt").exists()

    def test_without_std_it_is_the_stock_file(self, image, tmp_path):
        bare(image).save_txt(tmp_path / "ours.txt", save_conf=True)
        bare(image, Results).save_txt(tmp_path / "stock.txt", save_conf=True)
        assert (tmp_path / "ours.txt").read_text() == (tmp_path / "stock.txt").read_text()


class TestPlot:
    @pytest.mark.parametrize("task", ["boxes", "obb"])
    @pytest.mark.parametrize("options", [{}, {"labels": False}, {"pil": True}, {"line_width": 3, "conf": False}])
    def test_without_fields_it_is_the_stock_picture(self, image, task, options):
        ours, stock = bare(image, task=task).plot(**options), bare(image, Results, task).plot(**options)
        assert type(ours) is type(stock)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(stock))

    @pytest.mark.parametrize("make", [detect, oriented])
    def test_bands_off_is_the_stock_picture(self, image, make):
        task = "obb" if make is oriented else "boxes"
        np.testing.assert_array_equal(make(image).plot(bands=False), bare(image, Results, task).plot())
        np.testing.assert_array_equal(make(image).plot(bands=False, labels=None), bare(image, Results, task).plot())

    def test_boxes_off_and_nothing_found(self, image):
        np.testing.assert_array_equal(detect(image).plot(boxes=False), image)
        np.testing.assert_array_equal(detect(image)[:0].plot(), image)
        np.testing.assert_array_equal(UncertResults(image, "a.jpg", NAMES).plot(), image)

    def test_positional_arguments_are_those_of_upstream(self, image):
        np.testing.assert_array_equal(
            detect(image).plot(False, 3, labels=False), detect(image).plot(conf=False, line_width=3, labels=False)
        )

    def test_the_image_is_not_drawn_on(self, image):
        before = image.copy()
        detect(image).plot()
        np.testing.assert_array_equal(image, before)

    def test_bands_reach_one_sigma_from_the_side(self):
        std = torch.tensor([[4.0, 6, 8, 10]])
        grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        result = UncertResults(
            grey, "a.jpg", NAMES, boxes=torch.tensor([[100.0, 60, 300, 140, 0.9, 0]]), fields={"std": std}
        )
        marked = changed(result.plot(**QUIET), grey)
        rows, columns = np.flatnonzero(marked[:, 200]), np.flatnonzero(marked[100])
        # across x: 100 -+ 4 and 300 -+ 8; across y: 60 -+ 6 and 140 -+ 10; one pixel more at an edge is antialiasing
        np.testing.assert_allclose([columns[0], columns[-1] + 1], [96, 308], atol=1)
        np.testing.assert_allclose([rows[0], rows[-1] + 1], [54, 150], atol=1)
        np.testing.assert_allclose(columns[np.flatnonzero(np.diff(columns) > 1)] + 1, [104], atol=1)
        np.testing.assert_allclose(rows[np.flatnonzero(np.diff(rows) > 1)] + 1, [66], atol=1)

    def test_lines_are_drawn_over_the_bands(self):
        grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        fields = {"std": torch.full((4, 4), 5.0)}
        result = UncertResults(grey, "a.jpg", NAMES, boxes=BOXES, fields=fields)
        stock = bare(grey, Results).plot(line_width=1, **QUIET)
        lines = changed(stock, grey)
        with_bands = result.plot(line_width=1, **QUIET)
        # a line in the middle of its band has nearly its full colour: antialiasing lets some of the band through
        np.testing.assert_allclose(with_bands[60:100, 40].astype(int), stock[60:100, 40], atol=8)
        assert changed(with_bands, grey)[lines].all()
        assert changed(with_bands, grey).sum() > 3 * lines.sum()

    def test_oriented_bands_turn_with_the_box(self):
        grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)

        def plot(angle, **sigma):
            obb = torch.tensor([[200.0, 100, 80, 40, angle, 0.9, 0]])
            return UncertResults(grey, "a.jpg", NAMES, obb=obb, fields=sigma).plot(**QUIET)

        std = torch.tensor([[1.0, 1, 4 * math.sqrt(2), 8 * math.sqrt(2), 0.1]])
        flat = changed(plot(0.0, std=std), grey)
        turned = changed(plot(math.pi / 2, std=std), grey)
        # sides of sigma 4 (left, right) and 8 (top, bottom): 44 and 28 from the centre
        for marked, half_x, half_y in ((flat, 44, 28), (turned, 28, 44)):
            rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
            np.testing.assert_allclose([columns[0], columns[-1] + 1], [200 - half_x, 200 + half_x], atol=1.5)
            np.testing.assert_allclose([rows[0], rows[-1] + 1], [100 - half_y, 100 + half_y], atol=1.5)
        sides = torch.tensor([[4.0, 8, 4, 8, 0.1, 0, 0]])
        np.testing.assert_array_equal(plot(0.4, std=std), plot(0.4, std=torch.full((1, 5), 9.0), sides=sides))

    def test_torch_and_numpy_results_look_the_same(self, image):
        np.testing.assert_array_equal(detect(image).plot(), detect(image).numpy().plot())
        np.testing.assert_array_equal(oriented(image).plot(), oriented(image).numpy().plot())
        half = detect(image)
        half.boxes = half.boxes.to(torch.float16)
        assert half.plot().shape == image.shape

    @pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (HEIGHT, WIDTH, 2), (HEIGHT, WIDTH, 5)])
    def test_other_numbers_of_channels(self, shape):
        image = np.full(shape, 90, np.uint8)
        assert detect(image).plot().shape == (HEIGHT, WIDTH, 3)

    def test_given_images(self, image):
        other = np.zeros_like(image)
        on_other = detect(image).plot(img=other)
        np.testing.assert_array_equal(on_other, detect(other).plot())
        assert not other.any()
        tensor = torch.from_numpy(other.copy())
        np.testing.assert_array_equal(detect(image).plot(img=tensor), on_other)

    def test_pil(self, image):
        picture = detect(image).plot(pil=True)
        assert isinstance(picture, Image.Image)
        assert picture.size == (WIDTH, HEIGHT)
        assert changed(np.asarray(picture)[..., ::-1], image).any()

    def test_names_that_opencv_cannot_write(self, image):
        result = UncertResults(image, "a.jpg", {0: "细胞", 1: "b"}, boxes=BOXES, fields=BOX_FIELDS)
        assert result.plot().shape == image.shape

    def test_saved_picture(self, image, tmp_path):
        result = detect(image)
        file = result.save(str(tmp_path / "new" / "a.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(file))[..., ::-1], result.plot())

    def test_automatic_labels(self, image):
        large, small = detect(image), detect(image)
        small.update(boxes=BOXES * torch.tensor([0.1, 0.1, 0.1, 0.1, 1, 1]))
        np.testing.assert_array_equal(small.plot(), small.plot(**QUIET))
        assert changed(small.plot(labels=True), small.plot()).any()
        assert changed(large.plot(), large.plot(**QUIET)).any()
        assert changed(large.plot(labels=False), large.plot(**QUIET)).any()

    def test_crowds_have_no_labels(self, image):
        boxes = BOXES[:1].repeat(41, 1)
        crowd = UncertResults(image, "a.jpg", NAMES, boxes=boxes, fields={"std": torch.ones(41, 4)})
        np.testing.assert_array_equal(crowd.plot(), crowd.plot(**QUIET))
        assert changed(crowd[:40].plot(), crowd.plot()).any()

    def test_label_text(self, image, monkeypatch):
        texts = []
        monkeypatch.setattr(
            "ultralytics.utils.plotting.Annotator.box_label", lambda self, box, label, color: texts.append(label)
        )
        std = BOX_FIELDS["std"].clone()
        std[1] = math.nan
        result = detect(image, std=std)
        result.plot(labels=True)
        # mean sigma of row 0: (1 + 1.25 + 1.5 + 1.75) / 4 = 1.375, and 3 and 2 more in the rows below
        assert [text.replace("+-", "±") for text in texts] == [
            "platelet 0.60 ±4.4px",
            "cell 0.70 ±3.4px",
            "platelet 0.80",
            "cell 0.90 ±1.4px",
        ]
        texts.clear()
        result.update(boxes=torch.cat((BOXES[:, :4], torch.arange(4)[:, None] + 5, BOXES[:, 4:]), 1))
        result[0].plot(labels=True, conf=False)
        assert texts[0].replace("+-", "±") == "id:5 cell ±1.4px"
        texts.clear()
        result[0].plot(labels=False)
        assert texts == ["0.90"]

    def test_unknown_sigma_has_no_band(self):
        grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        fields = {"std": torch.full((4, 4), math.nan)}
        result = UncertResults(grey, "a.jpg", NAMES, boxes=BOXES, fields=fields)
        stock = bare(grey, Results).plot(line_width=1, **QUIET)
        np.testing.assert_array_equal(result.plot(line_width=1, **QUIET), stock)

    @pytest.mark.parametrize("track", [False, True])
    def test_colours_by_instance_are_those_of_upstream(self, track):
        grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        data = torch.cat((BOXES[:, :4], torch.tensor([[5.0], [9], [2], [14]]), BOXES[:, 4:]), 1) if track else BOXES
        options = {"color_mode": "instance", "line_width": 1, **QUIET}
        unknown = {"std": torch.full((4, 4), math.nan)}  # lines only
        ours = UncertResults(grey, "a.jpg", NAMES, boxes=data, fields=unknown).plot(**options)
        np.testing.assert_array_equal(ours, Results(grey, "a.jpg", NAMES, boxes=data).plot(**options))

    def test_colour_mode_is_checked_as_upstream(self, image):
        with pytest.raises(AssertionError, match="color_mode"):
            detect(image).plot(color_mode="rainbow")
