"""Regression losses with a learned variance, against torch.distributions, scipy and numerical integration."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import integrate, optimize, stats
from torch import Tensor
from torch.distributions import Laplace, Normal, kl_divergence

from yolo_uncert.functional.gaussian import (
    KINDS,
    LOG_VAR_MAX,
    LOG_VAR_MIN,
    NLL_RESIDUAL_MAX,
    clamp_log_var,
    regression_loss,
)

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def loss_of(kind: str, residual: Tensor, log_var: Tensor, **options: float) -> Tensor:
    """Call any kind, with a label variance of 2 (Laplace scale 1) for the one that needs it."""
    target_var = torch.full_like(residual, 2.0) if kind == "kl_target" else None
    return regression_loss(residual, log_var, kind, target_var=target_var, **options)


def grid() -> tuple[Tensor, Tensor]:
    """Residuals in the normal range (|e| <= 100, the knee of the KL loss included) times log-variances in range."""
    residual = torch.tensor([-100.0, -5.0, -1.0, -0.3, 0.0, 0.2, 1.0, 1.7, 30.0], dtype=torch.float64)
    log_var = torch.tensor([-9.9, -3.0, 0.0, 1.5, 9.9], dtype=torch.float64)
    residual, log_var = torch.meshgrid(residual, log_var, indexing="ij")
    return residual.contiguous(), log_var.contiguous()


class TestClampLogVar:
    def test_value_is_the_plain_clamp(self) -> None:
        log_var = torch.tensor([-1e4, -10.0, -3.0, 0.0, 10.0, 10.5, math.inf], requires_grad=True)
        expected = torch.tensor([-10.0, -10.0, -3.0, 0.0, 10.0, 10.0, 10.0])
        torch.testing.assert_close(clamp_log_var(log_var), expected, rtol=0, atol=0)
        torch.testing.assert_close(clamp_log_var(log_var.detach()), expected, rtol=0, atol=0)

    def test_range_in_sigma(self) -> None:
        # sigma = exp(a / 2): exp(-5) = 0.0067 and exp(5) = 148.4 grid units
        assert math.exp(LOG_VAR_MIN / 2) == pytest.approx(0.006738, rel=1e-3)
        assert math.exp(LOG_VAR_MAX / 2) == pytest.approx(148.4, rel=1e-3)

    @pytest.mark.parametrize(
        ("value", "grad", "expected"),
        [
            (0.0, 2.0, 2.0),  # inside: both directions pass
            (0.0, -2.0, -2.0),
            (10.0, -2.0, -2.0),  # the ends belong to the range
            (-10.0, 2.0, 2.0),
            (11.0, 2.0, 2.0),  # too large, descent (value - lr * grad) lowers it
            (11.0, -2.0, 0.0),  # too large, descent would raise it further
            (-11.0, -2.0, -2.0),  # too small, descent raises it
            (-11.0, 2.0, 0.0),
        ],
    )
    def test_gradient_only_leads_back(self, value: float, grad: float, expected: float) -> None:
        log_var = torch.tensor([value], requires_grad=True)
        clamp_log_var(log_var).backward(torch.tensor([grad]))
        assert log_var.grad is not None
        assert log_var.grad.item() == expected

    @pytest.mark.parametrize("start", [-30.0, 30.0])
    def test_descent_returns_from_outside(self, start: float) -> None:
        # residual 5: the optimum a = ln 9 lies inside, so a drifted value has to come back to it
        log_var = torch.tensor([start], requires_grad=True)
        optimizer = torch.optim.SGD([log_var], lr=0.5)
        for _ in range(300):
            optimizer.zero_grad()
            regression_loss(torch.tensor([5.0]), log_var).sum().backward()
            torch.nn.utils.clip_grad_norm_([log_var], 1.0)
            optimizer.step()
        assert log_var.item() == pytest.approx(math.log(9), abs=1e-4)

    @pytest.mark.filterwarnings("ignore:.*jit.trace.*is deprecated")  # the tracer of Ultralytics' exporter
    def test_exporters_see_a_plain_clamp(self) -> None:
        graph = str(torch.jit.trace(clamp_log_var, torch.zeros(3)).graph)
        assert "aten::clamp" in graph
        assert "RestoringClamp" not in graph

    def test_gradcheck(self) -> None:
        log_var = torch.linspace(-9.5, 9.5, 7, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(clamp_log_var, (log_var,))

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float32, torch.float32),
            (torch.float64, torch.float64),
        ],
    )
    def test_dtype(self, dtype: torch.dtype, expected: torch.dtype) -> None:
        log_var = torch.tensor([0.5, 20.0], dtype=dtype, requires_grad=True)
        clamped = clamp_log_var(log_var)
        clamped.sum().backward()
        assert clamped.dtype is expected
        assert log_var.grad is not None
        assert log_var.grad.dtype is dtype


class TestValues:
    def test_kl_by_hand(self) -> None:
        # smoothL1(5) = 4.5 and sigma^2 = 9: 4.5 / 9 + ln(9) / 2 = 1.5986; smoothL1(0.5) = 0.125, sigma = 1: 0.125
        loss = regression_loss(torch.tensor([5.0, -0.5]), torch.tensor([math.log(9), 0.0]))
        torch.testing.assert_close(loss, torch.tensor([0.5 + math.log(3), 0.125]))

    def test_kl_is_weighted_smooth_l1(self) -> None:
        residual, log_var = grid()
        smooth_l1 = F.smooth_l1_loss(residual, torch.zeros_like(residual), reduction="none")
        torch.testing.assert_close(regression_loss(residual, log_var, "kl"), smooth_l1 / log_var.exp() + log_var / 2)

    def test_nll_is_the_gaussian_likelihood_without_its_constant(self) -> None:
        residual, log_var = grid()
        expected = -Normal(0.0, (log_var / 2).exp()).log_prob(residual) - math.log(2 * math.pi) / 2
        torch.testing.assert_close(regression_loss(residual, log_var, "nll"), expected)

    def test_laplace_is_the_laplace_likelihood_without_its_constant(self) -> None:
        residual, log_var = grid()
        scale = (log_var / 2).exp() / math.sqrt(2)
        assert Laplace(0.0, scale).variance[0, 1].item() == pytest.approx(math.exp(-3.0))
        expected = -Laplace(0.0, scale).log_prob(residual) - math.log(2) / 2
        torch.testing.assert_close(regression_loss(residual, log_var, "laplace"), expected)

    def test_l1_by_hand(self) -> None:
        # |e| / sigma^2 + ln(sigma): 5 / 10 + ln(10) / 2
        loss = regression_loss(torch.tensor([-5.0]), torch.tensor([math.log(10)]), "l1")
        torch.testing.assert_close(loss, torch.tensor([0.5 + math.log(10) / 2]))

    @pytest.mark.parametrize(("residual", "sigma"), [(0.0, 1.0), (0.7, 0.2), (-3.0, 2.0), (40.0, 5.0), (0.1, 100.0)])
    def test_crps_is_the_integral_of_the_squared_cdf_difference(self, residual: float, sigma: float) -> None:
        # CRPS(F, e) = integral of F^2 below e plus integral of (1 - F)^2 above, F the distribution function
        normal = stats.norm(scale=sigma)
        far = abs(residual) + 12 * sigma
        below = integrate.quad(lambda x: normal.cdf(x) ** 2, -far, residual, points=[-sigma, 0], limit=200)[0]
        above = integrate.quad(lambda x: normal.sf(x) ** 2, residual, far, points=[0, sigma], limit=200)[0]
        log_var = torch.tensor([2 * math.log(sigma)], dtype=torch.float64)
        loss = regression_loss(torch.tensor([residual], dtype=torch.float64), log_var, "crps")
        assert loss.item() == pytest.approx(below + above, rel=1e-7)

    def test_crps_tends_to_the_absolute_error(self) -> None:
        residual = torch.tensor([-7.0, 3.0], dtype=torch.float64)
        loss = regression_loss(residual, torch.full_like(residual, -10.0), "crps")
        # sigma -> 0: |e| - sigma / sqrt(pi)
        torch.testing.assert_close(loss, residual.abs() - math.exp(-5) / math.sqrt(math.pi))

    def test_kl_target_is_the_divergence_of_two_laplace_distributions(self) -> None:
        residual, log_var = grid()
        target_var = torch.full_like(residual, 0.3)
        label = Laplace(residual, (target_var / 2).sqrt())
        prediction = Laplace(torch.zeros_like(residual), (log_var.exp() / 2).sqrt())
        loss = regression_loss(residual, log_var, "kl_target", target_var=target_var)
        torch.testing.assert_close(loss, kl_divergence(label, prediction))

    def test_kl_target_is_zero_where_both_distributions_agree(self) -> None:
        log_var = torch.tensor([-4.0, 0.0, 6.0], dtype=torch.float64)
        loss = regression_loss(torch.zeros_like(log_var), log_var, "kl_target", target_var=log_var.exp())
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)

    def test_kl_target_of_an_exact_label_is_laplace(self) -> None:
        # label scale t -> 0: |e|/b + ln(b/t) - 1, which differs from the likelihood by a constant only
        residual = torch.tensor([-2.0, 0.5, 9.0], dtype=torch.float64)
        log_var = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        difference = regression_loss(residual, log_var, "kl_target", target_var=zero) - regression_loss(
            residual, log_var, "laplace"
        )
        torch.testing.assert_close(difference, torch.full_like(residual, -LOG_VAR_MIN / 2 - 1))

    def test_kl_target_broadcasts_the_label_variance(self) -> None:
        residual, log_var = torch.linspace(-3, 5, 12).view(3, 4), torch.linspace(4, -4, 12).view(3, 4)
        per_box = torch.tensor([[0.1], [1.0], [4.0]])
        loss = regression_loss(residual, log_var, "kl_target", target_var=per_box)
        expected = regression_loss(residual, log_var, "kl_target", target_var=per_box.expand(3, 4))
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)

    @EVERY_KIND
    def test_even_in_the_residual(self, kind: str) -> None:
        residual, log_var = grid()
        torch.testing.assert_close(loss_of(kind, residual, log_var), loss_of(kind, -residual, log_var))

    @pytest.mark.parametrize("kind", ["kl", "nll", "laplace", "l1"])
    def test_a_negative_loss_is_legal(self, kind: str) -> None:
        # no residual, sigma = exp(-2): only a/2 = -2 is left
        assert loss_of(kind, torch.zeros(1), torch.tensor([-4.0])).item() == pytest.approx(-2.0)

    @pytest.mark.parametrize("kind", ["crps", "kl_target"])
    def test_scores_and_divergences_are_not_negative(self, kind: str) -> None:
        assert loss_of(kind, *grid()).min().item() >= -1e-12


class TestOptimum:
    @pytest.mark.parametrize(
        ("kind", "sigma"),
        [
            ("kl", 3.0),  # sigma^2 = 2 smoothL1(5) = 9
            ("nll", 5.0),  # sigma = |e|
            ("laplace", 5.0 * math.sqrt(2)),  # b = |e|
            ("l1", math.sqrt(10.0)),  # sigma^2 = 2 |e|
            ("crps", 5.0 / math.sqrt(math.log(2))),  # 2 phi(z) = 1/sqrt(pi), so z^2 = ln 2
            ("kl_target", math.sqrt(2) * (math.exp(-5.0) + 5.0)),  # b = t exp(-|e|/t) + |e| with label scale t = 1
        ],
    )
    def test_sigma_for_a_residual_of_five(self, kind: str, sigma: float) -> None:
        residual = torch.tensor([5.0], dtype=torch.float64)

        def loss(a: float) -> float:
            return loss_of(kind, residual, torch.tensor([a], dtype=torch.float64)).item()

        best = optimize.minimize_scalar(loss, bounds=(-9, 9), method="bounded", options={"xatol": 1e-8}).x
        assert math.exp(best / 2) == pytest.approx(sigma, rel=1e-5)

    def test_the_table_covers_every_kind(self) -> None:
        assert list(KINDS) == ["kl", "nll", "laplace", "l1", "crps", "kl_target"]


class TestGradient:
    @EVERY_KIND
    def test_gradcheck(self, kind: str) -> None:
        # away from the kinks at e = 0 and |e| = 1
        residual = torch.tensor([-20.0, -1.4, -0.3, 0.2, 0.8, 6.0], dtype=torch.float64, requires_grad=True)
        log_var = torch.tensor([4.0, -1.0, 0.0, -2.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda e, a: loss_of(kind, e, a), (residual, log_var))

    @EVERY_KIND
    def test_beta_weights_value_and_gradients(self, kind: str) -> None:
        residual, log_var = (x.flatten().requires_grad_() for x in grid())
        plain, weighted = loss_of(kind, residual, log_var), loss_of(kind, residual, log_var, beta=0.5)
        sigma = (log_var.detach() / 2).exp()  # sigma^(2 beta) with beta = 1/2
        torch.testing.assert_close(weighted, plain * sigma)
        grads = torch.autograd.grad(plain.sum(), (residual, log_var))
        for grad, expected in zip(torch.autograd.grad(weighted.sum(), (residual, log_var)), grads, strict=True):
            torch.testing.assert_close(grad, expected * sigma)  # the weight itself gets no gradient

    def test_beta_one_makes_nll_a_squared_error(self) -> None:
        # Seitzer et al.: at beta = 1 the gradient into the mean is that of e^2/2, whatever the variance
        residual, log_var = (x.flatten() for x in grid())
        residual.requires_grad_()
        regression_loss(residual, log_var, "nll", beta=1.0).sum().backward()
        torch.testing.assert_close(residual.grad, residual.detach())


class TestNllBeyondTheNormalRange:
    def test_linear_and_continuous(self) -> None:
        # sigma = 1; exact up to 100 (100^2/2 = 5000), then slope 100
        residual = torch.tensor([NLL_RESIDUAL_MAX, 101.0, 200.0, -200.0], dtype=torch.float64)
        loss = regression_loss(residual, torch.zeros_like(residual), "nll")
        torch.testing.assert_close(loss, torch.tensor([5000.0, 5100.0, 15000.0, 15000.0], dtype=torch.float64))

    def test_gradient_points_to_the_target(self) -> None:
        residual = torch.tensor([-1e6, -150.0, 150.0, 1e6], requires_grad=True)
        regression_loss(residual, torch.zeros(4), "nll").sum().backward()
        torch.testing.assert_close(residual.grad, torch.tensor([-100.0, -100.0, 100.0, 100.0]))


class TestExtremes:
    @EVERY_KIND
    @pytest.mark.parametrize("beta", [0.0, 0.5])
    def test_finite_with_finite_gradients(self, kind: str, beta: float) -> None:
        residual = torch.tensor([-1e6, -1e4, -1.0, 0.0, 1e-30, 1.0, 1e4, 1e6])
        log_var = torch.tensor([-math.inf, -1e4, -10.0, 0.0, 10.0, 1e4, math.inf])
        residual, log_var = (x.flatten().requires_grad_() for x in torch.meshgrid(residual, log_var, indexing="ij"))
        loss = loss_of(kind, residual, log_var, beta=beta)
        assert loss.isfinite().all()
        loss.sum().backward()
        for x in (residual, log_var):
            assert x.grad is not None
            assert x.grad.isfinite().all()

    @pytest.mark.parametrize("target_var", [0.0, 1e-30, 1e30])
    def test_any_label_variance(self, target_var: float) -> None:
        residual = torch.tensor([0.0, 1e6], requires_grad=True)
        loss = regression_loss(residual, torch.tensor([-1e4, 1e4]), "kl_target", target_var=torch.tensor(target_var))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert residual.grad is not None
        assert residual.grad.isfinite().all()

    @EVERY_KIND
    def test_regression_nan_after_hundreds_of_perfect_steps(self, kind: str) -> None:
        # an unbounded log-variance of a residual that stays 0 runs to -inf, and the first outlier then makes NaN
        log_var = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([log_var], lr=1.0)
        for residual in [0.0] * 500 + [50.0]:
            optimizer.zero_grad()
            loss = loss_of(kind, torch.tensor([residual]), log_var)
            loss.sum().backward()
            optimizer.step()
            assert loss.isfinite().all()
        assert log_var.isfinite().all()


class TestContract:
    @EVERY_KIND
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_input_gives_float32(self, kind: str, dtype: torch.dtype) -> None:
        # 300^2 overflows half precision
        residual, log_var = torch.tensor([300.0, 0.25], dtype=dtype), torch.tensor([-8.0, 1.0], dtype=dtype)
        loss = loss_of(kind, residual, log_var)
        assert loss.dtype is torch.float32
        torch.testing.assert_close(loss, loss_of(kind, residual.float(), log_var.float()), rtol=0, atol=0)

    @EVERY_KIND
    def test_double_input_stays_double(self, kind: str) -> None:
        assert loss_of(kind, *grid()).dtype is torch.float64

    @EVERY_KIND
    def test_autocast_changes_nothing(self, kind: str) -> None:
        residual, log_var = (x.float() for x in grid())
        expected = loss_of(kind, residual, log_var)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(kind, residual, log_var)
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)

    @EVERY_KIND
    def test_shape_and_untouched_inputs(self, kind: str) -> None:
        residual, log_var = torch.linspace(-3, 5, 30).view(2, 3, 5), torch.linspace(40, -40, 30).view(2, 3, 5)
        before = residual.clone(), log_var.clone()
        assert loss_of(kind, residual, log_var).shape == (2, 3, 5)
        assert torch.equal(residual, before[0])
        assert torch.equal(log_var, before[1])

    @EVERY_KIND
    def test_empty_keeps_gradients(self, kind: str) -> None:
        residual, log_var = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
        loss_of(kind, residual, log_var).sum().backward()
        assert residual.grad is not None
        assert residual.grad.shape == (0, 4)
        assert log_var.grad is not None
        assert log_var.grad.shape == (0, 4)

    def test_unknown_kind(self) -> None:
        allowed = "kl, nll, laplace, l1, crps, kl_target"
        with pytest.raises(ValueError, match=f"unknown regression loss 'l2', allowed: {allowed}"):
            regression_loss(torch.zeros(1), torch.zeros(1), "l2")

    @pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
    def test_beta_out_of_range(self, beta: float) -> None:
        with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got"):
            regression_loss(torch.zeros(1), torch.zeros(1), beta=beta)

    def test_kl_target_without_label_variance(self) -> None:
        with pytest.raises(ValueError, match="'kl_target' needs target_var"):
            regression_loss(torch.zeros(1), torch.zeros(1), "kl_target")
