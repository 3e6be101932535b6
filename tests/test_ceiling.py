"""How much is left to gain: agreement of errors, candidates of several models together, all of it on tiny models."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from yolo_uncert import YOLO

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def ceiling():
    """The script beside the others, as when it runs, and all of them gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield importlib.import_module("ceiling")
    for name in ("ceiling", "gains", "passes", "run", "grid"):
        sys.modules.pop(name, None)


def metrics(ceiling, boxes, matched, residual):
    boxes = np.array(boxes, dtype=float)
    scored = SimpleNamespace(
        boxes=boxes, cls=np.zeros(len(boxes)), image=np.zeros(len(boxes)), matched=np.array(matched)
    )
    return SimpleNamespace(scored=scored, matches=SimpleNamespace(files=("a",), residual=np.array(residual)))


def test_agreement_by_hand(ceiling):
    # Two objects at [0, 0, 100, 100] and [200, 0, 300, 100], and a detection that found none.
    objects = np.array([[0.0, 0, 100, 100], [200, 0, 300, 100]])
    errors = np.array([[1.0, -1, 2, -2], [3, -3, 0, 0]])
    others = np.array([[1.0, 1, -2, -2], [-3, -3, 5, -5]])
    base = metrics(ceiling, [*(objects - errors), [500, 500, 510, 510]], [True, True, False], errors)
    other = metrics(ceiling, objects - others, [True, True], others)
    expected = np.corrcoef(errors.ravel(), others.ravel())[0, 1]
    found, objects_found = ceiling.agreement(base, other)
    assert found == pytest.approx(expected)
    assert objects_found == 2
    alone, count = ceiling.agreement(base, metrics(ceiling, [objects[1] - errors[1]], [True], errors[1:]))
    assert (alone, count) == (pytest.approx(1), 1), "only what both have found counts"


def test_joined_detectors_offer_the_candidates_of_both_and_only_within(ceiling):
    torch.manual_seed(0)
    one, two = YOLO("yolov8n.yaml").model.eval(), YOLO("yolov8n.yaml").model
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        with ceiling.joined(one, [two]):
            together = one(images)[0]
        first, second = one(images)[0], two(images)[0]
    assert not two.training
    torch.testing.assert_close(together, torch.cat((first, second), 2), rtol=0, atol=0)
    assert not torch.equal(first, second)


@pytest.fixture
def grid(tiny, tmp_path):
    """A grid whose two seeds are the same trained model."""
    content = {
        "data": str(tiny.data("detect")),
        "train": {"imgsz": 64},
        "evaluate": {"split": "val", "device": "cpu"},
        "seeds": [0, 1],
        "rows": {
            "light": {"model": "yolov8n-light.yaml"},
            "stock": {"model": "yolov8n.yaml", "rules": {"hard": {"sigma_source": "dfl"}}},
            "untrained": {"model": "yolov8n.yaml"},
        },
        "rules": {"hard": {}, "soft + vote": {"suppress": "soft", "var_vote": True}},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    for row, kind in (("light", "detect"), ("stock", "stock")):
        for seed in (0, 1):
            folder = tmp_path / "runs" / "tiny" / f"{row}-s{seed}" / "weights"
            folder.mkdir(parents=True)
            shutil.copy(tiny.weights(kind), folder / "best.pt")
    return file


@pytest.mark.slow
def test_a_model_has_nothing_to_gain_from_its_double(ceiling, grid, capsys):
    ceiling.main(str(grid), str(grid.parent / "runs"), "light", "stock")
    lines = [line.strip("| \n").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if len(line) == 8]
    agreement = {line[0]: line[1:3] for line in lines[2:4]}
    assert agreement == dict.fromkeys(("light", "stock"), ["1.000 ± 0.000"] * 2)
    for model in agreement:
        hard = {row[2]: [float(x.split(" ")[0]) for x in row[3:]] for row in rows if row[:2] == [model, "hard"]}
        assert hard["2 together"] == hard["one"], "hard suppression removes a box of overlap 1"
    assert [row[2] for row in rows if row[1] == "soft + vote"] == ["one", "2 together"]


def test_a_grid_that_is_not_trained_is_said(ceiling, grid):
    with pytest.raises(
        SystemExit, match=r"untrained-s0.* holds no checkpoint: train the grid with experiments/run\.py"
    ):
        ceiling.main(str(grid), str(grid.parent / "runs"))


@pytest.mark.parametrize(
    ("kind", "seeds", "message"), [("detect", [0], "one seed"), ("obb", [0, 1], "horizontal boxes")]
)
def test_what_it_cannot_compare_is_said(ceiling, grid, tiny, kind, seeds, message):
    for seed in seeds:
        shutil.copy(tiny.weights(kind), grid.parent / "runs" / "tiny" / f"light-s{seed}" / "weights" / "best.pt")
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump({**content, "seeds": seeds}), encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        ceiling.main(str(grid), str(grid.parent / "runs"), "light")
