from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results
from ultralytics.trackers.track import TRACKER_MAP, on_predict_postprocess_end
from ultralytics.utils import YAML, IterableSimpleNamespace
from ultralytics.utils.checks import check_yaml

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults

NAMES = {0: "cell", 1: "platelet"}


class TestConstruction:
    def test_boxes_and_fields(self, image, detect, oriented, box_fields):
        result = detect(image)
        assert isinstance(result.boxes, UncertBoxes)
        assert result.obb is None
        assert len(result) == 4
        torch.testing.assert_close(result.boxes.std, box_fields["std"])
        assert isinstance(oriented(image).obb, UncertOBB)

    def test_speed_is_the_stock_one(self, image, bare):
        speed = {"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0}
        assert UncertResults(image, "a.jpg", NAMES, speed=speed).speed == speed
        assert set(bare(image).speed) == {"preprocess", "inference", "postprocess"}

    def test_fields_need_their_boxes(self, image, box_fields, box_rows, obb_rows):
        with pytest.raises(ValueError, match="either boxes or obb"):
            UncertResults(image, "a.jpg", NAMES, fields=box_fields)
        with pytest.raises(ValueError, match="either boxes or obb"):
            UncertResults(image, "a.jpg", NAMES, boxes=box_rows, obb=obb_rows, fields=box_fields)

    def test_upstream_still_builds_on_the_seams_used_here(self, bare):
        assert {"boxes", "obb"} <= set(bare(np.zeros((8, 8, 3), np.uint8), Results)._keys)
        assert bare(np.zeros((8, 8, 3), np.uint8)).verbose() == "2 cells, 2 platelets, "


class TestRows:
    @pytest.mark.parametrize("convert", ["cpu", "numpy"])
    def test_conversion_keeps_class_and_fields(self, image, convert, detect, box_fields):
        result = detect(image)
        result.save_dir = "runs"
        copy = getattr(result, convert)()
        assert type(copy) is UncertResults
        assert copy.save_dir == "runs"
        assert type(copy.boxes) is UncertBoxes
        np.testing.assert_array_equal(copy.boxes.std, box_fields["std"])

    def test_to_dtype(self, image, detect):
        assert detect(image).to(dtype=torch.float64).boxes.std.dtype == torch.float64

    @pytest.mark.parametrize(("index", "rows"), [(1, [1]), (slice(1, 3), [1, 2]), (np.array([3, 0]), [3, 0])])
    def test_indexing(self, image, index, rows, detect, box_fields):
        picked = detect(image)[index]
        torch.testing.assert_close(picked.boxes.std, box_fields["std"][rows])
        torch.testing.assert_close(picked.boxes.iou, box_fields["iou"][rows])

    def test_new_is_empty(self, image, detect):
        new = detect(image).new()
        assert type(new) is UncertResults
        assert new.boxes is None
        assert len(new) == 0


class TestUpdate:
    def test_as_a_tracker_does(self, image, detect, box_fields, box_rows):
        index = np.array([2, 0])
        tracked = detect(image)[index]
        ids = torch.tensor([[7.0], [8.0]])
        tracked.update(boxes=torch.cat((box_rows[index, :4] + 1.5, ids, box_rows[index, 4:]), 1))
        assert type(tracked.boxes) is UncertBoxes
        assert tracked.boxes.id.tolist() == [7, 8]
        torch.testing.assert_close(tracked.boxes.std, box_fields["std"][index])
        torch.testing.assert_close(tracked.boxes.iou, box_fields["iou"][index])

    def test_oriented(self, image, oriented, obb_fields, obb_rows):
        tracked = oriented(image)[np.array([1])]
        tracked.update(obb=torch.cat((obb_rows[1:, :5], torch.tensor([[3.0]]), obb_rows[1:, 5:]), 1))
        assert type(tracked.obb) is UncertOBB
        assert tracked.boxes is None
        torch.testing.assert_close(tracked.obb.fields["sides"], obb_fields["sides"][1:])

    def test_boxes_are_clipped_as_upstream_does(self, image, detect, box_rows):
        result = detect(image)
        result.update(boxes=box_rows + torch.tensor([-100.0, 0, 0, 0, 0, 0]))
        assert result.boxes.xyxy[0, 0] == 0

    def test_other_number_of_rows_drops_the_fields(self, image, detect, box_rows):
        result = detect(image)
        result.update(box_rows[:2])
        assert len(result) == 2
        assert result.boxes.std is None

    def test_where_there_were_none(self, image, box_rows):
        result = UncertResults(image, "a.jpg", NAMES)
        result.update(boxes=box_rows)
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
    def test_every_track_has_the_uncertainty_of_its_detection(
        self, image, tracker, make, oriented, box_fields, obb_fields
    ):
        task = "obb" if make is oriented else "detect"
        predictor = self.predictor(tracker, task, track_high_thresh=0.3, new_track_thresh=0.3)
        for order in ([0, 1], [1, 0], [1, 0], [0, 1]):
            shown = self.step(predictor, make(image)[order])
        found = shown.obb if task == "obb" else shown.boxes
        source = obb_fields if task == "obb" else box_fields
        assert sorted(found.cls.tolist()) == [0, 1]  # row 0 has class 0, row 1 class 1
        assert found.is_track
        torch.testing.assert_close(found.std, source["std"][found.cls.long()])

    def test_a_box_recovered_from_suppression_has_no_uncertainty_of_another(self, image, detect, box_fields):
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
        torch.testing.assert_close(shown.boxes.std[rows.index(0)], box_fields["std"][0])
        assert shown.boxes.std[rows.index(1)].isnan().all()
        assert shown.summary()[rows.index(1)]["std"] is None
