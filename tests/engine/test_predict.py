from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from torch.testing import assert_close
from ultralytics.utils import ROOT, YAML

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.predict import UncertDetectionPredictor, UncertOBBPredictor
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.engine.schemas import head_of
from yolo_uncert.options import OptionError

QUIET = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.1}


@pytest.fixture(scope="module")
def images(tiny):
    """Paths of the training images, which the tiny models know."""
    return {task: sorted((tiny.data(task).parent / "images" / "train").iterdir()) for task in ("detect", "obb")}


@pytest.fixture(scope="module")
def models(tiny):
    return {kind: YOLO(tiny.weights(kind)) for kind in ("detect", "obb", "e2e", "stock")}


def boxes(result):
    return result.boxes if result.obb is None else result.obb


def find(model, source, **options):
    """Boxes of the only image."""
    (result,) = model.predict(source, **{**QUIET, **options})
    return boxes(result)


@pytest.mark.parametrize(
    ("kind", "task", "cls", "columns"),
    [("detect", "detect", UncertBoxes, 4), ("obb", "obb", UncertOBB, 5), ("e2e", "detect", UncertBoxes, 4)],
)
def test_results_carry_sigma(models, images, kind, task, cls, columns):
    results = models[kind](images[task], **QUIET)
    assert len(results) == 16
    assert all(type(r) is UncertResults and type(boxes(r)) is cls for r in results)
    assert [r.path for r in results] == [str(p) for p in images[task]]
    found = [boxes(r) for r in results]
    assert sum(map(len, found)) > 5
    for b in found:
        assert b.std.shape == (len(b), columns)
        assert b.iou.shape == (len(b),)
        assert (b.std > 0).all()
    assert results[0].names == {0: "disc", 1: "plate"}


@pytest.mark.parametrize("kind", ["detect", "obb"])
def test_rows_are_indexed_and_converted_together(models, images, kind):
    found = find(models[kind], images[kind][0])
    assert len(found) >= 2
    assert_close(found[1].std, found.std[1:2])
    assert_close(found[[1, 0]].std, found.std[[1, 0]])
    assert isinstance(found.numpy().std, np.ndarray)
    assert np.array_equal(found.cpu().numpy().std, found.std.numpy())


