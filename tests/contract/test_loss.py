"""Stock criteria: the call of the box loss, which carries the label assignment, and the form of a result."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import BboxLoss, E2ELoss, RotatedBboxLoss, v8DetectionLoss, v8OBBLoss

pytestmark = pytest.mark.seam("losses/criterion.py")

CRITERIA = {"detect": v8DetectionLoss, "obb": v8OBBLoss}
ANCHORS = 84  # of a 64 px image
CALL = (
    "pred_dist",
    "pred_bboxes",
    "anchor_points",
    "target_bboxes",
    "target_scores",
    "target_scores_sum",
    "fg_mask",
    "imgsz",
    "stride",
)


class Spy(nn.Module):
    """Stands in for the box loss and keeps its arguments by name."""

    def __init__(self, stock):
        super().__init__()
        self.stock, self.calls, self.returned = stock, [], []

    def forward(self, *args, **kwargs):
        self.calls.append(inspect.signature(self.stock.forward).bind(*args, **kwargs).arguments)
        self.returned.append(self.stock(*args, **kwargs))
        return self.returned[-1]


@pytest.fixture(params=CRITERIA)
def task(request):
    return request.param


@pytest.fixture
def step(stock, batch):
    """Run a criterion on a model's training output; more options go to the training arguments."""

    def run(task, objects=2, **hyp):
        torch.manual_seed(0)
        model = stock(task).train()
        model.args = IterableSimpleNamespace(**{**vars(model.args), **hyp})
        labels = batch(task)
        preds = model(labels.pop("img"))
        labels = {key: value[:objects] for key, value in labels.items()}
        made = CRITERIA[task](model, 10, None)
        made.bbox_loss = Spy(made.bbox_loss)
        return made, preds, made.loss(preds, labels)

    return run


@pytest.mark.parametrize("cls", [BboxLoss, RotatedBboxLoss])
def test_box_losses_take_the_arguments_that_we_record(cls):
    assert tuple(inspect.signature(cls.forward).parameters) == ("self", *CALL)


@pytest.mark.parametrize("cls", CRITERIA.values())
def test_criteria_take_model_and_assigner_settings_by_position(cls):
    assert tuple(inspect.signature(cls.__init__).parameters) == ("self", "model", "tal_topk", "tal_topk2")


@pytest.mark.seam("losses/criterion.py", "losses/context.py")
def test_criterion_calls_its_box_loss_attribute_with_the_assignment(step, task):
    criterion, preds, _ = step(task)
    (call,) = criterion.bbox_loss.calls
    call = dict(zip(CALL, call.values(), strict=True))
    coordinates = 5 if task == "obb" else 4
    assert call["pred_bboxes"].shape == call["target_bboxes"].shape == (2, ANCHORS, coordinates)
    assert call["pred_bboxes"].requires_grad
    assert call["target_scores"].shape == (2, ANCHORS, 3)
    assert (call["anchor_points"].shape, call["stride"].shape) == ((ANCHORS, 2), (ANCHORS, 1))
    assert call["fg_mask"].shape == (2, ANCHORS)
    positive = call["fg_mask"].bool()
    assert positive.any()
    assert call["target_scores"][~positive].count_nonzero() == 0
    assert call["target_scores"].sum((0, 1)).nonzero().view(-1).tolist() == [1], "both objects are of class 1"
    assert float(call["target_scores_sum"]) == pytest.approx(max(float(call["target_scores"].sum()), 1))
    # Boxes are in grid units: times the stride they are the labels, 32 x 16 px about (32, 32).
    label = [32.0, 32, 32, 16, 0] if task == "obb" else [16.0, 24, 48, 40]
    pixels = call["target_bboxes"].clone()
    pixels[..., :4] *= call["stride"]
    assert pixels[positive].detach().allclose(torch.tensor(label).expand(int(positive.sum()), -1), atol=1e-4)
    assert preds["boxes"].shape == (2, 64, ANCHORS)


@pytest.mark.seam("losses/context.py", "losses/criterion.py")
def test_without_objects_the_box_loss_is_called_all_the_same_or_skipped_for_oriented_boxes(step, task):
    criterion, _, (vector, _) = step(task, objects=0)
    masks = [call["fg_mask"] for call in criterion.bbox_loss.calls]
    assert masks or task == "obb", "Assignment.empty stands in for oriented boxes only"
    assert not any(mask.any() for mask in masks)
    assert vector.isfinite().all()


def test_loss_is_a_vector_times_the_batch_and_a_dict_in_the_same_order(step, task):
    _, _, (vector, items) = step(task)
    assert isinstance(items, dict)
    names = ["box_loss", "cls_loss", "dfl_loss"] + ["angle_loss"] * (task == "obb")
    assert list(items) == names
    assert torch.stack(list(items.values())).allclose(vector.detach() / 2)
    assert vector.requires_grad
    assert not any(value.requires_grad for value in items.values())


@pytest.mark.seam("losses/context.py", "nn/branches/kld.py", "nn/branches/qfl.py", "nn/branches/quality.py")
def test_gains_of_box_and_class_loss_are_read_from_the_training_arguments(step, task):
    gains = {"box": 2.0, "cls": 3.0, "dfl": 5.0}
    criterion, _, (_, once) = step(task, **dict.fromkeys(gains, 1.0))
    _, _, (_, scaled) = step(task, **gains)
    for name, gain in gains.items():
        assert scaled[f"{name}_loss"] == pytest.approx(gain * once[f"{name}_loss"])
    (returned,) = criterion.bbox_loss.returned
    assert [once["box_loss"], once["dfl_loss"]] == pytest.approx([value.item() for value in returned])


@pytest.mark.seam("losses/context.py", "losses/criterion.py")
def test_class_weights_of_the_model_reach_the_criterion(stock, task):
    model = stock(task)
    assert CRITERIA[task](model).class_weights is None
    model.class_weights = torch.tensor([1.0, 2, 3])
    assert CRITERIA[task](model).class_weights.tolist() == [[[1.0, 2, 3]]]


@pytest.mark.seam("nn/models.py", "losses/criterion.py")
def test_end_to_end_loss_builds_two_criteria_and_calls_their_loss(stock):
    made = []

    class Criterion:
        def __init__(self, model, tal_topk=10, tal_topk2=None):
            self.model, self.settings, self.hyp = model, (tal_topk, tal_topk2), model.args
            made.append(self)

        def parse_output(self, preds):
            return preds[1] if isinstance(preds, tuple) else preds

        def loss(self, preds, batch):
            return torch.tensor([float(preds)]), {"x_loss": torch.tensor(float(preds))}

    model = stock("detect-e2e")
    both = E2ELoss(model, Criterion)
    assert [criterion.model for criterion in made] == [model, model]
    assert made[1].settings[1] == 1, "the one-to-one criterion assigns one anchor an object"
    vector, items = both({"one2many": 1, "one2one": 10}, {})
    assert vector == pytest.approx(both.o2m * 1 + both.o2o * 10)
    assert items == {"x_loss": torch.tensor(10.0)}


@pytest.mark.seam("nn/models.py", "losses/criterion.py")
@pytest.mark.parametrize("kind", ["detect-e2e", "obb-e2e"])
def test_end_to_end_models_train_on_one_dict_of_predictions_per_head(stock, batch, kind):
    model = stock(kind).train()
    labels = batch(kind.removesuffix("-e2e"))
    preds = model(labels["img"])
    assert set(preds) == {"one2many", "one2one"}
    vector, items = model.loss(labels, preds)
    assert "l1_loss" in items
    assert vector.isfinite().all()
