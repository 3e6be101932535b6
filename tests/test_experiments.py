"""The driver of experiments on a grid of CI size: what it writes, what it does not do twice, how it goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from yolo_uncert import YOLO
from yolo_uncert.engine.options import check_options

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("experiments_run", EXPERIMENTS / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def grid(tiny, tmp_path):
    """Two models, two seeds, one epoch."""
    train = {"imgsz": 64, "epochs": 1, "batch": 8, "val": False, "plots": False, "device": "cpu", "workers": 0}
    content = {
        "data": str(tiny.data("detect")),
        "train": train,
        "evaluate": {"device": "cpu", "workers": 0},
        "seeds": [0, 1],
        "rows": {
            "stock": {"model": "yolov8n.yaml", "rules": {"hard": {"sigma_source": "dfl"}}},
            "uncert": {"model": {"base": "yolov8n.yaml", "uncertainty": {"gaussian": {"loss": "nll"}}}},
            "peak": {
                "model": {"base": "yolov8n.yaml", "nc": 2, "uncertainty": {"dfl": {"decode": "peak"}}},
                "weights": "stock",
                "rules": {"hard": {}},
            },
        },
        "rules": {"hard": {}, "soft + vote": {"suppress": "soft", "var_vote": True}},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def weights_of(run, cell):
    """The class scores' last convolution of a cell's model, as a list of numbers."""
    return YOLO(run.checkpoint(cell)).model.model[-1].cv3[0][-1].weight.flatten().tolist()


@pytest.mark.slow
def test_a_grid_is_trained_once_and_tabulated(run, grid, tmp_path, monkeypatch, capsys):
    run.main(str(grid), str(tmp_path / "out"), "lr0=0.01")
    folder = tmp_path / "out" / "tiny"
    names = [f"{row}-s{seed}" for row in ("peak", "stock", "uncert") for seed in (0, 1)]
    assert sorted(f.name for f in folder.iterdir() if f.is_dir()) == names
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| stock", "hard", "2"],
        ["| uncert", "hard", "2"],
        ["| uncert", "soft + vote", "2"],
        ["| peak", "hard", "2"],
    ]
    assert lines[0].startswith("| model | rule | seeds | AP50 | AP75 | AP85 | AP90 | AP | NLL")
    trained = json.loads((folder / "uncert-s1" / "trained.json").read_text(encoding="utf-8"))
    assert (trained["options"]["seed"], trained["options"]["lr0"]) == (1, 0.01)
    peak, own, other = (weights_of(run, folder / name) for name in ("peak-s1", "stock-s1", "stock-s0"))
    assert peak == own != other
    head = YOLO(folder / "uncert-s1" / "weights" / "last.pt").model.model[-1]
    assert {branch.name: branch.options for branch in head.branches}["gaussian"].loss == "nll"
    monkeypatch.setattr(YOLO, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("evaluated again"))
    run.main(str(grid), str(tmp_path / "out"), "lr0=0.01")
    assert (folder / "table.md").read_text(encoding="utf-8").splitlines() == lines
    assert lines[2] in capsys.readouterr().out


def test_an_interrupted_training_goes_on(run, tmp_path, monkeypatch):
    calls = []
    facade = lambda path: SimpleNamespace(train=lambda **options: calls.append((str(path), options)))  # noqa: E731
    monkeypatch.setattr(run, "YOLO", facade)
    cell = run.Cell("a", 0, tmp_path / "a-s0", {"model": "m.yaml", "epochs": 3}, {}, {})
    last = cell.folder / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    torch.save({"optimizer": {"state": {}}}, last)
    assert run.train(cell) == last
    assert calls == [(str(last), {"resume": True})]
    run.train(cell)
    assert len(calls) == 1, "it is marked as trained"


def test_a_training_stopped_after_its_end_is_not_started_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "YOLO", lambda *_: pytest.fail("trained again"))
    cell = run.Cell("a", 0, tmp_path / "a-s0", {"model": "m.yaml", "epochs": 3}, {}, {})
    last = cell.folder / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    torch.save({"optimizer": None}, last)
    assert run.train(cell) == last
    assert (cell.folder / "trained.json").is_file()


def test_table_by_hand(run):
    results = {("a", "hard"): [{"AP": 60.0, "NLL": 3.0}, {"AP": 62.0, "NLL": np.nan}], ("b", "soft"): [{"AP": 1.25}]}
    assert run.table(results) == [
        ["model", "rule", "seeds", "AP", "NLL"],
        ["a", "hard", "2", "61.0 ± 1.4", "-"],
        ["b", "soft", "1", "1.2", "-"],
    ]


GRIDS = [file for file in sorted(EXPERIMENTS.glob("*.yaml")) if "rows:" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", GRIDS, ids=lambda f: f.stem)
def test_every_grid_names_models_that_build_and_rules_that_exist(run, file, tmp_path, monkeypatch):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    monkeypatch.chdir(EXPERIMENTS.parent)
    for cell in run.cells(content, tmp_path, {}):
        if cell.seed == content["seeds"][0]:
            assert YOLO(run.model_file(cell, cell.train["model"])).task in ("detect", "obb")
            assert cell.weights in (None, *content["rows"])
        for rule in cell.rules.values():
            check_options(rule, "val")
