from __future__ import annotations

import shutil

import pytest

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.engine.calibration import Calibration
from yolo_uncert.engine.checkpoints import store_calibration
from yolo_uncert.engine.info import describe_model


def lines(yolo):
    """Lines of the description by name."""
    found, name = {}, ""
    for line in describe_model(yolo).splitlines():
        head, _, rest = line.partition(":") if not line.startswith(" ") else (name, "", line)
        name = head
        found[name] = [*found.get(name, []), rest.strip()]
    return {name: "; ".join(rest) for name, rest in found.items()}


@pytest.fixture
def calibrated(tiny, tmp_path):
    origin = {"data": "a.yaml", "split": "val", "boxes": 99, "images": 7, "target": "nll", "date": "2030-01-01"}
    origin |= {"calibration_error": [0.1, 0.02], "version": "1.2"}
    settings = {"sigma_source": "gaussian", "imgsz": 64}
    scale = {"kind": "temperature", "factors": [1.0] * 4}
    values = {"method": "temperature", "level": 0.8, "scale": scale, "conformal": None, "settings": settings}
    file = tmp_path / "c.pt"
    store_calibration(tiny.weights("detect"), file, Calibration.from_dict({**values, "origin": origin}).as_dict())
    return file


def test_trained_model(tiny):
    found = lines(YOLO(tiny.weights("obb")))
    assert found["model"] == f"{tiny.weights('obb')} (UncertOBBModel)"
    assert found["task"] == "obb"
    assert found["classes"] == "2: 0 disc, 1 plate"
    assert found["channels"] == "gaussian (7), dfl (4), iou_aware (1)"
    assert found["calibration"] == "none"
    assert int(found["parameters"].replace(",", "")) == sum(
        p.numel() for p in YOLO(tiny.weights("obb")).model.parameters()
    )
    for part in ("data=data.yaml", "imgsz=64", "epochs=20", "20 epochs done", "Ultralytics 8."):
        assert part in found["training"]


def test_calibrated_model(calibrated):
    found = lines(YOLO(calibrated))["calibration"].split("; ")
    assert found[0] == "temperature, level 0.8, target nll"
    assert found[1] == "99 boxes of 7 images of a.yaml (val)"
    assert found[2] == "calibration error 0.1 -> 0.02"
    assert found[3] == "for sigma_source=gaussian, imgsz=64"
    assert found[4] == "2030-01-01, yolo-uncert 1.2"


def test_branches_show_what_is_not_default(tmp_path):
    file = tmp_path / "yolov8n-mine.yaml"
    file.write_text("base: yolov8.yaml\nuncertainty: {gaussian: {gain: 0.5, loss: kl}, iou_aware: }\n")
    found = lines(YOLO(str(file)))
    assert found["branches"] == "gaussian (gain=0.5), iou_aware (defaults)"
    assert found["training"] == "none"
    assert found["classes"].startswith("80: 0 ")
    assert found["classes"].endswith(", ...")


def test_stock_model(tiny):
    found = lines(YOLO(tiny.weights("stock")))
    assert (found["branches"], found["channels"]) == ("none", "none")


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Converting", "ignore:.*legacy TorchScript")
def test_exported_file(calibrated, tmp_path, capsys):
    file = YOLO(shutil.copy(calibrated, tmp_path / "e.pt")).export(format="torchscript", imgsz=64, device="cpu")
    found = lines(YOLO(file))
    assert found["model"] == f"{file} (UncertDetect)"
    assert found["task"] == "detect"
    assert found["classes"] == "2: 0 disc, 1 plate"
    assert found["channels"] == "gaussian (4), dfl (4), iou_aware (1)"
    assert found["calibration"].startswith("temperature, level 0.8")
    capsys.readouterr()
    assert main(["info", f"model={file}"]) == 0
    assert capsys.readouterr().out == describe_model(YOLO(file)) + "\n"
