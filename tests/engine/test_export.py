from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from ultralytics.nn.autobackend import AutoBackend

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.engine.schemas import METADATA_KEY
from yolo_uncert.options import OptionError
from yolo_uncert.paths import is_shipped

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:Converting", "ignore:.*legacy TorchScript", "ignore:The feature will"
)

QUIET = {"imgsz": 64, "verbose": False, "device": "cpu"}
KINDS = [("detect", "detect"), ("obb", "obb"), ("e2e", "detect")]


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """Function that exports a tiny model once per format."""
    done = {}

    def export(kind, form, **options):
        key = kind, form, *options.items()
        if key not in done:
            folder = tmp_path_factory.mktemp("export")
            weights = shutil.copy(tiny.weights(kind), folder / f"{kind}.pt")
            done[key] = YOLO(str(weights)).export(format=form, imgsz=64, device="cpu", **options)
        return done[key]

    return export


@pytest.fixture
def images(tiny):
    return {task: sorted((tiny.data(task).parent / "images" / "train").iterdir())[:4] for task in ("detect", "obb")}


def boxes(result):
    return result.boxes if result.obb is None else result.obb


def assert_same_predictions(exported, trained, images, **options):
    options = {**QUIET, "conf": 0.1, "rect": False, **options}
    count = 0
    for ours, expected in zip(exported.predict(images, **options), trained.predict(images, **options), strict=True):
        ours, expected = boxes(ours), boxes(expected)
        count += len(ours)
        assert len(ours) == len(expected)
        # Rounding may swap detections whose scores are nearly equal.
        twin = torch.cdist(ours.data, expected.data, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        assert sorted(twin.tolist()) == list(range(len(ours)))
        expected = expected[twin]
        assert_close(ours.data, expected.data, rtol=1e-3, atol=1e-2)
        assert_close(ours.std, expected.std, rtol=1e-3, atol=1e-3)
        assert_close(ours.iou, expected.iou, rtol=1e-3, atol=1e-3)
    assert count > 0


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_exported_file_predicts_the_same_sigma(exported, tiny, images, kind, task, form):
    file = exported(kind, form)
    assert Path(file).suffix == f".{form}"
    model = YOLO(file)
    assert model.task == task, "read from the file"
    assert_same_predictions(model, YOLO(tiny.weights(kind)), images[task])
    if kind == "obb":
        assert_same_predictions(model, YOLO(tiny.weights(kind)), images[task], sigma_source="dfl", iou_alpha=1.0)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_exported_end_to_end_head_predicts_the_same_sigma(exported, tiny, images, form):
    model = YOLO(exported("e2e", form, nms=False))
    assert_same_predictions(model, YOLO(tiny.weights("e2e")), images["detect"], nms=False, conf=0.02)


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_exported_file_validates_the_same(exported, tiny, tmp_path, kind, task):
    options = {"data": str(tiny.data(task)), "plots": False, "rect": False, "project": str(tmp_path), **QUIET}
    ours, expected = (YOLO(f).val(**options).results_dict for f in (exported(kind, "onnx"), tiny.weights(kind)))
    assert ours == pytest.approx(expected, rel=1e-2, abs=1e-3)
    assert "uncert/nll" in ours


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("kind", "names"), [("obb", ["gaussian", "dfl", "iou_aware"]), ("e2e", ["gaussian", "iou_aware"])]
)
def test_file_lists_its_channels(exported, kind, names, form):
    backend = AutoBackend(exported(kind, form), device=torch.device("cpu"))
    assert json.loads(getattr(backend, METADATA_KEY)) == names


def test_stock_model_exports_without_a_list(exported, images):
    file = exported("stock", "onnx")
    assert not hasattr(AutoBackend(file, device=torch.device("cpu")), METADATA_KEY)
    (result,) = YOLO(file).predict(images["detect"][0], **QUIET)
    assert result.boxes.std is None
    with pytest.raises(OptionError, match="sigma_source=dfl: this model has no such branch"):
        YOLO(file).predict(images["detect"][0], sigma_source="dfl", **QUIET)


def test_stock_model_exports_its_moments(exported, tiny, images, tmp_path):
    file = YOLO(shutil.copy(tiny.weights("stock"), tmp_path / "m.pt")).export(
        format="torchscript", imgsz=64, device="cpu", sigma_source="dfl"
    )
    (found,) = YOLO(file).predict(images["detect"][0], **QUIET)
    (lent,) = YOLO(tiny.weights("stock")).predict(images["detect"][0], sigma_source="dfl", **QUIET)
    assert torch.allclose(found.boxes.std, lent.boxes.std, rtol=1e-3, atol=1e-3)


