"""The choice of the backend, the agreement of the two, and what a user hears of compilation."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from yolo_uncert.ops import Suppression, backend, suppress, var_vote, warm_up

METHODS = ("hard", "soft", "soft-linear", "iou-guided")
VOTES = (
    {},
    {"vote": "var"},
    {"vote": "var", "vote_pool": "all", "vote_weight": "both"},
    {"vote": "var", "vote_weight": "score", "merge": "fused", "vote_iou": 0.3},
    {"vote": "bayes", "iou_threshold": 0.5},
)


def said(*command: str, **environment: str) -> str:
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return run.stderr


@pytest.mark.parametrize(("method", "vote"), list(itertools.product(METHODS, VOTES)))
@pytest.mark.parametrize("kind", ["dense", "flat", "identical", "oriented", "unknown angle"])
@pytest.mark.parametrize("with_variances", [True, False])
def test_numba_and_torch_agree(scenes, method, vote, kind, with_variances) -> None:
    oriented = kind in {"oriented", "unknown angle"}
    boxes, scores, classes, variances, ious = scenes.oriented(1, 60) if oriented else scenes.horizontal(1, 120, kind)
    variances = (variances[:, :4] if kind == "unknown angle" else variances) if with_variances else None
    if vote.get("vote") == "bayes" and not with_variances:
        return
    options = Suppression(method, max_det=70, **vote)
    ious = ious if options.guided else None
    numba, torch = (
        suppress(boxes, scores, classes, variances, options, ious=ious, backend=name) for name in ("numba", "torch")
    )
    np.testing.assert_array_equal(torch.index, numba.index)
    np.testing.assert_allclose(torch.scores, numba.scores, rtol=1e-6)
    np.testing.assert_allclose(torch.boxes, numba.boxes, rtol=1e-6, atol=1e-9)
    if with_variances:
        np.testing.assert_allclose(torch.variances, numba.variances, rtol=1e-9)


def test_results_are_reproducible_to_the_last_bit(scenes) -> None:
    boxes, scores, classes, variances, _ = scenes.horizontal(1, 500, "dense")
    for name in ("numba", "torch"):
        one, two = (
            suppress(boxes, scores, classes, variances, Suppression(vote="var"), backend=name) for _ in range(2)
        )
        np.testing.assert_array_equal(one.boxes, two.boxes)
        np.testing.assert_array_equal(one.scores, two.scores)


@pytest.fixture
def without_numba(monkeypatch):
    backend._load.cache_clear()
    monkeypatch.setitem(sys.modules, "yolo_uncert.ops.kernels", None)
    yield
    backend._load.cache_clear()


def test_without_numba_torch_computes_and_says_so_once(without_numba, caplog) -> None:
    boxes, scores = np.array([[0.0, 0, 4, 4], [0, 0, 4, 4]]), np.array([0.5, 0.4])
    with caplog.at_level(logging.WARNING):
        assert suppress(boxes, scores, None, None, Suppression("hard")).index.tolist() == [0]
        assert var_vote(boxes, scores, np.array([1]))[0].tolist() == [[0, 0, 4, 4]]
    assert caplog.text.count("suppression runs in plain torch") == 1
    with pytest.raises(ImportError):
        warm_up("numba")


def test_a_start_imports_no_compiler_and_nothing_large_that_few_runs_need() -> None:
    large = {"numba", "triton", "torchvision", "matplotlib", "polars", "scipy.stats", "scipy.optimize", "scipy.sparse"}
    code = f"import sys, yolo_uncert.cli; print(*({large} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


KERNELS = """
from numba import types
from yolo_uncert.ops.compiling import array, entry


@entry(array(types.float64, 1))
def total(values):
    return values.sum()


@entry(types.int64)
def twice(number):
    return 2 * number
"""
"""Entries like those of the package, which take half a minute to compile."""


@pytest.mark.slow
def test_compilation_is_announced_and_then_cached(tmp_path) -> None:
    file = tmp_path / "kernels.py"
    file.write_text(KERNELS, encoding="utf-8")
    first, again = (said(sys.executable, str(file), NUMBA_CACHE_DIR=str(tmp_path / "cache")) for _ in range(2))
    assert first.count("compiling the CPU kernels of yolo_uncert.ops") == 1
    assert again == ""


@pytest.mark.slow
def test_the_kernels_are_cached() -> None:
    warm_up()
    assert said(sys.executable, "-c", "from yolo_uncert.ops import warm_up; warm_up()") == ""
