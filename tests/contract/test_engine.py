"""Trainer and validator: one tiny run whose hooks are recorded, and what it leaves in its checkpoints."""

from __future__ import annotations

import csv
import inspect
import json
import pickle

import numpy as np
import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.dist import generate_ddp_file
from ultralytics.utils.metrics import DetMetrics, OBBMetrics

from yolo_uncert import YOLO
from yolo_uncert.engine.retrofit import stock_layers
from yolo_uncert.engine.train import UncertDetectionTrainer
from yolo_uncert.engine.val import UncertDetectionValidator

pytestmark = pytest.mark.seam("engine/train.py")

FROZEN = ["0", "23.cv2"]
HOOKS = ("setup_model", "get_model", "build_optimizer", "optimizer_step", "_model_train", "get_validator")


class SpyValidator(UncertDetectionValidator):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen_preds, self.seen_pbatch, self.seen_json = [], [], []

    def postprocess(self, preds):
        self.seen_preds.append((type(preds), preds[0].shape))
        return super().postprocess(preds)

    def scale_preds(self, predn, pbatch):
        self.seen_pbatch.append(pbatch)
        return super().scale_preds(predn, pbatch)

    def pred_to_json(self, predn, pbatch):
        self.seen_json.append(predn)
        super().pred_to_json(predn, pbatch)


class SpyTrainer(UncertDetectionTrainer):
    """Writes down every hook that the stock trainer calls."""

    validator_class = SpyValidator

    def __init__(self, *args, **kwargs):
        self.hooks = []
        super().__init__(*args, **kwargs)

    def setup_model(self):
        self.hooks.append(("setup_model", type(self.args.pretrained)))
        return super().setup_model()

    def get_model(self, *args, **kwargs):
        self.hooks.append(("get_model", sorted(kwargs), args))
        return super().get_model(*args, **kwargs)

    def build_optimizer(self, model, *args, **kwargs):
        optimizer = super().build_optimizer(model, *args, **kwargs)
        self.hooks.append(("build_optimizer", optimizer.param_groups))
        return optimizer

    def optimizer_step(self):
        grads = [p.grad is not None for p in self.model.parameters() if p.requires_grad]
        self.hooks.append(("optimizer_step", any(grads), self.scaler.get_scale()))
        super().optimizer_step()

    def _model_train(self):
        super()._model_train()
        self.hooks.append(("_model_train", self.epoch, self.model.training))

    def get_validator(self):
        self.hooks.append(("get_validator",))
        return super().get_validator()


@pytest.fixture(scope="module")
def trainer(dataset, tmp_path_factory):
    """One epoch with frozen layers and an option of ours."""
    model = YOLO("yolo11n-gaussian.yaml")
    model.train(
        trainer=SpyTrainer,
        data=str(dataset),
        epochs=1,
        imgsz=64,
        batch=4,
        nbs=4,  # a step of the optimizer after each batch
        device="cpu",
        workers=0,
        plots=False,
        freeze=FROZEN,
        sigma_source="gaussian",
        project=str(tmp_path_factory.mktemp("runs")),
        name="spy",
    )
    return model.trainer


def calls(trainer, name):
    return [hook[1:] for hook in trainer.hooks if hook[0] == name]


@pytest.mark.parametrize("hook", HOOKS)
def test_training_runs_through_every_hook_that_we_override(trainer, hook):
    assert calls(trainer, hook)


def test_hooks_find_what_we_read_on_the_trainer(trainer):
    assert [keys for keys, _ in calls(trainer, "get_model")] == [["cfg", "verbose", "weights"]]
    assert all(has_grad and scale == 1 for has_grad, scale in calls(trainer, "optimizer_step"))
    assert calls(trainer, "_model_train")[-1] == (0, True), "the epoch is known when the model is set to train"
    assert {"channels", "nc"} <= trainer.data.keys()


def test_freeze_takes_names_of_layers_and_of_their_parts(trainer):
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad}
    want = tuple(f"model.{name}." for name in FROZEN)
    assert frozen == {name for name, _ in trainer.model.named_parameters() if name.startswith(want) or ".dfl" in name}
    assert stock_layers(trainer.model)[-1].startswith("23."), "a part of the head is written <layer>.<part>"


def test_optimizer_groups_have_the_settings_that_we_take_over(trainer):
    (groups,) = (groups for (groups,) in calls(trainer, "build_optimizer"))
    assert all({"params", "lr", "weight_decay", "param_group"} <= group.keys() for group in groups)
    assert {group["param_group"] for group in groups} == {"weight", "bn", "bias", "branch"}
    branch = next(group for group in groups if group["param_group"] == "branch")
    base = next(group for group in groups if group["param_group"] == "weight")
    assert branch["initial_lr"] == pytest.approx(10 * base["initial_lr"])


