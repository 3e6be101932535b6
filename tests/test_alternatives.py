"""The comparison of sigma with alternatives: passes and their spread, scalings, and all of it on tiny models."""

from __future__ import annotations

import csv
import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import norm

from yolo_uncert import YOLO

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
MODULES = ("grid", "run", "passes", "scaling", "cost", "alternatives")


@pytest.fixture(scope="module")
def scripts():
    """The modules beside each other, as when the script runs, and gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def detector():
    """A stock detector in evaluation, with random weights, and two images."""
    return YOLO("yolov8n.yaml").model.eval(), torch.rand(2, 3, 64, 96)


def test_pairs_by_hand(scripts):
    boxes = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [0, 0, 10, 10], [200, 0, 210, 10]], dtype=float)
    cls = np.array([0, 0, 1, 0])
    others = np.array(
        [
            [1, 0, 11, 10],  # IoU 9 / 11 with the first, whose class it has
            [0, 0, 10, 10],  # the first is taken by the one of the higher score
            [104, 0, 114, 10],  # IoU 6 / 14 with the second: too little
            [0, 2, 10, 12],  # IoU 8 / 12 with the third
        ],
        dtype=float,
    )
    paired = scripts.passes.pair(boxes, cls, others, np.array([0, 0, 0, 1]))
    np.testing.assert_array_equal(paired, [[1, 0, 11, 10], [np.nan] * 4, [0, 2, 10, 12], [np.nan] * 4])
    assert scripts.passes.pair(boxes[:0], cls[:0], others, np.zeros(4)).shape == (0, 4)
    assert np.isnan(scripts.passes.pair(boxes, cls, others[:0], np.zeros(0))).all()


def test_passes_are_paired_by_the_names_of_images(scripts):
    def metrics(files, image, boxes):
        scored = SimpleNamespace(boxes=np.array(boxes, dtype=float), cls=np.zeros(len(boxes)), image=np.array(image))
        return SimpleNamespace(scored=scored, matches=SimpleNamespace(files=files))

    base = metrics(("a", "b"), [0, 1], [[0, 0, 10, 10], [0, 0, 10, 10]])
    other = metrics(("b", "a"), [0, 1], [[0, 0, 10, 9], [0, 0, 10, 8]])
    np.testing.assert_array_equal(scripts.passes.paired_boxes(base, other), [[0, 0, 10, 8], [0, 0, 10, 9]])


def test_spread_and_mean_by_hand(scripts):
    passes = np.full((3, 3, 4), np.nan)
    passes[:, 0] = [[0, 0, 4, 4], [2, 0, 4, 7], [4, 3, 4, 4]]
    passes[1:, 1] = [[0, 0, 4, 4], [2, 0, 4, 4]]
    passes[2, 2] = [1, 2, 3, 4]
    # x1 of the first: 0, 2, 4, of mean 2: sqrt((4 + 0 + 4) / 2); y1: 0, 0, 3, of mean 1: sqrt((1 + 1 + 4) / 2)
    expected = [[2, np.sqrt(3), 0, np.sqrt(3)], [np.sqrt(2), 0, 0, 0], [np.nan] * 4]
    np.testing.assert_allclose(scripts.passes.spread(passes), expected)
    boxes = np.full((3, 4), 9.0)
    np.testing.assert_allclose(scripts.passes.mean_box(passes, boxes), [[2, 1, 4, 5], [1, 0, 4, 4], [1, 2, 3, 4]])
    np.testing.assert_array_equal(scripts.passes.mean_box(np.full((2, 3, 4), np.nan), boxes), boxes)


def test_dropout_moves_boxes_only_and_only_within(scripts, detector):
    model, images = detector
    with torch.inference_mode():
        before = model(images)[0]
        with scripts.passes.dropout(model, 0.5):
            one, two = model(images)[0], model(images)[0]
        after = model(images)[0]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(one[:, :4], before[:, :4])
    assert not torch.equal(one[:, :4], two[:, :4])
    torch.testing.assert_close(one[:, 4:], before[:, 4:], rtol=0, atol=0)


def test_dropout_is_removed_after_an_error(scripts, detector):
    model, _ = detector
    with pytest.raises(KeyError), scripts.passes.dropout(model, 0.5):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_flipped_sees_the_mirrored_image_and_returns_its_boxes_mirrored_back(scripts, detector):
    model, images = detector
    with torch.inference_mode():
        mirrored = model(images.flip(-1))[0]
        with scripts.passes.flipped(model):
            found = model(images)[0]
        torch.testing.assert_close(model(images.flip(-1))[0], mirrored, rtol=0, atol=0)
    torch.testing.assert_close(found[:, 0], 96 - mirrored[:, 0])
    torch.testing.assert_close(found[:, 1:], mirrored[:, 1:], rtol=0, atol=0)


def test_temperatures_are_the_rms_of_the_normalized_residuals(scripts):
    rng = np.random.default_rng(0)
    sample = scripts.scaling.Sample(rng.normal(size=(50, 4)), rng.uniform(0.5, 2, (50, 4)))
    factor, floor = scripts.scaling.temperatures(sample)
    np.testing.assert_allclose(factor, np.sqrt(np.mean((sample.residual / sample.sigma) ** 2, axis=0)))
    assert not floor.any()
    sample.sigma[:10] = np.nan  # not known there: they do not take part
    known = slice(10, None)
    expected = np.sqrt(np.mean((sample.residual[known] / sample.sigma[known]) ** 2, axis=0))
    np.testing.assert_allclose(scripts.scaling.temperatures(sample)[0], expected)


def test_factor_and_floor_are_recovered(scripts):
    rng = np.random.default_rng(0)
    sigma = rng.exponential(2, (20000, 4))
    a, b = np.array([0.5, 1, 2, 3]), np.array([2, 1, 0.5, 3])
    sample = scripts.scaling.Sample(rng.normal(size=sigma.shape) * np.sqrt((a * sigma) ** 2 + b**2), sigma)
    factor, floor = scripts.scaling.factor_and_floor(sample)
    np.testing.assert_allclose(factor, a, rtol=0.06)
    np.testing.assert_allclose(floor, b, rtol=0.06)


def test_a_floor_is_fitted_where_sigma_says_nothing(scripts):
    rng = np.random.default_rng(0)
    sample = scripts.scaling.Sample(3 * rng.normal(size=(2000, 4)), rng.exponential(1, (2000, 4)))
    found = scripts.scaling.measure(sample, sample)
    best = scripts.scaling.measure(scripts.scaling.Sample(sample.residual, np.ones((2000, 4))), sample)
    assert found["T, floor"]["nll"] == pytest.approx(found["T, floor"]["nll_constant"], abs=2e-3)
    assert found["T"]["nll"] > found["T, floor"]["nll"] + 1
    assert best["T"]["nll_constant"] == pytest.approx(found["T"]["nll_constant"])


def test_a_constant_against_scipy(scripts):
    rng = np.random.default_rng(0)
    scale = np.array([1, 2, 3, 4])
    tuning, test = (scripts.scaling.Sample(rng.normal(size=(n, 4)) * scale, np.ones((n, 4))) for n in (80, 60))
    found = scripts.scaling.measure(tuning, test, raw=False)
    assert list(found) == ["T", "T, floor"]
    rms = np.sqrt(np.mean(tuning.residual**2, axis=0))
    expected = -norm.logpdf(test.residual, scale=rms).mean()
    assert found["T"]["nll"] == pytest.approx(expected, rel=1e-12)
    assert found["T, floor"]["nll"] == pytest.approx(expected, rel=1e-4)
    assert found["T"]["sharpness"] == pytest.approx(rms.mean())


def test_what_is_not_known_gets_the_constant_of_the_tuning_split(scripts):
    sigma = np.array([[1.0, 2, 3, 4], [np.nan] * 4])
    found = scripts.scaling.scaled(sigma, np.full(4, 2.0), np.array([0, 3, 0, 0]), np.array([5, 6, 7, 8]))
    np.testing.assert_allclose(found, [[2, 5, 6, 8], [5, 6, 7, 8]])  # hypot(2 x 2, 3) = 5
    tuning = scripts.scaling.Sample(np.full((2, 4), 7.0), np.ones((2, 4)))
    rows = scripts.scaling.measure(tuning, scripts.scaling.Sample(np.ones((2, 4)), np.full((2, 4), np.nan)))
    assert [row["sharpness"] for row in rows.values()] == [7, 7, 7]
    assert rows["raw"]["unknown"] == 1


def test_table_by_hand(scripts):
    numbers = dict.fromkeys(
        ("nll_angle", "calibration_error", *scripts.alternatives.COVERAGE, "ause", "spearman", "sharpness"), "0.5"
    )
    lines = [
        {"model": "stock", "method": "constant", "seed": seed, "scaling": scaling, "nll": nll, **numbers}
        for seed, nll in ((0, "3.0"), (1, "4.0"))
        for scaling in ("T", "T, floor")
    ]
    head, constant = scripts.alternatives.table(lines, {"stock": 1.0})
    assert len(head) == len(constant)
    assert constant[:5] == ["stock: constant", "-", "3.500 ± 0.707", "3.500 ± 0.707", "-"]
    assert constant[6] == "- / 0.50"
    assert constant[-1] == "1.00"
    of_kind = [{**line, "method": "TTA, mean box"} for line in lines]
    assert scripts.alternatives.table(of_kind, {"stock": 1.0, "TTA": 6.25})[1][-1] == "6.25"
    assert scripts.alternatives.table(lines, {"stock: constant": 1.25, "constant": 2.0})[1][-1] == "1.25"


@pytest.fixture
def grid(tiny, tmp_path):
    """Two models of two seeds."""
    rows = {"stock": {"model": "yolov8n.yaml"}, "light": {"model": "yolov8n-light.yaml"}}
    content = {
        "data": str(tiny.data("detect")),
        "train": {"imgsz": 64},
        "evaluate": {"split": "val", "device": "cpu"},
        "seeds": [0, 1],
        "rows": rows,
        "rules": {"hard": {}, "soft + vote": {"suppress": "soft", "var_vote": True}},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.fixture
def runs(tiny, tmp_path):
    """What ``experiments/run.py`` leaves of the grid, but that both seeds are the same model."""
    for row, kind in (("stock", "stock"), ("light", "detect")):
        for seed in (0, 1):
            folder = tmp_path / "runs" / "tiny" / f"{row}-s{seed}" / "weights"
            folder.mkdir(parents=True)
            shutil.copy(tiny.weights(kind), folder / "best.pt")
    return tmp_path / "runs"


@pytest.mark.slow
def test_all_methods_on_tiny_models_and_nothing_twice(scripts, grid, runs, monkeypatch, capsys):
    for module, name, value in (
        (scripts.alternatives, "TUNE", "train"),  # the tiny data have no third split
        (scripts.alternatives, "SCALES", (1.0,)),
        (scripts.alternatives, "PASSES", 3),
        *((scripts.cost, name, 1) for name in ("ROUNDS", "WARM_UP", "PASSES")),
        (scripts.cost, "IMAGES", 4),
    ):
        monkeypatch.setattr(module, name, value)
    scripts.alternatives.main(str(grid), str(runs), "rates=0.1,0.2")
    with (runs / "tiny" / "alternatives.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    # of each seed: 9 + 7 methods with three scalings, and two of either model with two
    assert len(lines) == 2 * ((9 + 7) * 3 + 4 * 2)
    assert all(np.isfinite(float(line["nll"])) and int(line["n"]) > 0 for line in lines)
    assert all(
        float(line["sharpness"]) == 0 for line in lines if (line["method"], line["scaling"]) == ("ensemble", "raw")
    )
    assert all(float(line["sharpness"]) > 0 for line in lines if line["method"] == "TTA"), "the mirrored pass differs"
    dropped = [line for line in lines if line["method"] == "MC-dropout"]
    assert all(float(line["sharpness"]) > 0 and line["rate"] in {"0.1", "0.2"} for line in dropped)
    voted = [line for line in lines if line["model"] == "stock" and line["method"].endswith("vote")]
    assert voted, "what the vote gains is not the branches'"
    same = {line["n"] for line in lines if line["model"] == "light" and not line["method"].endswith("vote")}
    assert len(same) == 1, "all methods but the vote speak of the same boxes"
    table = _table(capsys.readouterr().out)
    assert table.count("| light: ") - 2 == 11, "and two rows of the costs"
    monkeypatch.setattr(scripts.alternatives, "YOLO", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(scripts.cost, "YOLO", lambda *_: pytest.fail("timed again"))
    scripts.alternatives.main(str(grid), str(runs))
    assert _table(capsys.readouterr().out) == table


def _table(printed):
    return printed[printed.index("| sigma from") :]  # behind the progress of the validations


def test_halves_are_drawn_by_name_whatever_the_order(scripts):
    files = tuple(f"{n}.jpg" for n in range(9))
    image = np.array([0, 0, 3, 8])
    found = scripts.scaling.halves(files, np.arange(9))
    assert found.sum() == 4
    np.testing.assert_array_equal(scripts.scaling.halves(files[::-1], 8 - image), found[image])


def test_crossed_is_fitted_on_the_other_half(scripts):
    rng = np.random.default_rng(0)
    half = np.arange(90) < 30
    residual = rng.normal(size=(90, 4)) * np.where(half, 1, 5)[:, None]
    sample = scripts.scaling.Sample(residual, np.ones((90, 4)), half)
    found = scripts.scaling.crossed(sample)
    rms = [np.sqrt(np.mean(residual[rows] ** 2, axis=0)) for rows in (half, ~half)]
    expected = (-norm.logpdf(residual[half], scale=rms[1])).sum() + (-norm.logpdf(residual[~half], scale=rms[0])).sum()
    assert found["T"]["nll"] == pytest.approx(expected / residual.size)
    assert found["raw"]["nll"] == pytest.approx(-norm.logpdf(residual).mean())
    assert found["T"]["n"] == 90
    assert found["T"]["sharpness"] == pytest.approx((30 * rms[1].mean() + 60 * rms[0].mean()) / 90)


def test_an_angle_has_a_likelihood_of_its_own(scripts):
    rng = np.random.default_rng(0)
    sample = scripts.scaling.Sample(rng.normal(size=(50, 5)), np.full((50, 5), 2.0))
    found = scripts.scaling.measure(sample, sample)
    assert found["raw"]["nll"] == pytest.approx(-norm.logpdf(sample.residual[:, :4], scale=2).mean())
    assert found["raw"]["nll_angle"] == pytest.approx(-norm.logpdf(sample.residual[:, 4], scale=2).mean())
    rms = np.sqrt(np.mean(sample.residual[:, 4] ** 2))
    assert found["T"]["nll_angle"] == pytest.approx(-norm.logpdf(sample.residual[:, 4], scale=rms).mean())
    flat = scripts.scaling.Sample(sample.residual[:, :4], sample.sigma[:, :4])
    assert np.isnan(scripts.scaling.measure(flat, flat)["raw"]["nll_angle"])
    assert scripts.scaling.measure(flat, flat)["T"]["nll"] == pytest.approx(found["T"]["nll"])


def test_extents_by_hand(scripts):
    boxes = np.array([[0, 0, 40, 20, 0], [0, 0, 40, 20, np.pi / 2], [0, 0, 40, 20, np.pi / 4]])
    diagonal = np.sqrt((40**2 + 20**2) / 2)
    expected = [[40, 20, 40, 20, 1], [20, 40, 40, 20, 1], [diagonal, diagonal, 40, 20, 1]]
    np.testing.assert_allclose(scripts.alternatives.extents(boxes), expected)
    np.testing.assert_allclose(scripts.alternatives.extents(np.array([[1.0, 2, 11, 6]])), [[10, 4, 10, 4]])


def test_a_share_is_of_the_same_image_and_what_an_earlier_version_wrote_is_timed_again(scripts, tmp_path):
    assert scripts.cost.share([2.0, 30.0, 5.0], [1.0, 10.0, 5.0]) == 2.0, "where the medians are 5 and 5"
    file = tmp_path / "cost.csv"
    assert scripts.cost.read_shares(file) == {}
    file.write_text("work,median_ms\nstock,3.0\n")
    assert scripts.cost.read_shares(file) == {}
    file.write_text("work,median_ms,share\nstock,3.0,1.0\nTTA,18.1,6.25\n")
    assert scripts.cost.read_shares(file) == {"stock": 1.0, "TTA": 6.25}


def test_the_costs_of_oriented_boxes(scripts, tiny, monkeypatch):
    """The stock suppression knows the angle from the classes: what it times is what the stock model finds."""
    image = sorted((tiny.data("obb").parent / "images" / "val").iterdir())[0]
    asked, nms = [], scripts.cost.non_max_suppression
    monkeypatch.setattr(scripts.cost, "non_max_suppression", lambda *a, **k: asked.append(k) or nms(*a, **k))
    monkeypatch.setattr(scripts.cost, "PASSES", 2)
    work = scripts.cost.works({"light": [tiny.weights("obb")] * 2}, image, {"imgsz": 64, "device": "cpu"})
    found = {}
    with torch.inference_mode():
        for name, run in work.items():
            found[name] = run(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert asked == [{"nc": 2, "rotated": True}]
    assert found["TTA"].shape == found["ensemble"].shape == (len(found["DFL moments"].boxes), 5)


def test_a_head_without_dfl_is_measured_without_moments(scripts, tiny, tmp_path, monkeypatch):
    methods = {name: scripts.alternatives.ALTERNATIVES[name] for name in ("constant", "DFL moments", "TTA")}
    monkeypatch.setattr(scripts.alternatives, "METHODS", {"stock": methods})
    monkeypatch.setattr(scripts.alternatives, "SCALES", (1.0,))
    options = {"data": str(tiny.data("detect")), "imgsz": 64, "split": "train", "device": "cpu", "workers": 0}
    cell = scripts.grid.Cell("stock", 0, tiny.run("e2e"), {}, {}, options)
    lines = scripts.alternatives.measured([cell], tmp_path / "alternatives.csv")
    assert {line["method"] for line in lines} == {"constant", "TTA"}
    assert all(np.isfinite(line["nll"]) and line["n"] > 0 for line in lines)


def test_a_head_without_dfl_is_timed_without_moments(scripts, tiny, monkeypatch):
    assert scripts.cost.has_moments(YOLO(tiny.weights("detect")))
    image = sorted((tiny.data("detect").parent / "images" / "val").iterdir())[0]
    monkeypatch.setattr(scripts.cost, "PASSES", 2)
    work = scripts.cost.works({"light": [tiny.weights("e2e")] * 2}, image, {"imgsz": 64, "device": "cpu"})
    assert "DFL moments" not in work
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert all(work[name](x) is not None for name in ("stock", "light: Gaussian branch", "TTA", "MC-dropout"))


def test_oriented_pairs_by_hand(scripts):
    boxes = np.array([[50.0, 50, 40, 20, 0.1], [200, 50, 40, 20, 0.0]])
    others = np.array([[51.0, 50, 20, 40, 0.1 + np.pi / 2], [200, 50, 40, 20, np.pi / 2]])
    found = scripts.passes.pair(boxes, np.zeros(2), others, np.zeros(2))
    np.testing.assert_allclose(found[0], [51, 50, 40, 20, 0.1])  # the same rectangle, in the detection's own form
    assert np.isnan(found[1]).all(), "across each other they overlap by a third"


def test_flipped_mirrors_oriented_boxes_and_dropout_reaches_the_angle(scripts):
    model, images = YOLO("yolov8n-obb.yaml").model.eval(), torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        mirrored, before = model(images.flip(-1))[0], model(images)[0]
        with scripts.passes.flipped(model, oriented=True):
            found = model(images)[0]
        torch.manual_seed(0)
        with scripts.passes.dropout(model, 0.5):
            dropped = model(images)[0]
    torch.testing.assert_close(found[:, 0], 96 - mirrored[:, 0])
    torch.testing.assert_close(found[:, -1], -mirrored[:, -1])
    torch.testing.assert_close(found[:, 1:-1], mirrored[:, 1:-1], rtol=0, atol=0)
    assert not torch.equal(dropped[:, -1], before[:, -1])
    torch.testing.assert_close(dropped[:, 4:-1], before[:, 4:-1], rtol=0, atol=0)


def test_a_grid_that_is_not_trained_is_said(scripts, grid, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts.alternatives, "TUNE", "train")
    with pytest.raises(SystemExit, match=r"holds no checkpoint: train the grid with experiments/run\.py first"):
        scripts.alternatives.main(str(grid), str(tmp_path / "elsewhere"))
