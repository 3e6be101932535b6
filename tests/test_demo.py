from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_uncert import demo as module
from yolo_uncert.cli import main
from yolo_uncert.demo import MODELS, demo
from yolo_uncert.help import mode_help
from yolo_uncert.options import OptionError
from yolo_uncert.synthetic import SceneSpec, load_truth

EASY = {"objects": (1, 2), "size": (0.2, 0.45), "sigma": (0.3, 1.0), "classes": ("disc", "plate")}
SHORT = {"epochs": 1, "imgsz": 64, "device": "cpu", "plots": False, "lr0": 1e-5}
"""One epoch that changes next to nothing."""


@pytest.fixture
def easy(monkeypatch):
    """Scenes of the kind that the tiny models know."""
    monkeypatch.setattr(module, "SceneSpec", lambda imgsz: SceneSpec(imgsz=imgsz, **EASY))


@pytest.mark.parametrize("task", MODELS)
def test_scenes_with_known_noise(easy, tiny, tmp_path, task):
    table = demo(task=task, out=str(tmp_path), model=tiny.weights(task), scenes=32, **SHORT)
    folder = tmp_path / task
    assert list(table)[:4] == ["AP50", "AP75", "AP50-95", "sigma / known noise"]
    assert [name.strip() for name in table][4:7] == ["small objects", "medium objects", "large objects"]
    assert ("angle sigma / known noise" in table) == (task == "obb")
    assert 0.2 < table["AP50"] <= 1
    assert np.isfinite(table["sigma / known noise"])
    assert 0 < table["AP50-95"] < table["AP50"]
    assert len(load_truth(folder / "scenes", "val")) == 8
    for file in ("predictions.jpg", "sigma.png"):
        assert np.ptp(cv2.imread(str(folder / file))) > 100, f"{file} shows something"
    assert (folder / "train" / "weights" / "best.pt").is_file()
    assert (folder / "train" / "results.csv").is_file()
    assert (folder / "val" / "report.html").is_file()


def test_data_of_the_user(easy, tiny, tmp_path, monkeypatch):
    command = ["demo", f"data={tiny.data('detect')}", f"out={tmp_path}", *(f"{k}={v}" for k, v in SHORT.items())]
    assert main(command) == 0
    folder = tmp_path / "detect-data"
    assert (folder / "predictions.jpg").is_file()
    assert (folder / "train" / "weights" / "best.pt").is_file()
    assert not (folder / "scenes").exists()
    assert not (folder / "sigma.png").exists(), "real data have no known noise"

    def train(_, **options):
        raise ValueError(options["project"])

    monkeypatch.setattr(module.YOLO, "train", train)
    with pytest.raises(ValueError, match=r"detect-data-2$"):  # a second run leaves the model of the first one alone
        demo(data=str(tiny.data("detect")), out=str(tmp_path), **SHORT)


def test_first_look_takes_no_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    look, seen = module.first_look, []
    monkeypatch.setattr(module, "first_look", lambda *args: seen.extend(look(*args)))
    assert main(["demo", "epochs=0", "out=here"]) == 0
    assert [file.name for file in (tmp_path / "here" / "detect").iterdir() if file.is_file()] == ["first-look.jpg"]
    assert [len(result.obb) > 0 for result in seen] == [True] * module.PICTURES
    assert np.ptp(cv2.imread("here/detect/first-look.jpg")) > 100


def test_first_look_is_not_of_the_users_data(tiny, tmp_path):
    with pytest.raises(OptionError, match="epochs=0 is the first look alone"):
        demo(data=str(tiny.data("detect")), epochs=0, out=str(tmp_path))


def test_unknown_task(tmp_path):
    with pytest.raises(OptionError, match=r"task is 'segment'\. Allowed: detect, obb"):
        demo(task="segment", out=str(tmp_path))


@pytest.mark.parametrize("scenes", [3, 40.0, "many"])
def test_too_few_scenes(tmp_path, scenes):
    with pytest.raises(OptionError, match="scenes must be a whole number of at least 4"):
        demo(scenes=scenes, out=str(tmp_path))


@pytest.mark.parametrize("name", ["name", "project", "exist_ok"])
def test_places_have_an_option_of_their_own(tmp_path, name):
    with pytest.raises(OptionError, match=f"demo: {name} has no effect here, out= says"):
        demo(out=str(tmp_path), **{name: "x"})
    assert list(tmp_path.iterdir()) == []
    assert f"  {name}=" not in mode_help("demo")
