"""The Triton kernel against the numba kernels: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from yolo_uncert.ops import (
    Suppression,
    backend,
    batched_soft_nms,
    batched_suppress,
    soft_nms,
    suppress,
    var_vote,
    warm_up,
)

pytest.importorskip("triton", reason="triton is not installed")

METHODS = ("hard", "soft", "soft-linear", "iou-guided")
VOTES = (
    {},
    {"vote": "var"},
    {"vote": "var", "vote_pool": "all", "vote_weight": "both"},
    {"vote": "var", "vote_weight": "score", "merge": "fused", "vote_iou": 0.3, "vote_share": 0.0},
    {"vote": "bayes", "iou_threshold": 0.5},
)


def check(images, options: Suppression) -> list:
    """Suppress images by Triton and, one by one, by numba: both must be equal."""
    boxes, scores, classes, variances, ious = ([image[k] for image in images] for k in range(5))
    ious = ious if options.guided else None
    variances = None if variances[0] is None else variances
    found = batched_suppress(boxes, scores, classes, variances, options, ious=ious, backend="triton")
    for image, kept in zip(images, found, strict=True):
        expected = suppress(*image[:4], options, ious=image[4] if ious else None, backend="numba")
        np.testing.assert_array_equal(kept.index, expected.index)
        np.testing.assert_allclose(kept.scores, expected.scores, rtol=1e-6)
        np.testing.assert_allclose(kept.boxes, expected.boxes, rtol=1e-6, atol=1e-9)
        if variances is None:
            assert kept.variances is None
        else:
            np.testing.assert_allclose(kept.variances, expected.variances, rtol=1e-9)
    return found


def without_variances(image) -> tuple:
    return *image[:3], None, image[4]


@pytest.mark.parametrize(("method", "vote"), list(itertools.product(METHODS, VOTES)))
def test_horizontal_boxes_as_numba(scenes, method, vote) -> None:
    images = [scenes.horizontal(3, 11, kind) for kind in ("grid", "flat")]
    tied = scenes.horizontal(2, 10, "dense")
    images += [(tied[0], tied[1].round(1), *tied[2:]), tuple(column[:0] for column in tied)]
    check(images, Suppression(method, max_det=3, **vote))


@pytest.mark.parametrize(("method", "vote"), list(itertools.product(METHODS, (VOTES[0], VOTES[1], VOTES[4]))))
def test_oriented_boxes_as_numba(scenes, method, vote) -> None:
    image = scenes.oriented(1, 8)
    check([image], Suppression(method, max_det=3, **vote))


@pytest.mark.parametrize("vote", VOTES[2:4])
def test_oriented_boxes_of_unknown_angle_and_without_area(scenes, vote) -> None:
    boxes, scores, classes, variances, ious = scenes.oriented(1, 12)
    boxes[:3, 2] = (0, 0, -1)
    image = boxes, scores, classes, variances[:, :4], ious
    (kept,) = check([image], Suppression(max_det=4, **vote))
    assert kept.variances.shape == (4, 4)
    assert np.isfinite(kept.variances).all()


@pytest.mark.parametrize("vote", VOTES[:4])
def test_without_variances(scenes, vote) -> None:
    images = without_variances(scenes.horizontal(3, 20, "dense")), without_variances(scenes.oriented(3, 8))
    check(images, Suppression(max_det=3, **vote))  # horizontal and oriented ones cannot share a launch


@pytest.mark.parametrize("agnostic", [True, False])
def test_more_candidates_than_fit_a_tile(scenes, agnostic) -> None:
    images = [scenes.horizontal(4, count, "dense") for count in (600, 5)]
    (many, _) = check(images, Suppression("hard", vote="var", max_det=6, agnostic=agnostic, iou_threshold=0.3))
    assert len(many.index) == 6


def test_identical_boxes_and_scores_go_by_index(scenes) -> None:
    boxes, _, classes, variances, ious = scenes.horizontal(0, 300, "identical")
    image = boxes, np.full(300, 0.5), classes * 0 - 7, variances, ious
    (kept,) = check([image], Suppression("soft", max_det=3))
    assert kept.index.tolist() == [0, 1, 2]


def test_a_predicted_iou_that_is_no_number_is_rejected(scenes, caplog) -> None:
    boxes, scores, classes, variances, ious = scenes.oriented(6, 12)
    ious[4] = np.nan
    check([(boxes, scores, classes, variances, ious)], Suppression("iou-guided", vote="var"))
    assert "rejected 1 of 12 candidates" in caplog.text


@pytest.mark.parametrize("method", ["hard", "iou-guided"])
def test_only_the_best_candidates_take_part(scenes, method) -> None:
    boxes, scores, *rest = scenes.horizontal(5, 40, "dense")
    image = boxes, scores.round(1), *rest
    options = Suppression(method, score_threshold=0.2, max_nms=9, vote="var", vote_pool="all", iou_threshold=0.9)
    (kept,) = check([image], options)
    assert 3 < len(kept.index) <= 9


def test_broken_candidates_are_rejected_and_counted(scenes, caplog) -> None:
    boxes, scores, classes, variances, ious = scenes.oriented(6, 12)
    boxes[0, 0], boxes[1, 4], scores[2], variances[3, 4] = np.nan, np.inf, np.nan, np.inf
    variances[4, 1], variances[5, 2] = -1, np.nan
    with caplog.at_level(logging.WARNING):
        kept = suppress(boxes, scores, classes, variances, Suppression(vote="var", max_det=3), backend="triton")
    assert "rejected 6 of 12 candidates" in caplog.text
    assert kept.index.min() > 5
    check([(boxes, scores, classes, variances, ious)], Suppression(vote="var", max_det=3))


def test_results_come_as_the_inputs_which_stay_as_they_are(scenes) -> None:
    boxes, scores, classes, variances, _ = scenes.horizontal(7, 20, "dense")
    given = torch.tensor(boxes).half(), torch.tensor(scores), torch.tensor(classes).int(), torch.tensor(variances)
    copies = [column.clone() for column in given]
    options = Suppression(vote="var", max_det=4)
    kept = suppress(*given, options, backend="triton")
    expected = suppress(*given, options, backend="numba")
    for name, dtype in {"index": torch.int64, "scores": torch.float32, "boxes": torch.float16}.items():
        assert getattr(kept, name).dtype == dtype
        torch.testing.assert_close(getattr(kept, name), getattr(expected, name))
    assert kept.variances.dtype == torch.float64
    assert all(map(torch.equal, given, copies))


def test_the_other_operators_take_the_name_too(scenes) -> None:
    boxes, scores, classes, variances, _ = scenes.horizontal(8, 30, "dense")
    number = np.arange(30) % 2
    index, decayed = batched_soft_nms(boxes, scores, number, classes, max_det=3, backend="triton")
    expected, expected_scores = batched_soft_nms(boxes, scores, number, classes, max_det=3)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(decayed, expected_scores, rtol=1e-6)
    assert soft_nms(boxes[:0], scores[:0], backend="triton")[0].tolist() == []
    assert batched_suppress([], [], backend="triton") == []
    voted = [var_vote(boxes, scores, index, classes, variances, backend=name)[0] for name in ("triton", "numba")]
    np.testing.assert_array_equal(*voted)


def test_what_does_not_fit_is_an_error() -> None:
    boxes, scores = np.ones((3, 4)), np.ones(3)
    for change, message in {
        "scores": r"scores must be \[3\], one per box; got \[2\]",
        "variances": r"variances must be \[3, 4\], one per side of a box; got \[2\]",
        "ious": "predicted ious belong to method='iou-guided'",
    }.items():
        with pytest.raises(ValueError, match=message):
            suppress(**({"boxes": boxes, "scores": scores} | {change: np.ones(2)}), backend="triton")
    with pytest.raises(ValueError, match=r"ious must be \[3\]"):
        suppress(boxes, scores, options=Suppression("iou-guided"), ious=np.ones(2), backend="triton")
    with pytest.raises(ValueError, match="needs variances"):
        suppress(boxes, scores, options=Suppression(vote="bayes"), backend="triton")


def test_auto_stays_on_the_cpu() -> None:
    assert backend.get_device_backend("auto") is None
    assert backend.get_device_backend("triton") is not None


@pytest.fixture
def fresh():
    backend._load_triton.cache_clear()
    yield
    backend._load_triton.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_triton_the_error_says_where_it_comes_from(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"needs the package triton .*CUDA builds of torch"):
        warm_up("triton")


@pytest.mark.usefixtures("fresh")
def test_without_a_gpu_the_error_says_so(monkeypatch) -> None:
    from yolo_uncert.ops import triton_kernels

    monkeypatch.setattr(triton_kernels, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs a GPU, and torch finds none: use backend='auto'"):
        warm_up("triton")


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from yolo_uncert.ops.triton_kernels import suppress

integers = {"labels", "starts", "index", "counts"}
constants = dict(oriented=True, single=False, method=1, vote=True, everyone=True, merged=True, fused=False, chunk=64)
types = {name: "*i64" if name in integers else "*fp64" for name in suppress.arg_names}
types |= {"stride": "i32", "limit": "i32"} | dict.fromkeys(constants, "constexpr")
source = ASTSource(fn=suppress, signature=types, constexprs=constants)
made = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 2, "enable_fp_fusion": False})
assert len(made.asm["cubin"]) and "approx" not in made.asm["ptx"]
"""


def test_the_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
