"""Statistics of DFL distributions, against distributions written by hand and scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from yolo_uncert.functional import dfl

R = 16

OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: dfl.moments(x)[0],
    "var": lambda x: dfl.moments(x)[1],
    "peak": dfl.peak,
    "variance_about": lambda x: dfl.variance_about(x, torch.full(x.shape[:-1], 2.5, dtype=x.dtype)),
    "top_statistics": dfl.top_statistics,
}
EVERY_OP = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def logits_of(prob: dict[int, float], bins: int = R) -> Tensor:
    """Logits of a distribution given as {bin: probability}, practically 0 elsewhere."""
    logits = torch.full((bins,), -1e3, dtype=torch.float64)
    for i, p in prob.items():
        logits[i] = math.log(p)
    return logits


def random_logits(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class TestMoments:
    def test_two_bins_by_hand(self) -> None:
        # 3.4 between bins 3 and 4: mean 0.6 * 3 + 0.4 * 4, var 0.6 * 0.4 (a Bernoulli variable on unit spacing)
        mean, var = dfl.moments(logits_of({3: 0.6, 4: 0.4}))
        assert mean.item() == pytest.approx(3.4)
        assert var.item() == pytest.approx(0.24)

    def test_uniform_by_hand(self) -> None:
        # discrete uniform on 0 ... 15: mean 15 / 2, var (16^2 - 1) / 12
        mean, var = dfl.moments(torch.zeros(R))
        assert mean.item() == pytest.approx(7.5)
        assert var.item() == pytest.approx(21.25)

    def test_single_bin_is_certain(self) -> None:
        mean, var = dfl.moments(logits_of({9: 1.0}))
        assert (mean.item(), var.item()) == (9.0, 0.0)

    def test_largest_variance(self) -> None:
        # half of the mass at each end: (15 / 2)^2
        assert dfl.moments(logits_of({0: 0.5, 15: 0.5}))[1].item() == pytest.approx(56.25)

    def test_against_scipy(self) -> None:
        logits = random_logits(5, R)
        mean, var = dfl.moments(logits)
        for row, m, v in zip(logits.softmax(-1), mean, var, strict=True):
            reference = stats.rv_discrete(values=(np.arange(R), row.numpy()))
            assert m.item() == pytest.approx(reference.mean())
            assert v.item() == pytest.approx(reference.var())

    def test_bins_before_the_anchors(self) -> None:
        logits = random_logits(2, 4, R, 7)
        for moment, expected in zip(dfl.moments(logits, dim=2), dfl.moments(logits.transpose(2, 3)), strict=True):
            torch.testing.assert_close(moment, expected)

    def test_ignores_a_constant_offset(self) -> None:
        logits = random_logits(5, R)
        for moment, shifted in zip(dfl.moments(logits), dfl.moments(logits + 100), strict=True):
            torch.testing.assert_close(moment, shifted)


class TestPeak:
    def test_keeps_the_mean_of_neighbouring_bins(self) -> None:
        assert dfl.peak(logits_of({3: 0.6, 4: 0.4})).item() == pytest.approx(3.4)

    def test_picks_the_stronger_of_two_candidates(self) -> None:
        # candidates near 2 and near 10; the stronger one alone: (0.2 * 9 + 0.4 * 10) / 0.6
        logits = logits_of({2: 0.3, 3: 0.1, 9: 0.2, 10: 0.4})
        assert dfl.peak(logits).item() == pytest.approx(5.8 / 0.6)
        assert dfl.moments(logits)[0].item() == pytest.approx(6.7)

    @pytest.mark.parametrize(
        ("prob", "expected"), [({0: 0.6, 1: 0.3, 5: 0.1}, 1 / 3), ({15: 0.6, 14: 0.3, 9: 0.1}, 44 / 3)]
    )
    def test_window_is_cut_at_the_ends(self, prob: dict[int, float], expected: float) -> None:
        # bins 0, 1: 0.3 / 0.9; bins 14, 15: (14 * 0.3 + 15 * 0.6) / 0.9
        assert dfl.peak(logits_of(prob)).item() == pytest.approx(expected)

    def test_tie_takes_the_lower_bin(self) -> None:
        assert dfl.peak(logits_of({4: 0.5, 12: 0.5})).item() == pytest.approx(4.0)

    def test_window_of_zero_is_the_argmax(self) -> None:
        logits = random_logits(20, R)
        torch.testing.assert_close(dfl.peak(logits, window=0), logits.argmax(-1).double())

    def test_window_over_all_bins_is_the_mean(self) -> None:
        logits = random_logits(20, R)
        torch.testing.assert_close(dfl.peak(logits, window=R - 1), dfl.moments(logits)[0])

    def test_negative_window(self) -> None:
        with pytest.raises(ValueError, match="window must be at least 0, got -1"):
            dfl.peak(torch.zeros(R), window=-1)


class TestVarianceAbout:
    def test_mean_gives_the_variance(self) -> None:
        logits = random_logits(20, R)
        mean, var = dfl.moments(logits)
        torch.testing.assert_close(dfl.variance_about(logits, mean), var)

    def test_other_centre_adds_the_squared_distance(self) -> None:
        logits = random_logits(20, R)
        mean, var = dfl.moments(logits)
        centre = dfl.peak(logits)
        torch.testing.assert_close(dfl.variance_about(logits, centre), var + (centre - mean) ** 2)

    def test_by_hand(self) -> None:
        # about 10: 0.75 * 0 + 0.25 * 8^2
        logits = logits_of({10: 0.75, 2: 0.25})
        assert dfl.variance_about(logits, dfl.peak(logits)).item() == pytest.approx(16.0)


class TestTopStatistics:
    def test_by_hand(self) -> None:
        logits = logits_of({1: 0.1, 2: 0.4, 3: 0.3, 7: 0.15, 9: 0.05})
        # the four largest sum to 0.95
        expected = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.2375], dtype=torch.float64)
        torch.testing.assert_close(dfl.top_statistics(logits), expected)

    def test_flat_and_sharp(self) -> None:
        torch.testing.assert_close(dfl.top_statistics(torch.zeros(R)), torch.full((5,), 1 / R))
        sharp = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.25], dtype=torch.float64)
        torch.testing.assert_close(dfl.top_statistics(logits_of({3: 1.0})), sharp)

    def test_all_bins_average_to_one_over_r(self) -> None:
        statistics = dfl.top_statistics(random_logits(3, R), k=R)
        assert statistics.shape == (3, R + 1)
        torch.testing.assert_close(statistics[:, -1], torch.full((3,), 1 / R, dtype=torch.float64))

    def test_ignores_the_order_of_the_bins(self) -> None:
        logits = random_logits(3, R)
        torch.testing.assert_close(dfl.top_statistics(logits.flip(-1)), dfl.top_statistics(logits))

    @pytest.mark.parametrize("k", [0, R + 1])
    def test_k_out_of_range(self, k: int) -> None:
        with pytest.raises(ValueError, match=rf"k must be in \[1, 16\], the number of bins, got {k}"):
            dfl.top_statistics(torch.zeros(R), k=k)


class TestContract:
    @EVERY_OP
    def test_gradcheck(self, op: Callable[[Tensor], Tensor]) -> None:
        assert torch.autograd.gradcheck(op, (random_logits(3, 8).requires_grad_(),))

    def test_gradcheck_of_the_centre(self) -> None:
        centre = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(dfl.variance_about, (random_logits(2, 8).requires_grad_(), centre))

    @EVERY_OP
    def test_leading_dimensions(self, op: Callable[[Tensor], Tensor]) -> None:
        logits = random_logits(2, 4, 5, R)
        out = op(logits)
        assert out.shape[:3] == (2, 4, 5)
        torch.testing.assert_close(out.flatten(0, 2), op(logits.flatten(0, 2)))

    @EVERY_OP
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_input_gives_float32(self, op: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        logits = random_logits(6, R).to(dtype)
        assert op(logits).dtype is torch.float32
        torch.testing.assert_close(op(logits), op(logits.float()))

    @EVERY_OP
    def test_autocast_changes_nothing(self, op: Callable[[Tensor], Tensor]) -> None:
        logits = random_logits(6, R).float()
        expected = op(logits)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = op(logits)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)

    @EVERY_OP
    def test_extremes_are_finite(self, op: Callable[[Tensor], Tensor]) -> None:
        logits = torch.zeros(4, R)
        logits[0, 3], logits[1, 3], logits[2, :8], logits[3, ::2] = 1e4, -1e4, 1e4, -65504.0
        logits.requires_grad_()
        out = op(logits)
        out.sum().backward()
        assert out.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    @EVERY_OP
    def test_empty_keeps_gradients(self, op: Callable[[Tensor], Tensor]) -> None:
        logits = torch.zeros(0, 4, R, requires_grad=True)
        op(logits).sum().backward()
        assert logits.grad is not None
        assert logits.grad.shape == (0, 4, R)

    @EVERY_OP
    def test_input_is_untouched(self, op: Callable[[Tensor], Tensor]) -> None:
        logits = random_logits(6, R)
        before = logits.clone()
        op(logits)
        assert torch.equal(logits, before)