def test_a_model_that_ships_is_exported_to_the_working_directory(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    model = YOLO("uncert-bccd-n.pt")
    file = Path(model.export(format="torchscript", imgsz=64, device="cpu"))
    assert file.resolve() == tmp_path / "uncert-bccd-n.torchscript"
    assert file.is_file()
    assert is_shipped(model.model.pt_path), "afterwards it still knows where it came from"
    assert f"yolo-uncert predict model={file}" in caplog.text


@pytest.mark.parametrize("kind", ["detect", "obb", "e2e"])
def test_export_with_suppression_inside_is_refused(tiny, kind):
    with pytest.raises(OptionError, match="nms=True cannot carry the uncertainty channels"):
        YOLO(tiny.weights(kind)).export(format="onnx", nms=True)


def test_run_options_are_no_export_options(tiny):
    with pytest.raises(OptionError, match=r"export: unknown option 'iou_alfa'.*'iou_alpha'"):
        YOLO(tiny.weights("detect")).export(format="onnx", iou_alfa=0.3)
    with pytest.raises(OptionError, match="export: iou_alpha is chosen when the exported file predicts"):
        YOLO(tiny.weights("detect")).export(format="onnx", iou_alpha=0.3)


def test_exporting_twice_writes_the_list_once(tiny, tmp_path):
    model = YOLO(shutil.copy(tiny.weights("detect"), tmp_path / "m.pt"))
    for _ in range(2):
        file = model.export(format="torchscript", imgsz=64, device="cpu")
    assert json.loads(getattr(AutoBackend(file, device=torch.device("cpu")), METADATA_KEY))
    assert len([f for f in model.callbacks["on_export_start"] if f.__name__ == "write_schema"]) == 1


def test_command_line_exports_and_predicts(tiny, tmp_path, images, capsys):
    weights = shutil.copy(tiny.weights("obb"), tmp_path / "turned.pt")
    assert main(["export", f"model={weights}", "format=onnx", "imgsz=64", "device=cpu"]) == 0
    assert str(tmp_path / "turned.onnx") in capsys.readouterr().out.splitlines()
    words = [f"model={tmp_path / 'turned.onnx'}", f"source={images['obb'][0]}", "imgsz=64", "conf=0.1", "device=cpu"]
    assert main(["predict", *words, f"project={tmp_path}", "name=p", "save_txt", "save_conf"]) == 0
    (file,) = (tmp_path / "p" / "labels").glob("*.txt")
    assert {len(line.split()) for line in file.read_text().splitlines()} == {10 + 5}


@pytest.mark.parametrize("size", [64, [32, 64]])
def test_a_dynamic_file_is_used_at_the_size_that_it_was_exported_for(tiny, images, tmp_path, size):
    weights = shutil.copy(tiny.weights("detect"), tmp_path / "d.pt")
    file = YOLO(str(weights)).export(format="onnx", dynamic=True, imgsz=size, device="cpu")
    model, options = YOLO(file), {"verbose": False, "device": "cpu", "conf": 0.1}
    plain, told = (boxes(model(images["detect"][0], **options, **given)[0]) for given in ({}, {"imgsz": size}))
    assert torch.equal(plain.data, told.data)
    assert torch.equal(plain.std, told.std)
    data = {"data": str(tiny.data("detect")), "split": "train", "plots": False, "workers": 0, "device": "cpu"}
    plain, told = (YOLO(file).val(**data, project=str(tmp_path), **given) for given in ({}, {"imgsz": 64}))
    assert (plain.matches.sigma == told.matches.sigma).all()
    assert len(plain.matches)


def test_a_size_without_effect_is_mentioned_once(exported, images, caplog):
    model = YOLO(exported("detect", "torchscript"))
    model(images["detect"][0], **QUIET)
    assert "has no effect" not in caplog.text
    for _ in range(2):
        model(images["detect"][0], **{**QUIET, "imgsz": 96})
    assert caplog.text.count("was exported for imgsz=64,64: imgsz=96 has no effect") == 1


def test_files_of_earlier_exports_stay(tiny, tmp_path, monkeypatch):
    model = YOLO(shutil.copy(tiny.weights("detect"), tmp_path / "m.pt"))
    plain = {"format": "onnx", "device": "cpu", "simplify": False}
    file = Path(model.export(imgsz=64, **plain))
    before = file.read_bytes()
    assert Path(model.export(imgsz=32, **plain)).read_bytes() != before, "a new one takes its place"
    file.write_bytes(before)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.export(format="onnx", imgsz=32, device="cpu", quantize=8, data="nowhere.yaml")
    assert file.read_bytes() == before
    data = str(tiny.data("detect"))
    quantized = model.export(format="onnx", imgsz=32, device="cpu", quantize=8, data=data, data_root=str(tmp_path))
    assert Path(quantized) != file
    assert file.read_bytes() == before, "Ultralytics passes through the plain file and removes it"


def test_what_no_image_can_be_exported_for(tiny):
    with pytest.raises(OptionError, match="batch must be at least 1 image, not 0"):
        YOLO(tiny.weights("detect")).export(format="onnx", batch=0)
