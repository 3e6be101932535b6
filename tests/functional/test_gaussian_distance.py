"""Gaussian distances of oriented boxes, against matrices (torch.distributions, scipy) and values by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from yolo_uncert.functional.boxes import xyxy_to_xywhr
from yolo_uncert.functional.gaussian_distance import DISTANCES, FUNCTIONS, distance_loss
from yolo_uncert.ops.rotated_iou import rotated_iou

EVERY_KIND = pytest.mark.parametrize("kind", DISTANCES)
EVERY_FUN = pytest.mark.parametrize("fun", FUNCTIONS)
SYMMETRIC = ("jeffreys", "symmetric_max", "symmetric_min", "gwd", "bhattacharyya")


def random_boxes(count: int, spread: float = 20.0) -> Tensor:
    """Boxes with centres within ``spread`` pixels, sides of 2 to 40 pixels and angles over two turns, float64."""
    unit = torch.rand(count, 5, dtype=torch.float64)
    return torch.cat((unit[:, :2] * spread, 2 * 20 ** unit[:, 2:4], (unit[:, 4:] - 0.5) * 4 * math.pi), dim=1)


def box(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def covariance(boxes: Tensor) -> Tensor:
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    rotation = torch.stack((cos, -sin, sin, cos), dim=1).reshape(-1, 2, 2)
    return rotation @ torch.diag_embed(boxes[:, 2:4] ** 2 / 4) @ rotation.mT


def mahalanobis(delta: Tensor, sigma: Tensor) -> Tensor:
    return torch.einsum("ni,nij,nj->n", delta, torch.linalg.inv(sigma), delta)


def kld_by_matrices(pred: Tensor, target: Tensor) -> Tensor:
    return kl_divergence(
        MultivariateNormal(target[:, :2], covariance(target)), MultivariateNormal(pred[:, :2], covariance(pred))
    )


def gwd_by_matrices(pred: Tensor, target: Tensor) -> Tensor:
    squared = []
    for sigma_p, sigma_t in zip(covariance(pred).numpy(), covariance(target).numpy(), strict=True):
        root = sqrtm(sigma_p)
        squared.append((sigma_p + sigma_t - 2 * sqrtm(root @ sigma_t @ root)).trace().real)
    centres = (pred[:, :2] - target[:, :2]).square().sum(dim=1)
    return (centres + torch.tensor(squared)) / torch.sqrt(pred[:, 2:4].prod(dim=1) * target[:, 2:4].prod(dim=1))


def kfiou_by_matrices(pred: Tensor, target: Tensor) -> Tensor:
    """Kalman gain, posterior covariance and the areas ``4 sqrt(det)`` of the three ellipses."""
    sigma_p, sigma_t = covariance(pred), covariance(target)
    posterior = sigma_p - sigma_p @ torch.linalg.inv(sigma_p + sigma_t) @ sigma_p
    area_p, area_t, area = (4 * torch.linalg.det(sigma).sqrt() for sigma in (sigma_p, sigma_t, posterior))
    centre = torch.log1p(mahalanobis(pred[:, :2] - target[:, :2], sigma_t))
    return centre - torch.log(3 * area / (area_p + area_t - area))


def bhattacharyya_by_matrices(pred: Tensor, target: Tensor) -> Tensor:
    sigma_p, sigma_t = covariance(pred), covariance(target)
    sigma = (sigma_p + sigma_t) / 2
    ratio = torch.linalg.det(sigma) / torch.sqrt(torch.linalg.det(sigma_p) * torch.linalg.det(sigma_t))
    return mahalanobis(pred[:, :2] - target[:, :2], sigma) / 8 + ratio.log() / 2


BY_MATRICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kld": kld_by_matrices,
    "reverse": lambda pred, target: kld_by_matrices(target, pred),
    "jeffreys": lambda pred, target: kld_by_matrices(pred, target) + kld_by_matrices(target, pred),
    "symmetric_max": lambda pred, target: torch.maximum(kld_by_matrices(pred, target), kld_by_matrices(target, pred)),
    "symmetric_min": lambda pred, target: torch.minimum(kld_by_matrices(pred, target), kld_by_matrices(target, pred)),
    "gwd": gwd_by_matrices,
    "kfiou": kfiou_by_matrices,
    "bhattacharyya": bhattacharyya_by_matrices,
}


@EVERY_KIND
def test_equals_the_matrix_form(kind: str) -> None:
    pred, target = random_boxes(200), random_boxes(200)
    torch.testing.assert_close(DISTANCES[kind](pred, target), BY_MATRICES[kind](pred, target), rtol=1e-9, atol=1e-9)


# The unit square box has side 2, hence covariance I; sides 4 give covariance 4 I.
@pytest.mark.parametrize(
    ("kind", "pred", "target", "expected"),
    [
        # Equal shapes, centres one sigma apart: d^2 / 2.
        ("kld", (0, 0, 2, 2, 0), (1, 0, 2, 2, 0), 0.5),
        # Sigma_t = diag(4, 1): 1/2 (4 + 1 - 2) - 1/2 ln 4, and 1/2 (1/4 + 1 - 2) + 1/2 ln 4 the other way round.
        ("kld", (0, 0, 2, 2, 0), (0, 0, 4, 2, 0), 1.5 - math.log(2)),
        ("reverse", (0, 0, 2, 2, 0), (0, 0, 4, 2, 0), math.log(2) - 0.375),
        ("jeffreys", (0, 0, 2, 2, 0), (0, 0, 4, 2, 0), 1.125),
        ("symmetric_max", (0, 0, 2, 2, 0), (0, 0, 4, 2, 0), 1.5 - math.log(2)),
        ("symmetric_min", (0, 0, 2, 2, 0), (0, 0, 4, 2, 0), math.log(2) - 0.375),
        # A quarter turn of diag(1, 1/4): 1/2 (1/4 + 4) - 1.
        ("kld", (0, 0, 2, 1, 0), (0, 0, 2, 1, math.pi / 2), 1.125),
        # Three pixels apart, areas 4 and 4: 9 / 4.
        ("gwd", (0, 0, 2, 2, 0), (0, 3, 2, 2, 0), 2.25),
        # Deviations 1 and 2 on both axes: 2 (2 - 1)^2 / sqrt(4 * 16).
        ("gwd", (0, 0, 2, 2, 0), (0, 0, 4, 4, 0), 0.25),
        # The centre term alone: ln(1 + 1).
        ("kfiou", (0, 0, 2, 2, 0), (1, 0, 2, 2, 0), math.log(2)),
        # Posterior 4/5 I: V = 3.2, KFIoU = 3.2 / (4 + 16 - 3.2), 1 / (3 KFIoU) = 1.75.
        ("kfiou", (0, 0, 2, 2, 0), (0, 0, 4, 4, 0), math.log(1.75)),
        # Two sigma apart: 4 / 8.
        ("bhattacharyya", (0, 0, 2, 2, 0), (0, 2, 2, 2, 0), 0.5),
        # Mean covariance 5/2 I: 1/2 ln(6.25 / 4).
        ("bhattacharyya", (0, 0, 2, 2, 0), (0, 0, 4, 4, 0), math.log(1.25)),
    ],
)
def test_values_by_hand(kind: str, pred: tuple[float, ...], target: tuple[float, ...], expected: float) -> None:
    assert DISTANCES[kind](box(*pred), box(*target)).item() == pytest.approx(expected, abs=1e-12)


def test_horizontal_boxes_have_the_axis_parallel_closed_form() -> None:
    pred, target = random_boxes(100), random_boxes(100)
    pred[:, 4], target[:, 4] = 0.0, 0.0
    squared = ((target[:, :2] - pred[:, :2]) / pred[:, 2:4]).square()
    ratio = target[:, 2:4] / pred[:, 2:4]
    expected = (2 * squared + ratio.square() / 2 - ratio.log() - 0.5).sum(dim=1)
    as_xyxy = [torch.cat((b[:, :2] - b[:, 2:4] / 2, b[:, :2] + b[:, 2:4] / 2), dim=1) for b in (pred, target)]
    torch.testing.assert_close(DISTANCES["kld"](*map(xyxy_to_xywhr, as_xyxy)), expected)


@EVERY_KIND
def test_the_representation_of_a_box_does_not_matter(kind: str) -> None:
    pred, target = random_boxes(100), random_boxes(100)
    swapped = pred[:, [0, 1, 3, 2, 4]] + box(0, 0, 0, 0, math.pi / 2)
    turned = target + box(0, 0, 0, 0, math.pi)
    expected = DISTANCES[kind](pred, target)
    torch.testing.assert_close(DISTANCES[kind](swapped, target), expected)
    torch.testing.assert_close(DISTANCES[kind](pred, turned), expected)


@EVERY_KIND
def test_translation_rotation_and_scale_do_not_matter(kind: str) -> None:
    pred, target = random_boxes(100), random_boxes(100)
    angle, scale = 0.7, 3.0
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()

    def move(boxes: Tensor) -> Tensor:
        centre = scale * boxes[:, :2] @ rotation.T + torch.tensor([100.0, -30.0])
        return torch.cat((centre, scale * boxes[:, 2:4], boxes[:, 4:] + angle), dim=1)

    torch.testing.assert_close(DISTANCES[kind](move(pred), move(target)), DISTANCES[kind](pred, target))


@pytest.mark.parametrize("kind", SYMMETRIC)
def test_symmetric_distances_are_symmetric(kind: str) -> None:
    pred, target = random_boxes(100), random_boxes(100)
    torch.testing.assert_close(DISTANCES[kind](pred, target), DISTANCES[kind](target, pred))


@EVERY_KIND
def test_zero_exactly_for_equal_boxes_only(kind: str) -> None:
    boxes = random_boxes(100)
    assert DISTANCES[kind](boxes, boxes).max() < 1e-12
    for column, step in enumerate((0.1, 0.1, 0.1, 0.1, 0.01)):
        other = boxes.clone()
        other[:, column] += step
        oblong = (boxes[:, 2] / boxes[:, 3]).log().abs() > 0.1
        assert DISTANCES[kind](boxes, other)[oblong].min() > 1e-8


@EVERY_KIND
def test_squares_carry_no_angle(kind: str) -> None:
    square, turned = box(0, 0, 5, 5, 0.2), box(1, 2, 7, 7, 1.1)
    expected = DISTANCES[kind](box(0, 0, 5, 5, 0), box(1, 2, 7, 7, 0))
    torch.testing.assert_close(DISTANCES[kind](square, turned), expected)


@EVERY_FUN
@EVERY_KIND
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_gradcheck(kind: str, fun: str, tau: float) -> None:
    pred, target = random_boxes(6).requires_grad_(), random_boxes(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: distance_loss(p, t, kind, fun, tau), (pred, target))


EXTREMES = {
    "zero size": (10, 20, 0, 0, 0.3),
    "negative size": (10, 20, -3, 4, 0.3),
    "tiny": (10, 20, 1e-7, 1e-7, 0.0),
    "huge": (10, 20, 1e9, 1e9, 0.3),
    "thin": (10, 20, 1e-3, 1e3, 0.3),
    "thin, turned": (10, 20, 1e3, 1e-3, 1.4),
    "far away": (1e4, -1e4, 8, 3, 0.3),
    "far and zero": (1e4, -1e4, 0, 0, 0.3),
    "out of range": (1e30, -1e30, 1e30, 0, 1e6),
    "square": (10, 20, 6, 6, 0.3),
    "ordinary": (11, 19, 8, 3, 0.3),
}


@EVERY_FUN
@EVERY_KIND
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_value_and_gradient_are_finite_for_extreme_boxes(kind: str, fun: str, tau: float) -> None:
    boxes = torch.tensor(list(EXTREMES.values()))
    count = len(boxes)
    pred = boxes.repeat_interleave(count, dim=0).requires_grad_()
    target = boxes.repeat(count, 1).requires_grad_()
    loss = distance_loss(pred, target, kind, fun, tau)
    gradients = torch.autograd.grad(loss.sum(), (pred, target))
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert loss.min() >= 0
    if tau == 1:
        assert loss.max() <= 1


@EVERY_FUN
@EVERY_KIND
def test_equal_boxes_have_zero_loss_and_gradient(kind: str, fun: str) -> None:
    pred = box(10, 20, 8, 3, 0.3).requires_grad_()
    loss = distance_loss(pred, pred.detach().clone(), kind, fun)
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@EVERY_KIND
def test_rounding_never_makes_a_distance_negative(kind: str) -> None:
    boxes = random_boxes(1000).float()
    neighbours = boxes * (1 + torch.randn(1000, 5) * 1e-7)
    assert DISTANCES[kind](boxes, neighbours).min() >= 0


@pytest.mark.parametrize("kind", [kind for kind in DISTANCES if kind != "kfiou"])
def test_a_distance_stops_at_its_limit(kind: str) -> None:
    # A speck one limit of length away: 2 (1e7 / 1e-7)^2 = 2e28 and the like; the logarithms of kfiou stay below 200.
    pred = torch.tensor([[1e7, 0, 1e-7, 1e-7, 0]], requires_grad=True)
    distance = DISTANCES[kind](pred, torch.tensor([[0, 0, 1e-7, 1e-7, 0]]))
    assert distance.item() == pytest.approx(1e24)
    assert (torch.autograd.grad(distance.sum(), pred)[0] == 0).all()


def test_the_root_is_smooth_at_zero() -> None:
    distance = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    root = FUNCTIONS["sqrt"](distance)
    torch.testing.assert_close(root, torch.tensor([0.0, 2.0]).double(), rtol=0, atol=4e-4)
    (gradient,) = torch.autograd.grad(root.sum(), distance)
    # 1 / (2 sqrt(D + 1e-7)).
    torch.testing.assert_close(gradient, torch.tensor([0.5 / math.sqrt(1e-7), 0.25]).double(), rtol=1e-6, atol=0)


@EVERY_KIND
def test_a_lost_prediction_is_still_pulled_home(kind: str) -> None:
    pred = torch.tensor([[1e4, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(distance_loss(pred, torch.tensor([[0.0, 0, 8, 3, 0]]), kind).sum(), pred)
    assert gradient[0, 0] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY_KIND
def test_half_precision_is_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    pred, target = random_boxes(20).to(dtype).requires_grad_(), random_boxes(20).to(dtype)
    loss = distance_loss(pred, target, kind)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distance_loss(pred.float(), target.float(), kind), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@EVERY_KIND
def test_float32_is_close_to_float64(kind: str) -> None:
    pred, target = random_boxes(200).float(), random_boxes(200).float()
    expected = DISTANCES[kind](pred.double(), target.double()).float()
    torch.testing.assert_close(DISTANCES[kind](pred, target), expected, rtol=1e-4, atol=1e-5)


@EVERY_KIND
def test_empty_input_keeps_the_graph(kind: str) -> None:
    pred = torch.zeros(0, 5, requires_grad=True)
    loss = distance_loss(pred, torch.zeros(0, 5), kind)
    assert loss.shape == (0,)
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    assert gradient.shape == (0, 5)


@EVERY_KIND
def test_inputs_are_not_mutated(kind: str) -> None:
    pred, target = random_boxes(5), random_boxes(5)
    before = pred.clone(), target.clone()
    distance_loss(pred, target, kind)
    assert torch.equal(pred, before[0])
    assert torch.equal(target, before[1])


@EVERY_KIND
def test_descent_reaches_the_target(kind: str) -> None:
    target = box(30, 40, 24, 8, 0.6)
    pred = box(38, 31, 12, 12.5, 0.1).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=300)
    for _ in range(300):
        optimizer.zero_grad()
        distance_loss(pred, target, kind).sum().backward()
        optimizer.step()
        scheduler.step()
    assert rotated_iou(pred, target).item() > 0.99


@pytest.mark.parametrize(
    ("fun", "tau", "expected"),
    [
        ("log1p", 1.0, 1 - 1 / (1 + math.log(1.5))),
        ("sqrt", 1.0, 1 - 1 / (1 + math.sqrt(0.5))),
        ("none", 1.0, 1 - 1 / 1.5),
        ("none", 3.0, 1 - 1 / 3.5),
        ("none", 0.0, 0.5),
        ("log1p", 0.5, math.log(1.5)),
    ],
)
def test_loss_of_a_distance_of_one_half(fun: str, tau: float, expected: float) -> None:
    loss = distance_loss(box(0, 0, 2, 2, 0), box(1, 0, 2, 2, 0), "kld", fun, tau)
    # The smoothing of the root shifts it by at most sqrt(1e-7).
    assert loss.item() == pytest.approx(expected, abs=4e-4 if fun == "sqrt" else 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "iou"}, "kind must be one of kld, reverse, .*; got 'iou'"),
        ({"fun": "exp"}, "fun must be one of log1p, sqrt, none; got 'exp'"),
        ({"tau": -1.0}, "tau must not be negative; got -1.0"),
        ({"tau": math.nan}, "tau must not be negative; got nan"),
    ],
)
def test_bad_options_are_named(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance_loss(random_boxes(2), random_boxes(2), **options)


@EVERY_KIND
@pytest.mark.parametrize(("pred", "target"), [((3, 5), (1, 5)), ((3, 4), (3, 4))])
def test_wrong_shapes_are_named(kind: str, pred: tuple[int, int], target: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must both be \[N, 5\]"):
        DISTANCES[kind](torch.ones(pred), torch.ones(target))
