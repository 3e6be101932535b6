"""Predictors and trackers: what they call post-processing with, and what they read off a result."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.models.yolo.obb import OBBPredictor
from ultralytics.utils import ops

from yolo_uncert import YOLO
from yolo_uncert.engine.postprocess import letterbox_gain
from yolo_uncert.engine.predict import UncertDetectionPredictor

pytestmark = pytest.mark.seam("engine/predict.py")

QUIET = {"imgsz": 64, "verbose": False, "conf": 1e-6, "device": "cpu"}


def frames(n=2):
    return list(np.random.default_rng(0).integers(0, 255, (n, 48, 64, 3), dtype=np.uint8))


class Spy(UncertDetectionPredictor):
    def postprocess(self, preds, img, orig_imgs, **kwargs):
        self.calls = [*getattr(self, "calls", []), (preds, img, orig_imgs, kwargs)]
        return super().postprocess(preds, img, orig_imgs, **kwargs)


@pytest.mark.parametrize("cls", [DetectionPredictor, OBBPredictor])
def test_postprocess_takes_predictions_input_and_original_images(cls):
    parameters = inspect.signature(cls.postprocess).parameters
    assert tuple(parameters)[:4] == ("self", "preds", "img", "orig_imgs")
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.seam("engine/predict.py", "engine/schemas.py")
def test_predictor_wraps_the_model_and_names_the_images_of_a_batch():
    model = YOLO("yolo11n-gaussian.yaml")
    results = model.predict(frames(), predictor=Spy, **QUIET)
    predictor = model.predictor
    ((preds, img, originals, kwargs),) = predictor.calls
    assert isinstance(preds, (tuple, list))
    assert preds[0].shape[:2] == (2, 4 + 80 + 4)
    assert img.shape == (2, 3, 64, 64)
    assert [o.shape for o in originals] == [(48, 64, 3)] * 2
    assert kwargs == {}
    assert (predictor.model.format, len(predictor.model.names)) == ("pt", 80)
    assert predictor.model.model.model[-1].schema.names == ("gaussian",)
    assert [r.path for r in results] == predictor.batch[0]
    assert all(r.speed["inference"] is not None for r in results)


@pytest.mark.seam("engine/predict.py", "engine/val.py", "engine/postprocess.py", "nn/branched.py", "nn/heads.py")
@pytest.mark.parametrize(("nms", "shape"), [(None, (1, 88, 84)), (False, (1, 84, 10))])
def test_only_nms_false_selects_the_one_to_one_head(nms, shape):
    model = YOLO("yolo26n-gaussian.yaml")
    model.predict(frames(1), predictor=Spy, nms=nms, **QUIET)
    ((preds, *_),) = model.predictor.calls
    assert preds[0].shape == shape
    assert bool(model.predictor.model.end2end) == (nms is False)


@pytest.mark.seam("engine/predict.py", "engine/results.py", "engine/boxes.py")
@pytest.mark.parametrize("tracker", ["tracktrack.yaml", "bytetrack.yaml"])
def test_trackers_may_postprocess_the_bare_tensor_again_and_index_rows(tracker):
    model = YOLO("yolo11n-gaussian.yaml")
    results = [model.track(frame, persist=True, tracker=tracker, predictor=Spy, **QUIET)[0] for frame in frames()]
    again = [call for call in model.predictor.calls if call[3]]
    assert all(isinstance(preds, torch.Tensor) and set(kwargs) == {"iou"} for preds, _, _, kwargs in again)
    assert bool(again) == (tracker == "tracktrack.yaml")
    assert all(len(r.boxes.std) == len(r.boxes) for r in results)


@pytest.mark.seam("engine/predict.py", "engine/postprocess.py")
@pytest.mark.parametrize("rotated", [False, True])
def test_boxes_are_scaled_by_the_gain_that_we_scale_sigma_by(rotated):
    network, original = (64, 64), (100, 200)
    gain = letterbox_gain(network, original)
    assert gain == 0.32
    shifted = torch.tensor([[10.0, 20, 14, 26], [11.0, 20, 14, 26]])
    scaled = ops.scale_boxes(network, shifted.clone(), (*original, 3), xywh=rotated)
    assert (scaled[1, 0] - scaled[0, 0]).item() == pytest.approx(1 / gain, rel=1e-4)
    width = scaled[0, 2] if rotated else scaled[0, 2] - scaled[0, 0]
    assert width.item() == pytest.approx((14 if rotated else 4) / gain, rel=1e-4)


def test_features_of_objects_are_looked_up_by_kept_indices():
    maps = [torch.arange(8.0).view(1, 2, 2, 2), torch.full((1, 2, 1, 1), 9.0)]
    (features,) = DetectionPredictor.get_obj_feats(maps, [torch.tensor([4, 1])])
    assert features.tolist() == [[9, 9], [1, 5]]


def test_tensor_input_is_turned_into_images_in_rgb_order():
    (image,) = ops.convert_torch2numpy_batch(torch.full((1, 3, 2, 2), 0.5))
    assert (image.shape, image.dtype) == ((2, 2, 3), np.uint8)