@pytest.mark.seam("engine/train.py", "engine/options.py", "nn/models.py")
def test_best_checkpoint_loses_our_options_but_keeps_the_model_yaml(trainer):
    best = torch.load(trainer.best, weights_only=False, map_location="cpu")
    assert not {"sigma_source", "iou_alpha"} & best["train_args"].keys(), "so branch options live in model.yaml"
    assert "gaussian" in best["model"].yaml["uncertainty"]
    model = YOLO(str(trainer.best))
    assert (type(model.model).__name__, model.task) == ("UncertDetectionModel", "detect")
    assert model.model.model[-1].schema.names == ("gaussian",)


def test_settings_file_and_argument_namespace_carry_our_options_to_worker_processes(trainer, tmp_path):
    assert "sigma_source: gaussian" in (trainer.save_dir / "args.yaml").read_text(encoding="utf-8")
    args = vars(trainer.args)
    assert args["sigma_source"] == "gaussian"
    # What the script does that Ultralytics writes for each worker of a multi-GPU run:
    assert all(part in inspect.getsource(generate_ddp_file) for part in ("vars(trainer.args)", "(cfg=cfg, overrides="))
    cls, overrides = pickle.loads(pickle.dumps((UncertDetectionTrainer, {**args, "save_dir": str(tmp_path)})))
    worker = cls(cfg={**DEFAULT_CFG_DICT, "save_dir": ""}, overrides=overrides, _callbacks=None)
    assert worker.args.sigma_source == "gaussian"
    assert worker.save_dir == tmp_path


@pytest.mark.seam("engine/train.py", "losses/criterion.py", "engine/metrics.py")
def test_loss_items_and_metrics_of_ours_get_columns_of_their_own(trainer):
    with (trainer.save_dir / "results.csv").open(encoding="utf-8") as file:
        columns = {name.strip() for name in next(csv.reader(file))}
    assert {"train/gauss_loss", "val/gauss_loss", "metrics/mAP50(B)"} <= columns
    assert {f"uncert/{name}" for name in ("nll", "spearman")} <= columns


@pytest.mark.seam("engine/val.py", "engine/postprocess.py")
def test_validator_hands_tuples_or_lists_with_the_decoded_tensor_first(trainer):
    kinds = {kind for kind, _ in trainer.validator.seen_preds}
    assert kinds <= {tuple, list}
    assert {shape[1] for _, shape in trainer.validator.seen_preds} == {4 + 3 + 4}


@pytest.mark.seam("engine/val.py")
def test_validator_scales_and_writes_what_postprocess_returned(trainer, dataset, tmp_path):
    spies = []

    class Validator(SpyValidator):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            spies.append(self)

    metrics = YOLO(str(trainer.best)).val(
        validator=Validator,
        data=str(dataset),
        imgsz=64,
        conf=1e-6,
        max_det=20,
        workers=0,
        device="cpu",
        plots=False,
        save_json=True,
        project=str(tmp_path),
        name="val",
    )
    (spy,) = spies
    assert {"imgsz", "ori_shape", "ratio_pad", "bboxes", "cls"} <= spy.seen_pbatch[0].keys()
    assert len(spy.seen_pbatch[0]["imgsz"]) == len(spy.seen_pbatch[0]["ori_shape"]) == 2
    assert all("std" in predn for predn in spy.seen_json), "further keys of a prediction reach pred_to_json"
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    assert len(rows) == sum(len(predn["std"]) for predn in spy.seen_json) > 0
    assert all(len(row["std"]) == 4 for row in rows)
    assert metrics.fitness == metrics.results_dict["fitness"]


@pytest.mark.seam("engine/metrics.py", "engine/val.py")
@pytest.mark.parametrize("cls", [DetMetrics, OBBMetrics])
def test_metrics_append_join_and_clear_every_list_of_their_statistics(cls, tmp_path):
    metrics = cls({0: "a"})
    metrics.stats["more"] = []
    one = {
        "tp": np.ones((1, 10), dtype=bool),
        "conf": np.ones(1),
        "pred_cls": np.zeros(1),
        "target_cls": np.zeros(1),
        "target_img": np.zeros(1),
        "im_name": "a.jpg",
    }
    for rows in (2, 3):
        metrics.update_stats({**one, "more": np.zeros((rows, 4)), "unknown": None})
    assert metrics.process(tmp_path, False, None)["more"].shape == (5, 4)
    assert set(metrics.results_dict) >= {"metrics/mAP50(B)", "metrics/mAP50-95(B)", "fitness"}
    metrics.clear_stats()
    assert metrics.stats["more"] == []