@pytest.mark.parametrize("kind", ["detect", "obb"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_boxes_are_those_of_ultralytics(models, images, kind, tiny, monkeypatch, everywhere):
    """A stock model, without and with DFL moments, against the stock class; layers at few places round otherwise."""
    if everywhere:
        monkeypatch.setattr("yolo_uncert.engine.predict.least_class_score", lambda *_, **__: 0.0)
    stock = ultralytics.YOLO(tiny.weights("stock"))
    for options in ({}, {"sigma_source": "dfl"}, {"classes": [1]}, {"agnostic_nms": True, "iou": 0.2}):
        both = {k: v for k, v in options.items() if k != "sigma_source"}
        expected = stock.predict(images["detect"], **{**QUIET, **both})
        for ours, theirs in zip(
            models["stock"].predict(images["detect"], **{**QUIET, **options}), expected, strict=True
        ):
            close = (
                {"rtol": 0, "atol": 0} if everywhere or "sigma_source" not in options else {"rtol": 1e-5, "atol": 1e-4}
            )
            assert_close(ours.boxes.data, theirs.boxes.data, **close)
            assert (ours.boxes.std is not None) == ("sigma_source" in options)


# --- scaling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [("detect", "detect"), ("obb", "obb"), ("e2e", "detect")])
def test_sigma_of_an_image_twice_as_large_is_twice_as_large(models, images, kind, task):
    image = cv2.imread(str(images[task][0]))
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    back = cv2.resize(large, (64, 64), interpolation=cv2.INTER_LINEAR)
    small, double = find(models[kind], back), find(models[kind], large)
    assert len(small) == len(double) > 0
    assert_close(double.std[:, :4], 2 * small.std[:, :4], rtol=1e-3, atol=1e-3)
    if task == "obb":
        assert_close(double.std[:, 4], small.std[:, 4], rtol=1e-3, atol=1e-4)
        assert_close(double.fields["sides"][:, 5:], 2 * small.fields["sides"][:, 5:], rtol=1e-3, atol=1e-2)
        assert_close(double.xywhr[:, 4], small.xywhr[:, 4], rtol=1e-3, atol=1e-4)


def test_sigma_of_a_letterboxed_image_is_that_of_the_network_over_the_gain(models, images, monkeypatch):
    from yolo_uncert.engine import predict

    seen = []

    def note(*args, **kwargs):
        seen.extend(postprocess(*args, **kwargs))
        return seen

    postprocess = predict.postprocess
    monkeypatch.setattr(predict, "postprocess", note)
    image = cv2.resize(cv2.imread(str(images["detect"][0])), (160, 80))  # 64 x 32 of 64 x 64 px: gain 0.4
    found = find(models["detect"], image, rect=False, conf=0.01)
    assert len(found) > 0
    assert_close(found.std, seen[0].fields["std"] / 0.4)


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_of_one_call_do_not_outlive_it(models, images):
    model, image = models["obb"], images["obb"][0]
    first = find(model, image)
    predictor = model.predictor
    other = find(model, image, sigma_source="dfl", iou_alpha=1.0)
    assert model.predictor is predictor, "no model is set up again for another option"
    assert (other.std[:, 4] != first.std[0, 4]).all()
    assert other.conf[0] != first.conf[0]
    assert find(model, image, sigma_source="none").std is None
    again = find(model, image)
    assert_close(again.data, first.data, rtol=0, atol=0)
    assert_close(again.std, first.std, rtol=0, atol=0)
    assert not {"iou_alpha", "sigma_source"} & model.overrides.keys()


def test_fusion_with_the_predicted_iou(models, images):
    image = images["detect"][0]
    score, iou = (find(models["detect"], image, iou_alpha=alpha, conf=0.01).conf[0] for alpha in (1.0, 0.0))
    fused = find(models["detect"], image, iou_alpha=0.5, conf=0.01)
    assert fused.conf[0] <= max(score, iou) + 1e-6
    assert find(models["detect"], image, iou_alpha=0.0, conf=0.01).iou[0] == pytest.approx(iou.item())


def test_options_are_forgotten_after_an_error(models, images):
    with pytest.raises(OptionError, match="sigma_source=dfl"):
        find(models["e2e"], images["detect"][0], sigma_source="dfl")
    assert find(models["e2e"], images["detect"][0]).std is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma_sorce": "dfl"}, OptionError, "predict: unknown option 'sigma_sorce'.*'sigma_source'"),
        ({"iou_alpha": "x"}, OptionError, "predict: iou_alpha must be float"),
        ({"sigma_source": "gauss"}, OptionError, "did you mean 'gaussian'"),
        ({"conff": 0.3}, SyntaxError, "conff"),
    ],
)
def test_bad_options(models, images, options, error, message):
    with pytest.raises(error, match=message):
        models["detect"].predict(images["detect"][0], **options)


def test_stock_model_lends_its_moments_for_one_call(models, images):
    model, image = models["stock"], images["detect"][0]
    assert find(model, image).std is None
    lent = find(model, image, sigma_source="dfl")
    assert lent.std.shape == (len(lent), 4)
    assert len(lent) > 0
    assert find(model, image).std is None
    assert type(model.model).__name__ == "DetectionModel"


def test_stock_model_without_moments(images):
    with pytest.raises(OptionError, match=r"dfl: this head predicts distances without a distribution \(reg_max: 1\)"):
        YOLO("yolo26n.yaml").predict(images["detect"][0], sigma_source="dfl", **QUIET)
    with pytest.raises(OptionError, match="sigma_source=gaussian: this model has no such branch"):
        YOLO("yolov8n.yaml").predict(images["detect"][0], sigma_source="gaussian", **QUIET)


def test_end_to_end_head_without_suppression(models, images):
    results = models["e2e"].predict(images["detect"], **{**QUIET, "conf": 0.001}, nms=False)
    assert sum(len(r.boxes) for r in results) > 0
    for r in results:
        assert r.boxes.std.shape == (len(r.boxes), 4)
        assert (r.boxes.conf.diff() <= 0).all(), "sorted by the fused score"


# --- sources and outputs ----------------------------------------------------------------------------------------------


