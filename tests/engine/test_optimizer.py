from __future__ import annotations

import math

import pytest
import torch
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.torch_utils import ModelEMA

from yolo_uncert.engine.retrofit import branch_parameters
from yolo_uncert.engine.train import BRANCH_GRADIENT_NORM, UncertDetectionTrainer
from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.yamls import resolve


def trainer_of(model, **args):
    """A trainer that is only asked to build optimizers for a model."""
    trainer = UncertDetectionTrainer.__new__(UncertDetectionTrainer)
    trainer.model = model
    trainer.args = DEFAULT_CFG
    trainer.data = {"nc": 2}
    return trainer


@pytest.fixture(scope="module")
def model():
    return build_model("yolo26n-light.yaml", "detect", nc=2)


def test_branch_parameters_are_grouped_by_rate(model):
    groups = branch_parameters(model)
    head = model.model[-1]
    assert list(groups) == [10.0, 1.0], "gaussian and iou_aware"
    for rate, name in ((10.0, "gaussian"), (1.0, "iou_aware")):
        modules = (getattr(head, f"cv_{name}"), getattr(head, f"one2one_cv_{name}"))
        assert [id(p) for p in groups[rate]] == [id(p) for m in modules for p in m.parameters()]
    assert branch_parameters(build_model("yolov8n.yaml", "detect")) == {}
    assert branch_parameters(build_model("yolov8n-dfl.yaml", "detect")) == {}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "MuSGD", "RMSProp"])
def test_every_parameter_is_in_one_group_and_branches_have_their_own(model, name):
    optimizer = trainer_of(model).build_optimizer(model, name, lr=0.01, momentum=0.9, decay=5e-4)
    listed = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    own = {id(p): rate for rate, parameters in branch_parameters(model).items() for p in parameters}
    for group in optimizer.param_groups:
        rates = {own.get(id(p)) for p in group["params"]}
        if group["param_group"] == "branch":
            (rate,) = rates
            assert group["lr"] == pytest.approx(0.01 * rate)
            assert group["weight_decay"] == 0
            assert not group.get("use_muon", False)
        else:
            assert rates <= {None}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "MuSGD"])
def test_a_step_moves_branches_and_detector(model, name):
    model = build_model("yolov8n-gaussian.yaml", "detect", nc=2)
    optimizer = trainer_of(model).build_optimizer(model, name, lr=0.01, momentum=0.9, decay=0.0)
    before = {k: v.clone() for k, v in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {k: (v - before[k]).abs().max().item() for k, v in model.named_parameters()}
    assert all(moved[k] > 0 for k, v in model.named_parameters() if v.requires_grad)
    bias = {k: v for k, v in moved.items() if k.endswith("bias")}
    ours = {v for k, v in bias.items() if ".cv_" in k}
    theirs = max(v for k, v in bias.items() if ".cv_" not in k and ".cv3." not in k)
    assert min(ours) == pytest.approx(10 * theirs, rel=1e-4), "ten times the rate"


def test_branch_gradients_are_bounded_on_their_own(model):
    trainer = trainer_of(model)
    trainer.scaler = torch.amp.GradScaler("cuda", enabled=False)
    trainer.device, trainer.ema = torch.device("cpu"), None
    seen = {}

    class Optimizer(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters()})

    trainer.optimizer = Optimizer(model.parameters(), lr=0.1)
    own = {id(p) for group in branch_parameters(model).values() for p in group}
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e3 if id(p) in own else 1e-4)
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    trainer.optimizer_step()
    ours = [n for n, p in model.named_parameters() if id(p) in own]
    assert math.hypot(*(seen[n].norm() for n in ours)) == pytest.approx(BRANCH_GRADIENT_NORM, rel=1e-3)
    for name in before.keys() - set(ours):
        assert torch.equal(seen[name], before[name]), "their own norm is below the common bound of 10"


@pytest.mark.parametrize("size", [1e-4, 1e3])
@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_detached_step_is_upstreams_step_of_the_detector(size, scale):
    """Contract: what is written out for detached models is ``BaseTrainer.optimizer_step``."""
    after = {}
    for kind, keys in (("upstream", {}), ("ours", {"detach": True})):
        torch.manual_seed(0)
        model = build_model(resolve({"base": "yolov8n.yaml", "uncertainty": {"gaussian": {}}, **keys}), "detect", nc=2)
        trainer = trainer_of(model)
        trainer.device, trainer.ema = torch.device("cpu"), ModelEMA(model)
        trainer.scaler = torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0)
        trainer.scaler.scale(torch.ones(()))  # it starts with the first loss
        trainer.optimizer = trainer.build_optimizer(model, "AdamW", lr=0.01, momentum=0.9, decay=0.0)
        own = {id(p) for group in branch_parameters(model).values() for p in group}
        generator = torch.Generator().manual_seed(1)
        for p in model.parameters():
            gradient = torch.randn(p.shape, generator=generator) * size * trainer.scaler.get_scale()
            p.grad = None if kind == "upstream" and id(p) in own else gradient
        trainer.optimizer_step()
        assert all(p.grad is None for p in model.parameters())
        after[kind] = {n: (p, e) for (n, p), (_, e) in zip(*_named(model, trainer.ema.ema), strict=True)}
        assert trainer.ema.updates == 1
    for name, values in after["upstream"].items():
        if ".cv_gaussian." not in name:
            assert all(map(torch.equal, values, after["ours"][name]))
        else:
            assert not any(map(torch.equal, values, after["ours"][name])), "the branch has moved too"


def test_a_branch_that_overflows_leaves_a_detached_detector_its_step():
    model = build_model(
        resolve({"base": "yolov8n.yaml", "detach": True, "uncertainty": {"gaussian": {}}}), "detect", nc=2
    )
    trainer = trainer_of(model)
    trainer.device, trainer.ema = torch.device("cpu"), None
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.scaler.scale(torch.ones(()))
    trainer.optimizer = trainer.build_optimizer(model, "AdamW", lr=0.01, momentum=0.9, decay=0.0)
    before = {n: p.clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.model[-1].cv_gaussian[0].weight.grad[0] = torch.inf
    trainer.optimizer_step()
    assert trainer.scaler.get_scale() == 1024
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (".cv_gaussian." in name)


def _named(*models):
    return (model.named_parameters() for model in models)
