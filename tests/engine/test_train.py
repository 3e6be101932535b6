from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from ultralytics.utils import SETTINGS

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.engine.metrics import KEYS
from yolo_uncert.options import OptionError

ROOT = Path(__file__).resolve().parents[2]
ONE = {"epochs": 1, "val": False, "save": True}
UNCERTAINTY = {
    "gaussian": {"loss": "nll", "gain": 0.5, "lr_mult": 5.0, "warmup_epochs": 1.0},
    "iou_aware": {"gain": 2.0},
}
"""Options none of which is the default."""


@pytest.fixture(scope="module")
def custom_yaml(tiny, tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "mine.yaml"
    file.write_text(yaml.safe_dump({"base": tiny.yaml("stock"), "uncertainty": UNCERTAINTY}), encoding="utf-8")
    return str(file)


def columns(folder):
    """Columns of results.csv; every row has to have as many values as the header."""
    with (Path(folder) / "results.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert all(len(row) == len(header) for row in rows)
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}


def settings(tiny):
    return yaml.safe_load((tiny.run("detect") / "args.yaml").read_text(encoding="utf-8"))


def tensors(path):
    """State of a checkpoint's model, loaded with the class that the file names."""
    return YOLO(path).model.float().state_dict()


# --- what a training leaves behind ------------------------------------------------------------------------------------


def test_columns_of_an_oriented_training_that_is_validated(tiny):
    trainer = tiny.train(YOLO(tiny.weights("obb")), "validated", "obb", epochs=2, save=False, lr0=1e-4)
    results = columns(trainer.save_dir)
    losses = {"box_loss", "cls_loss", "dfl_loss", "angle_loss", "gauss_loss", "iou_loss"}
    assert {c.removeprefix("train/") for c in results if c.startswith("train/")} == losses
    assert {c.removeprefix("val/") for c in results if c.startswith("val/")} == losses
    ours = [f"uncert/{prefix}{key}" for prefix in ("", "angle_") for key in KEYS]
    ours.remove("uncert/angle_relative")
    assert [c for c in results if c.startswith("uncert/")] == ours
    assert all(math.isfinite(value) for c in ours for value in results[c]), "this model has matched boxes"
    loss = columns(tiny.run("obb"))["train/gauss_loss"]
    assert loss[-1] < loss[0]


def test_columns_are_the_same_for_epochs_without_validation(tiny):
    results = columns(tiny.run("detect"))
    assert [c for c in results if c.startswith("uncert/")] == [f"uncert/{key}" for key in KEYS]
    assert all(math.isnan(v) for v in results["uncert/nll"][:-1]), "unknown, not 0"
    assert len(results["epoch"]) == settings(tiny)["epochs"]


def test_stock_yaml_trains_without_columns_of_ours(tiny):
    results = columns(tiny.run("stock"))
    assert not [c for c in results if c.startswith("uncert/")]
    assert {c for c in results if c.startswith("train/")} == {"train/box_loss", "train/cls_loss", "train/dfl_loss"}
    assert type(YOLO(tiny.weights("stock")).model).__name__ == "DetectionModel"


# --- options ----------------------------------------------------------------------------------------------------------


def test_model_options_survive_in_the_final_weights(tiny, custom_yaml):
    trainer = tiny.train(YOLO(custom_yaml), "custom", **ONE)
    for path in (trainer.best, trainer.last):
        model = YOLO(str(path)).model
        assert model.yaml["uncertainty"] == UNCERTAINTY
        gaussian, iou_aware = model.model[-1].branches
        assert (gaussian.options.loss, gaussian.options.gain, gaussian.options.lr_mult) == ("nll", 0.5, 5.0)
        assert iou_aware.options.gain == 2.0
        assert model.names == {0: "disc", 1: "plate"}


def test_run_options_are_noted_in_args_yaml(tiny):
    args = settings(tiny)
    assert (args["iou_alpha"], args["sigma_source"], args["retrofit"], args["imgsz"]) == (0.5, None, False, 64)


def test_misspelt_option_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OptionError, match=r"train: unknown option 'iou_alfa'.*'iou_alpha'"):
        YOLO("yolov8n-light.yaml").train(data="none.yaml", iou_alfa=0.3, project=str(tmp_path))
    with pytest.raises(OptionError, match="iou_alpha must be at most 1"):
        YOLO("yolov8n-light.yaml").train(data="none.yaml", iou_alpha=3, project=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_missing_source_of_sigma_is_found_before_the_first_epoch(tiny):
    model = YOLO(tiny.yaml("detect", "gaussian"))
    model.add_callback("on_train_start", lambda trainer: pytest.fail("training began"))
    with pytest.raises(OptionError, match="sigma_source=dfl"):
        tiny.train(model, "no-source", sigma_source="dfl", **ONE)


def test_several_data_sets_train_one_after_the_other(tiny):
    data = str(tiny.data("detect"))
    model = YOLO(tiny.yaml("detect", "gaussian"))
    settings = {"epochs": 1, "imgsz": 64, "batch": 8, "workers": 0, "plots": False, "device": "cpu", "nbs": 8}
    results = model.train(data=[data, data], project=str(tiny.root / "several"), iou_alpha=0.4, **settings)
    assert len(results) == 2
    runs = list((tiny.root / "several").rglob("args.yaml"))
    assert [yaml.safe_load(f.read_text())["iou_alpha"] for f in runs] == [0.4, 0.4]


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tiny, custom_yaml):
    """Folder of a retrofit of three epochs that stopped in the second, with options that are not the defaults."""

    def stop(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    model = YOLO(custom_yaml)
    model.add_callback("on_train_epoch_start", stop)
    options = {"iou_alpha": 0.25, "sigma_source": "none", "score_fusion": "none", "retrofit": True}
    options |= {"pretrained": tiny.weights("stock"), "val": False}
    with pytest.raises(KeyboardInterrupt):
        tiny.train(model, "interrupted", epochs=3, optimizer="SGD", lr0=0.01, **options)
    return Path(model.trainer.save_dir)


@pytest.fixture
def copied(interrupted, tmp_path):
    """Copy of that folder, so that every test resumes from the same state."""
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def check_resumed(trainer, folder):
    assert Path(trainer.save_dir) == folder
    ours = {name: getattr(trainer.args, name) for name in ("iou_alpha", "sigma_source", "score_fusion", "retrofit")}
    assert ours == {"iou_alpha": 0.25, "sigma_source": "none", "score_fusion": "none", "retrofit": True}
    assert columns(folder)["epoch"] == [1, 2, 3]
    groups = {g["param_group"]: g for g in trainer.optimizer.param_groups}
    assert groups["branch"]["initial_lr"] == pytest.approx(0.01), "of the last group: iou_aware at the base rate"
    (fast,) = (g for g in trainer.optimizer.param_groups if g["initial_lr"] == pytest.approx(0.05))
    assert fast["param_group"] == "branch"
    assert trainer.optimizer.state[fast["params"][0]]["momentum_buffer"] is not None
    assert trainer.model.yaml["uncertainty"] == UNCERTAINTY
    assert not any(p.requires_grad for n, p in trainer.model.named_parameters() if ".cv_" not in n), "retrofit goes on"


def test_resume_in_python(copied, monkeypatch):
    save_dir = {"save_dir": str(copied)}
    model = YOLO(str(copied / "weights" / "last.pt"))
    started = []
    model.add_callback("on_train_start", lambda trainer: started.append(trainer.start_epoch))
    model.train(resume=True, **save_dir)
    assert started == [1]
    check_resumed(model.trainer, copied)
    assert YOLO(str(copied / "weights" / "best.pt")).model.yaml["uncertainty"] == UNCERTAINTY


@pytest.mark.parametrize("form", ["flag", "path"])
def test_resume_from_the_command_line(copied, form, monkeypatch):
    trainers = []
    train = YOLO.train

    def note(self, *args, **kwargs):
        train(self, *args, **kwargs)
        trainers.append(self.trainer)

    monkeypatch.setattr(YOLO, "train", note)
    last = copied / "weights" / "last.pt"
    words = {"flag": [f"model={last}", "resume"], "path": [f"resume={last}"]}[form]
    assert main(["train", *words, f"save_dir={copied}"]) == 0
    check_resumed(trainers[0], copied)


def test_resuming_a_finished_training_is_an_error(tiny, tmp_path, caplog):
    folder = shutil.copytree(tiny.run("detect"), tmp_path / "run")
    assert main(["train", f"resume={folder / 'weights' / 'last.pt'}", f"save_dir={folder}"]) != 0
    assert "nothing to resume" in caplog.text


# --- starting from weights --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weight_files(tiny, tmp_path_factory):
    """The same trained weights in each format."""
    folder = tmp_path_factory.mktemp("weights")
    state = tensors(tiny.weights("detect"))
    np.savez(folder / "w.npz", **{k: v.numpy() for k, v in state.items()})
    save_file(state, folder / "w.safetensors")
    return {"pt": tiny.weights("detect"), "npz": folder / "w.npz", "safetensors": folder / "w.safetensors"}


@pytest.mark.parametrize("form", ["pt", "npz", "safetensors"])
@pytest.mark.parametrize("start", ["pretrained", "load", "pretrained over a checkpoint"])
def test_training_starts_from_weights_of_every_format(tiny, weight_files, form, start):
    weights = str(weight_files[form])
    model = YOLO(tiny.weights("stock") if "checkpoint" in start else tiny.yaml("detect"))
    if start == "load":
        assert model.load(weights) is model
    options = {} if start == "load" else {"pretrained": weights}
    seen = []

    def look_and_stop(trainer):
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        raise InterruptedError

    model.add_callback("on_pretrain_routine_end", look_and_stop)
    with pytest.raises(InterruptedError):
        tiny.train(model, "start", **options, **ONE)
    expected = tensors(weight_files["pt"])
    shared = seen[0].keys() & expected.keys()
    assert len(shared) == (len(expected) if "checkpoint" not in start else sum(".cv_" not in name for name in expected))
    for name in shared:
        assert torch.equal(seen[0][name].float(), expected[name]), name


@pytest.mark.parametrize(
    ("pretrained", "error", "message"),
    [
        ("yolo11n-gaussian.yaml", OptionError, "pretrained must be a .pt, .npz or .safetensors file"),
        ("nowhere/best.pt", FileNotFoundError, "pretrained weights nowhere/best.pt do not exist"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_at_once(tiny, monkeypatch, pretrained, error, message):
    monkeypatch.setattr(YOLO, "_smart_load", lambda *_: pytest.fail("started"))
    with pytest.raises(error, match=message):
        YOLO("yolov8n-light.yaml").train(data=str(tiny.data("detect")), pretrained=pretrained, **ONE)


@pytest.mark.parametrize("loaded", [False, True])
def test_tensors_cannot_start_several_trainings(tiny, weight_files, loaded):
    model, options = YOLO(tiny.yaml("detect")), {"pretrained": weight_files["npz"]}
    if loaded:
        model.load(options.pop("pretrained"))
    with pytest.raises(OptionError, match=r"with several data sets pretrained= must be a \.pt file"):
        model.train(data=[str(tiny.data("detect"))], **options, **ONE)


def test_weights_of_another_scale_are_mentioned(tiny, caplog):
    stop = lambda trainer: (_ for _ in ()).throw(InterruptedError)  # noqa: E731
    for name, said in ((tiny.yaml("detect"), False), ("yolov8n-light.yaml", True)):
        caplog.clear()
        model = YOLO(name)
        model.add_callback("on_pretrain_routine_end", stop)
        with pytest.raises(InterruptedError):
            tiny.train(model, "scale", pretrained=tiny.weights("stock"), **ONE)
        assert ("pretrained tensors fit this model, as of another architecture or scale" in caplog.text) is said


def test_classes_are_chosen_by_name(tiny):
    trainer = tiny.train(YOLO(tiny.yaml("detect")), "plates", classes="plate", **ONE)
    assert trainer.args.classes == [1]
    seen = [label["cls"] for label in trainer.train_loader.dataset.labels]
    assert {float(c) for classes in seen for c in classes.ravel()} == {1.0}


# --- beside the stock weights -----------------------------------------------------------------------------------------


def test_branches_leave_the_training_of_the_stock_weights_alone(tiny, monkeypatch, tmp_path):
    """A detached branch trains the stock weights as the stock model does, from the same seed.

    But for one thing: Ultralytics bounds the norm of all gradients together, and the branch's share of it is at most 1
    beside the bound of 10. The test takes the bounds away.
    """
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args, **kwargs: None)
    options = {**ONE, "epochs": 2, "lr0": 0.001, "val": True}
    stock = tensors(str(tiny.train(YOLO(tiny.yaml("stock")), "same-stock", **options).last))
    detached = tmp_path / "detached.yaml"
    content = {"base": tiny.yaml("stock"), "uncertainty": {"gaussian": {"detach_features": True}}}
    detached.write_text(yaml.safe_dump(content), encoding="utf-8")
    ours = tensors(str(tiny.train(YOLO(detached), "same-ours", **options).last))
    for name, value in stock.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("channels_last", [None, False])
def test_training_on_a_cpu_takes_channels_last(tiny, channels_last):
    """What the second convolution gets and gives in a step; the checkpoint keeps the usual layout."""
    model, layouts = YOLO(tiny.yaml("detect")), []

    def watch(trainer):
        trainer.model.model[1].conv.register_forward_hook(lambda _, x, y: layouts.extend([x[0].stride(), y.stride()]))

    model.add_callback("on_train_start", watch)
    trainer = tiny.train(model, "layout", channels_last=channels_last, **ONE)
    nhwc = [stride[1] == 1 for stride in layouts]
    assert nhwc
    assert all(nhwc) is (channels_last is None)
    assert any(nhwc) is (channels_last is None)
    assert YOLO(trainer.last).model.model[1].conv.weight.is_contiguous()


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def board_environment(tmp_path):
    """Environment of a process that logs to TensorBoard: a setting of Ultralytics, and off while pytest runs."""
    folder = Path(os.environ["YOLO_CONFIG_DIR"])
    settings = tmp_path / SETTINGS.file.relative_to(folder)
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({**SETTINGS, "tensorboard": True}), encoding="utf-8")
    return {**{k: v for k, v in os.environ.items() if "PYTEST" not in k}, "YOLO_CONFIG_DIR": str(tmp_path)}


def test_train_script_of_a_checkout_with_tensorboard(tiny, tmp_path, board_environment):
    words = ["epochs=1", "imgsz=64", "batch=8", "val=False", "plots=False", "device=cpu", "workers=0"]
    place = [f"data={tiny.data('detect')}", f"project={tmp_path}", "name=script"]
    command = [sys.executable, str(ROOT / "train.py"), f"model={tiny.yaml('detect', 'gaussian')}", *place, *words]
    done = subprocess.run(command, cwd=tmp_path, env=board_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gauss_loss" in done.stdout
    assert (tmp_path / "script" / "weights" / "best.pt").is_file()
    assert "train/gauss_loss" in columns(tmp_path / "script")
    board = EventAccumulator(str(tmp_path / "script")).Reload()
    shown = set(board.Tags()["scalars"])
    assert {"train/gauss_loss", "val/gauss_loss", "uncert/nll", "uncert/spearman"} <= shown


def test_a_model_with_branches_learns_from_a_teacher(tiny, tmp_path):
    file = tmp_path / "finer.yaml"  # which reads a map that is none of the levels a teacher has
    content = {"base": tiny.yaml("stock"), "uncertainty": {"gaussian": {}, "border": {"finer": True}}}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    model = YOLO(file)
    trainer = tiny.train(model, "student", epochs=1, val=False, distill_model=tiny.weights("detect"))
    assert columns(trainer.save_dir)["train/gauss_loss"][0] != 0
    assert list(YOLO(Path(trainer.save_dir) / "weights" / "best.pt").model.yaml["uncertainty"])
    assert len({group["lr"] for group in trainer.optimizer.param_groups if group["params"]}) > 1
