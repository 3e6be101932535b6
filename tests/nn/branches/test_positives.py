"""In training the border branch waits for the label assignment and looks at the anchors that have an object alone."""

from __future__ import annotations

import pytest
import torch

from yolo_uncert.losses.context import LATER
from yolo_uncert.nn import branched
from yolo_uncert.nn.branches.border import BorderBranch, among_first

SECTION = {"gaussian": {}, "iou_aware": {}, "border": {"finer": True, "beside": 0.15}}


def test_positives_come_first_by_hand():
    positive = torch.tensor([[False, True, False, True], [False, False, False, True], [False] * 4])
    index = among_first(positive)
    assert index.shape == (3, 2)
    assert sorted(index[0].tolist()) == [1, 3]
    assert index[1, 0] == 3
    assert all(len(set(row)) == 2 for row in index.tolist()), "the others fill up, each once"
    assert among_first(positive[2:]).shape == (1, 1), "one, so that the layers stay in the graph"


@pytest.fixture
def step(build, make_batch):
    """Loss items and gradients of a training step."""

    def run(base, task, batch=None):
        model = build(base, task, {**SECTION, "border": {**SECTION["border"], "turn": task == "obb"}}).train()
        loss, items = model.loss(batch or make_batch(task))
        loss.sum().backward()
        return items, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    return run


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("base", ["yolov8n.yaml", "yolo26n.yaml"])
def test_a_step_is_that_of_looking_everywhere(step, monkeypatch, base, task):
    looked, look = [], BorderBranch.look

    def noted(self, modules, features, maps, places, index=None, **how):
        looked.append(index.shape[1])
        return look(self, modules, features, maps, places, index, **how)

    monkeypatch.setattr(BorderBranch, "look", noted)
    items, gradients = step(base, task)
    assert looked
    assert max(looked) <= 20 < 84, "of 84 anchors those of two objects, ten each"
    monkeypatch.setattr(branched, "among_first", lambda positive: torch.arange(84).expand(len(positive), -1))
    expected, whole = step(base, task)
    assert items.keys() == expected.keys()
    for name, value in items.items():
        torch.testing.assert_close(value, expected[name])
    assert gradients.keys() == whole.keys()
    for name, gradient in gradients.items():
        # Sums in another order, after a hundred layers: of a tensor's entries the smallest are but rounding.
        torch.testing.assert_close(gradient, whole[name], rtol=0, atol=1e-4 * float(whole[name].abs().max()) + 1e-6)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_a_batch_without_objects_keeps_the_graph(step, make_batch, task):
    batch = make_batch(task)
    empty = {**batch, "batch_idx": batch["batch_idx"][:0], "cls": batch["cls"][:0], "bboxes": batch["bboxes"][:0]}
    items, gradients = step("yolov8n.yaml", task, empty)
    assert items["border_loss"] == 0
    assert any("cv_border" in name for name in gradients)


def test_raw_predictions_in_training_hold_what_runs_later(build):
    model = build("yolov8n.yaml", "detect", SECTION).train()
    preds = model(torch.rand(1, 3, 64, 64))
    assert not {"border", "gaussian", "iou_aware"} & preds.keys()
    positive = torch.zeros(1, 84, dtype=torch.bool)
    positive[0, 5] = True
    found = preds[LATER](preds, positive)
    assert list(found) == ["gaussian", "iou_aware", "border"]
    assert all(value.shape[2] == 84 for value in found.values())
    moved = found["border"][0].abs().sum(0)
    assert moved[5] > 0
    assert not moved[torch.arange(84) != 5].any()
    assert "gaussian" in build("yolov8n.yaml", "detect", {"gaussian": {}}).train()(torch.rand(1, 3, 64, 64))