def test_sources_of_every_kind_give_the_same(models, images):
    paths = images["detect"][:3]
    arrays = [cv2.imread(str(p)) for p in paths]
    tensor = torch.from_numpy(np.stack(arrays)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    expected = [find(models["detect"], p) for p in paths]
    for source, options in ((arrays, {}), (tensor, {}), (arrays, {"batch": 3}), (paths, {"stream": True, "batch": 2})):
        results = list(models["detect"].predict(source, **{**QUIET, **options}))
        assert len(results) == 3
        for result, one in zip(results, expected, strict=True):
            assert_close(result.boxes.data, one.data, rtol=1e-3, atol=1e-2)
            assert_close(result.boxes.std, one.std, rtol=1e-3, atol=1e-3)


def test_image_without_a_detection(models):
    for kind, columns in (("detect", 4), ("obb", 5), ("e2e", 4)):
        found = find(models[kind], np.zeros((64, 64, 3), np.uint8), conf=0.99)
        assert found.std.shape == (0, columns)


@pytest.mark.parametrize(("kind", "task"), [("detect", "detect"), ("obb", "obb"), ("stock", "detect")])
def test_command_line_saves_pictures_and_labels(tiny, images, tmp_path, kind, task):
    folder = images[task][0].parent
    words = [f"model={tiny.weights(kind)}", f"source={folder}", "imgsz=64", "conf=0.1", "device=cpu"]
    assert main(["predict", *words, f"project={tmp_path}", "name=p", "save_txt", "save_conf"]) == 0
    assert len(list((tmp_path / "p").glob("*.jpg"))) == 16
    lines = [line for f in (tmp_path / "p" / "labels").glob("*.txt") for line in f.read_text().splitlines()]
    columns = {"detect": 6 + 4, "obb": 10 + 5, "stock": 6}[kind]
    assert {len(line.split()) for line in lines} == {columns}


# --- tracking ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory, images):
    """Eight frames in which one training scene moves to the right."""
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    scene = cv2.imread(str(images["detect"][0]))
    for shift in range(8):
        writer.write(np.roll(scene, shift, axis=1))
    writer.release()
    return str(file)


@pytest.fixture
def tracker(tmp_path, request):
    """Tracker settings of Ultralytics, with thresholds for the low scores of a model trained for seconds."""
    settings = YAML.load(ROOT / "cfg" / "trackers" / f"{request.param}.yaml")
    thresholds = {"track_high_thresh": 0.2, "track_low_thresh": 0.05, "new_track_thresh": 0.2}
    file = tmp_path / "tracker.yaml"
    YAML.save(file, {**settings, **thresholds})
    return str(file)


@pytest.mark.parametrize("kind", ["detect", "obb"])
@pytest.mark.parametrize("tracker", ["tracktrack", "bytetrack", "botsort"], indirect=True)
def test_tracks_keep_their_own_sigma(models, video, kind, tracker, monkeypatch):
    detected = []
    predictor = UncertDetectionPredictor if kind == "detect" else UncertOBBPredictor
    postprocess = predictor.postprocess

    def note(self, preds, img, orig_imgs, **kwargs):
        results = postprocess(self, preds, img, orig_imgs, **kwargs)
        if "iou" not in kwargs:  # TrackTrack's second look, with a loose suppression
            detected.append([tuple(x.clone() for x in (boxes(r).conf, boxes(r).std, boxes(r).data)) for r in results])
        return results

    monkeypatch.setattr(predictor, "postprocess", note)
    results = list(models[kind].track(video, stream=True, tracker=tracker, **{**QUIET, "conf": 0.05}))
    assert len(results) == len(detected) == 8
    tracked = 0
    for result, ((conf, std, rows),) in zip(results, detected, strict=True):
        found = boxes(result)
        assert found.std.shape == (len(found), 4 if kind == "detect" else 5)
        if found.is_track:
            known = found.std.isfinite().all(1)
            for score, row in zip(found.conf[known], found.std[known], strict=True):
                match = (conf - score).abs().argmin()
                # Trackers take the longer side of an oriented box for w.
                turned = kind == "obb" and rows[match, 2] < rows[match, 3]
                assert_close(std[match][[0, 1, 3, 2, 4]] if turned else std[match], row)
            tracked += int(known.sum())
    assert tracked > 0
    models[kind].predictor = None


def test_command_line_tracks(tiny, video, tmp_path):
    words = [f"model={tiny.weights('detect')}", f"source={video}", "imgsz=64", "device=cpu", "conf=0.1"]
    assert main(["track", *words, f"project={tmp_path}", "name=t"]) == 0
    (clip,) = Path(tmp_path / "t").iterdir()
    capture = cv2.VideoCapture(str(clip))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 8


def test_a_size_may_be_text_and_a_calibration_knows_the_size_that_is_used(caplog):
    image = np.zeros((64, 64, 3), np.uint8)
    model = YOLO("uncert-bccd-n.pt")
    for size in ("320", "320,256", 310):  # 310 becomes 320
        model(image, imgsz=size, verbose=False, device="cpu")
    assert "may not fit" not in caplog.text
    model(image, imgsz=33, verbose=False, device="cpu")
    assert "made with imgsz=320 (now 64): it may not fit" in caplog.text


@pytest.fixture(scope="module")
def border_models(tiny, tmp_path_factory):
    """Models with a border branch that moves boxes, on the weights of the tiny ones."""
    found, file = {}, tmp_path_factory.mktemp("border") / "border.yaml"
    for kind in ("detect", "obb"):
        border = {"finer": True, "finer_channels": 4, "beside": 0.15, "turn": True} if kind == "obb" else {}
        branches = {"gaussian": {}, "dfl": {}, "iou_aware": {}, "border": border}
        content = {"base": tiny.yaml("stock"), "task": kind, "nc": 2, "uncertainty": branches}
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        model = YOLO(file).load(tiny.weights(kind))
        head = model.model.model[-1]
        movers = [layer for layer in head.cv_border[3:] if isinstance(layer, torch.nn.Conv1d)]
        for layer in (*movers, head.cv_gaussian[-1]):
            torch.nn.init.normal_(layer.weight, std=0.2)
        found[kind] = model
    return found


def test_rules_of_a_later_call_are_looked_at_too(tiny, images, caplog):
    model, source, options = YOLO(tiny.weights("e2e")), images["detect"][0], {**QUIET, "nms": False}
    model.predict(source, **options)
    assert "have no effect" not in caplog.text
    for _ in range(2):
        model.predict(source, **options, var_vote=True)
    assert caplog.text.count("suppress and var_vote have no effect") == 1
    with pytest.raises(OptionError, match="sigma_source=dfl: this model has no such branch"):
        model.predict(source, **options, sigma_source="dfl")


@pytest.mark.parametrize("kind", ["detect", "obb", "e2e", "border detect", "border obb"])
@pytest.mark.parametrize("rule", [{}, {"suppress": "soft", "var_vote": True}, {"iou_alpha": 1.0}, {"conf": 0.01}])
def test_the_head_runs_where_detections_may_be_with_the_same_result(
    border_models, models, images, monkeypatch, kind, rule
):
    if kind == "e2e" and rule.get("suppress"):
        pytest.skip("an end-to-end model has no suppression")
    branch, _, task = kind.rpartition(" ")
    model, options = (border_models if branch else models)[task], {**QUIET, **rule, "batch": 4}
    source = images["obb" if task == "obb" else "detect"]
    monkeypatch.setattr("yolo_uncert.nn.branched.CROWD", 1)
    model.predict(source[0], **options)
    head, seen, bounds = head_of(model.predictor.model), [], set()

    def record(_, __, out):
        seen.append(out[1].get("one2one", out[1]))
        bounds.add(head.least_score)

    handle = head.register_forward_hook(record)
    some, few = model.predict(source, **options), seen.copy()
    assert head.least_score == 0.0
    seen.clear()
    (bound,) = bounds
    monkeypatch.setattr("yolo_uncert.engine.predict.least_class_score", lambda *_, **__: 0.0)
    everywhere = model.predict(source, **options)
    handle.remove()
    parts = [part for batch in few for part in batch["parts"]]
    scores = torch.cat([batch["scores"] for batch in seen]).sigmoid().amax(1)
    assert len(parts) == len(scores) == len(source)
    for part, best in zip(parts, scores, strict=True):
        counting = set((best > bound).nonzero()[:, 0].tolist())
        looked = set() if part is None else set(part["index"].tolist())
        # A level where nothing counts is represented by its first anchor.
        assert counting <= looked <= counting | {0, 64, 80}
    assert sum(map(len, some)) > 5
    for one, other in zip(some, everywhere, strict=True):
        # Sums of a convolution in another order, in pixels of an image of 64.
        for name in ("data", "std", "fields"):
            assert_close(getattr(boxes(one), name), getattr(boxes(other), name), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["detect", "obb", "e2e"])
@pytest.mark.parametrize("conf", [0.3, 0.999])
def test_class_activation_maps_are_drawn_however_few_anchors_count(models, images, tmp_path, monkeypatch, kind, conf):
    monkeypatch.setattr("yolo_uncert.nn.branched.CROWD", 1)
    source = images["obb" if kind == "obb" else "detect"][0]
    options = {**QUIET, "conf": conf, "visualize": True, "project": str(tmp_path), "name": "t"}
    models[kind].predict(source, **options)
    assert list((tmp_path / "t").rglob("*.png")) + list((tmp_path / "t").rglob("*.jpg"))


def test_a_failure_leaves_the_head_as_it_was(border_models, images, monkeypatch):
    model, seen = border_models["detect"], []
    model.predict(images["detect"][0], **QUIET)
    head = head_of(model.predictor.model)

    def fail(*args, **kwargs):
        seen.append(head.least_score)
        raise RuntimeError("no memory")

    monkeypatch.setattr(next(branch for branch in head.branches if branch.name == "border"), "look", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        model.predict(images["detect"][0], **QUIET)
    assert seen == [pytest.approx(0.00999)]
    assert head.least_score == 0.0
