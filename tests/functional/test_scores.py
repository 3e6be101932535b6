"""Quality focal loss and score fusion, against torch's BCE and numbers derived by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from yolo_uncert.functional.scores import (
    PROB_MAX,
    fuse_iou,
    gaussian_yolo,
    quality_focal_loss,
    quality_focal_loss_with_logits,
)

TWINS = {"prob": lambda x, y, b: quality_focal_loss(x.sigmoid(), y, b), "logits": quality_focal_loss_with_logits}
BOTH = pytest.mark.parametrize("loss_fn", TWINS.values(), ids=TWINS)


def pairs() -> tuple[Tensor, Tensor]:
    """Logits in [-6, 6] times targets in [0, 1]."""
    logits, target = torch.meshgrid(torch.linspace(-6, 6, 9), torch.linspace(0, 1, 5), indexing="ij")
    return logits.double().contiguous(), target.double().contiguous()


class TestQualityFocalLoss:
    def test_by_hand(self) -> None:
        # p = 0.5: BCE = ln 2 for every target; |1 - 0.5|^2 = 0.25, |0.8 - 0.5|^2 = 0.09
        loss = quality_focal_loss(torch.full((2,), 0.5), torch.tensor([1.0, 0.8]))
        torch.testing.assert_close(loss, torch.tensor([0.25, 0.09]) * math.log(2))

    @BOTH
    def test_beta_zero_is_bce(self, loss_fn: Callable[..., Tensor]) -> None:
        logits, target = pairs()
        expected = F.binary_cross_entropy(logits.sigmoid(), target, reduction="none")
        torch.testing.assert_close(loss_fn(logits, target, 0.0), expected)

    @BOTH
    @pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
    def test_beta_weights_bce(self, loss_fn: Callable[..., Tensor], beta: float) -> None:
        logits, target = pairs()
        prob = logits.sigmoid()
        expected = F.binary_cross_entropy(prob, target, reduction="none") * (prob - target).abs() ** beta
        torch.testing.assert_close(loss_fn(logits, target, beta), expected)

    @BOTH
    def test_never_negative_and_zero_on_target(self, loss_fn: Callable[..., Tensor]) -> None:
        logits, target = pairs()
        assert (loss_fn(logits, target, 2.0) >= 0).all()
        on_target = loss_fn(logits, logits.sigmoid(), 2.0)
        torch.testing.assert_close(on_target, torch.zeros_like(on_target), rtol=0, atol=1e-15)

    @BOTH
    @pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
    def test_gradcheck(self, loss_fn: Callable[..., Tensor], beta: float) -> None:
        logits = torch.tensor([-4.0, -1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
        target = torch.tensor([0.9, 0.0, 1.0, 0.4], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, y: loss_fn(x, y, beta), (logits, target))

    @BOTH
    @pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
    def test_gradient_is_defined_on_target(self, loss_fn: Callable[..., Tensor], beta: float) -> None:
        logits = torch.zeros(1, requires_grad=True)
        loss_fn(logits, torch.tensor([0.5]), beta).sum().backward()
        assert logits.grad is not None
        assert logits.grad.item() == 0.0

    @BOTH
    def test_extremes_are_finite(self, loss_fn: Callable[..., Tensor]) -> None:
        logits, target = torch.meshgrid(
            torch.tensor([-1e4, -50.0, 50.0, 1e4]), torch.tensor([0.0, 0.5, 1.0]), indexing="ij"
        )
        logits = logits.flatten().requires_grad_()
        loss = loss_fn(logits, target.flatten(), 2.0)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_probabilities_of_exactly_zero_and_one(self) -> None:
        prob = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
        loss = quality_focal_loss(prob, torch.tensor([0.0, 1.0, 0.0, 1.0]))
        # -ln(1e-12) where a positive has no score, -ln(2^-24) where a negative has all of it
        torch.testing.assert_close(
            loss, torch.tensor([0.0, 12 * math.log(10), 24 * math.log(2), 0.0]), atol=1e-6, rtol=1e-6
        )
        loss.sum().backward()
        assert prob.grad is not None
        assert prob.grad.isfinite().all()

    def test_upper_limit_is_the_float32_below_one(self) -> None:
        assert torch.tensor(PROB_MAX).item() == torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()

    def test_a_tiny_score_of_a_positive_still_learns(self) -> None:
        # dL/dlogit tends to -1 for p -> 0 and y = 1; the branch of probabilities must not lose it
        logits = torch.tensor([-20.0], requires_grad=True)
        quality_focal_loss(logits.sigmoid(), torch.ones(1)).sum().backward()
        reference = torch.tensor([-20.0], requires_grad=True)
        quality_focal_loss_with_logits(reference, torch.ones(1)).sum().backward()
        assert logits.grad is not None
        assert logits.grad.item() == pytest.approx(-1.0, abs=1e-4)
        torch.testing.assert_close(logits.grad, reference.grad)

    @BOTH
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_input_gives_float32(self, loss_fn: Callable[..., Tensor], dtype: torch.dtype) -> None:
        logits, target = torch.tensor([-2.0, 3.0], dtype=dtype), torch.tensor([0.75, 0.0], dtype=dtype)
        loss = loss_fn(logits, target, 2.0)
        assert loss.dtype is torch.float32
        torch.testing.assert_close(loss, loss_fn(logits.float(), target.float(), 2.0), rtol=2e-2, atol=0)

    @BOTH
    def test_runs_under_autocast(self, loss_fn: Callable[..., Tensor]) -> None:
        logits, target = (x.float() for x in pairs())
        expected = loss_fn(logits, target, 2.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(logits, target, 2.0)
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)

    @BOTH
    def test_empty_keeps_gradients_and_inputs_are_untouched(self, loss_fn: Callable[..., Tensor]) -> None:
        empty = torch.zeros(0, 3, requires_grad=True)
        loss_fn(empty, torch.zeros(0, 3), 2.0).sum().backward()
        assert empty.grad is not None
        assert empty.grad.shape == (0, 3)
        logits, target = pairs()
        before = logits.clone(), target.clone()
        assert loss_fn(logits, target, 2.0).shape == logits.shape
        assert torch.equal(logits, before[0])
        assert torch.equal(target, before[1])

    @BOTH
    @pytest.mark.parametrize("beta", [-1.0, 0.5, math.nan])
    def test_invalid_beta(self, loss_fn: Callable[..., Tensor], beta: float) -> None:
        with pytest.raises(ValueError, match="beta must be 0 or at least 1, got"):
            loss_fn(torch.zeros(1), torch.zeros(1), beta)


class TestFuseIou:
    def test_by_hand(self) -> None:
        # geometric mean: sqrt(0.9 * 0.4) = 0.6; cube: 0.5^(1/3) * 0.5^(2/3) = 0.5
        assert fuse_iou(torch.tensor(0.9), torch.tensor(0.4), 0.5).item() == pytest.approx(0.6)
        assert fuse_iou(torch.tensor(0.5), torch.tensor(0.5), 1 / 3).item() == pytest.approx(0.5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_ends_are_exact(self, dtype: torch.dtype) -> None:
        prob, iou = torch.rand(2, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
        prob[0], iou[1] = 0.0, 0.0
        assert torch.equal(fuse_iou(prob, iou, 1), prob)
        assert torch.equal(fuse_iou(prob, iou, 0), iou)

    def test_broadcasts_over_classes_and_stays_in_range(self) -> None:
        prob, iou = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 6).unsqueeze(1)
        fused = fuse_iou(prob, iou, 0.7)
        torch.testing.assert_close(fused, torch.exp(0.7 * prob.log() + 0.3 * iou.log()))
        assert fused.shape == (6, 3)
        assert ((fused >= 0) & (fused <= 1)).all()

    def test_keeps_the_order_within_a_box(self) -> None:
        prob = torch.tensor([[0.1, 0.7, 0.4]])
        assert torch.equal(fuse_iou(prob, torch.tensor([[0.3]]), 0.4).argsort(), prob.argsort())

    @pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
    def test_alpha_out_of_range(self, alpha: float) -> None:
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got"):
            fuse_iou(torch.ones(1), torch.ones(1), alpha)


class TestGaussianYolo:
    def test_by_hand(self) -> None:
        # 20 x 10 box: x edges 2/20 = 0.1 and 4/20 = 0.2, y edges 1/10 = 0.1 and 30/10 clipped to 1; mean 0.35
        score = gaussian_yolo(torch.tensor([0.8]), torch.tensor([[2.0, 1.0, 4.0, 30.0]]), torch.tensor([[20.0, 10.0]]))
        torch.testing.assert_close(score, torch.tensor([0.8 * 0.65]))

    def test_certain_box_keeps_its_score_exactly(self) -> None:
        prob = torch.rand(5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(gaussian_yolo(prob, torch.zeros(5, 4), torch.full((5, 2), 7.0)), prob)

    def test_sigma_above_the_box_leaves_nothing(self) -> None:
        score = gaussian_yolo(torch.ones(2), torch.tensor([[8.0] * 4, [math.inf] * 4]), torch.full((2, 2), 7.0))
        assert torch.equal(score, torch.zeros(2))

    def test_scale_invariance(self) -> None:
        generator = torch.Generator().manual_seed(0)
        prob, std, size = (torch.rand(5, *s, generator=generator) for s in ((), (4,), (2,)))
        torch.testing.assert_close(gaussian_yolo(prob, 8 * std, 8 * size), gaussian_yolo(prob, std, size))

    def test_axes_do_not_mix(self) -> None:
        # transposing the image swaps x with y in both inputs
        std, size = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[50.0, 9.0]])
        swapped = gaussian_yolo(torch.ones(1), std[:, [1, 0, 3, 2]], size.flip(-1))
        torch.testing.assert_close(gaussian_yolo(torch.ones(1), std, size), swapped)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_box_without_area(self, dtype: torch.dtype) -> None:
        std = torch.tensor([[0.0] * 4, [1.0] * 4, [6e4] * 4], dtype=dtype)
        score = gaussian_yolo(torch.ones(3, dtype=dtype), std, torch.zeros(3, 2, dtype=dtype))
        assert torch.equal(score, torch.tensor([1.0, 0.0, 0.0], dtype=dtype))

    def test_gradcheck(self) -> None:
        generator = torch.Generator().manual_seed(0)
        prob, std, size = (torch.rand(3, *s, generator=generator).double() for s in ((), (4,), (2,)))
        inputs = tuple(x.requires_grad_() for x in (prob, std, size + 2))  # sigma below the side: away from the clip
        assert torch.autograd.gradcheck(gaussian_yolo, inputs)

    def test_empty_and_untouched_inputs(self) -> None:
        assert gaussian_yolo(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0, 2)).shape == (0,)
        std, size = torch.ones(1, 4), torch.zeros(1, 2)
        gaussian_yolo(torch.ones(1), std, size)
        assert torch.equal(std, torch.ones(1, 4))
        assert torch.equal(size, torch.zeros(1, 2))
