"""DFL branch: moments of hand-made distributions, and the decoding by their peak."""

from __future__ import annotations

import pytest
import torch
from ultralytics.nn.modules.block import DFL

from yolo_uncert.nn.branches.base import Decoded
from yolo_uncert.nn.branches.dfl import MomentsDFL, PeakDFL


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Raw head output Tensor[1, 4 R, 1] with the given probabilities for l, t, r, b."""
    return torch.tensor(rows).clamp_min(1e-20).log().view(1, -1, 1)


def std_of(branch, logits: torch.Tensor, stride: float) -> torch.Tensor:
    batch, _, anchors = logits.shape
    side_var = branch.decoder(DFL(branch.spec.reg_max)).moments(logits)[1]
    strides = torch.full((1, anchors), stride)
    return branch.decode({}, Decoded(torch.zeros(batch, 4, anchors), torch.zeros(2, anchors), strides, side_var))


# Two candidates for a boundary: 0.6 around bin 1, 0.4 around bin 6.
BIMODAL = [0.1, 0.5, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0]
CERTAIN = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
EVEN = [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
UNIFORM = [0.125] * 8


def test_moments_by_hand(make_branch):
    std = std_of(make_branch("dfl", reg_max=8), logits_of(BIMODAL, CERTAIN, EVEN, UNIFORM), 16.0).flatten()
    # bimodal: mean 0.5 + 2.4 = 2.9, E[i^2] = 0.5 + 14.4 = 14.9, variance 14.9 - 8.41 = 6.49
    # even: variance 0.25; uniform over n = 8 bins: (n^2 - 1) / 12 = 5.25
    torch.testing.assert_close(std, 16 * torch.tensor([6.49, 0.0, 0.25, 5.25]).sqrt(), atol=1e-3, rtol=1e-5)


def test_moments_of_random_distributions(make_branch):
    boxes = torch.randn(2, 64, 5)
    std = std_of(make_branch("dfl"), boxes, 8.0)
    prob = boxes.double().view(2, 4, 16, 5).softmax(2)
    bins = torch.arange(16.0).double().view(1, 1, 16, 1)
    mean = (prob * bins).sum(2, keepdim=True)
    torch.testing.assert_close(std, ((prob * (bins - mean) ** 2).sum(2).sqrt() * 8).float())


def test_peak_of_a_bimodal_side(make_branch):
    raw = logits_of(BIMODAL, CERTAIN, EVEN, BIMODAL)
    # bins 0 to 2 around the peak at 1: (0.1 * 0 + 0.5 * 1) / 0.6 = 5 / 6
    expected = torch.tensor([5 / 6, 2.0, 3.5, 5 / 6])
    torch.testing.assert_close(PeakDFL(8, 1)(raw).flatten(), expected)
    assert PeakDFL(8, 0)(raw).flatten().tolist() == [1, 2, 3, 1]
    mean = DFL(8)(raw).flatten()
    torch.testing.assert_close(PeakDFL(8, 7)(raw).flatten(), mean)
    assert mean[0].item() == pytest.approx(2.9)
    # about 5/6, the other candidate counts: 6.49 + (2.9 - 5/6)^2
    std = std_of(make_branch("dfl", reg_max=8, decode="peak"), raw, 1.0).flatten()
    assert std[0].item() == pytest.approx((6.49 + (2.9 - 5 / 6) ** 2) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distances_are_those_of_the_stock_layer(dtype):
    boxes = (4 * torch.randn(2, 64, 50)).to(dtype)
    ours, stock = MomentsDFL(16).to(dtype), DFL(16).to(dtype)
    distances = ours(boxes)
    assert torch.equal(distances, stock(boxes))
    assert torch.equal(ours(distances), distances)


def test_layer_carries_the_weights_of_the_stock_one():
    ours, stock = MomentsDFL(16), DFL(16)
    assert ours.load_state_dict(stock.state_dict()).missing_keys == []
    assert torch.equal(ours.conv.weight, stock.conv.weight)


def test_peak_decoding_reaches_the_boxes_and_nothing_else(build, perturb, make_batch):
    models = [perturb(build("yolo11n.yaml", "detect", {"dfl": {"decode": d}})) for d in ("mean", "peak")]
    assert isinstance(models[1].model[-1].dfl, PeakDFL)
    with torch.no_grad():
        (mean, mean_raw), (peak, peak_raw) = (m(make_batch("detect")["img"]) for m in models)
    assert torch.equal(mean_raw["boxes"], peak_raw["boxes"])
    assert torch.equal(mean[:, 4:7], peak[:, 4:7])
    assert not torch.allclose(mean[:, :4], peak[:, :4])


def test_nothing_to_train(make_branch):
    branch = make_branch("dfl")
    assert branch.build() is None
    assert branch.loss_item == branch.replaces == ""
    frozen = [p.requires_grad for p in PeakDFL(16, 1).parameters()]
    assert frozen == [False]
