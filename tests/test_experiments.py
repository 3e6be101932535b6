"""The driver of experiments on a grid of CI size: what it writes, what it does not do twice, how it goes on."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import ultralytics
import yaml

from yolo_uncert import YOLO
from yolo_uncert.options import OptionError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def run():
    """The script beside the others, as when it runs, and all of them gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield importlib.import_module("run")
    for name in ("run", "grid"):
        sys.modules.pop(name, None)


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
            "stock": {"model": tiny.yaml("stock"), "rules": {"hard": {"sigma_source": "dfl"}}},
            "uncert": {"model": {"base": tiny.yaml("stock"), "uncertainty": {"gaussian": {"loss": "nll"}}}},
            "peak": {
                "model": {"base": tiny.yaml("stock"), "nc": 2, "uncertainty": {"dfl": {"decode": "peak"}}},
                "weights": "stock",
                "rules": {"hard": {}},
            },
            "retrofit": {
                "model": {"base": tiny.yaml("stock"), "uncertainty": {"gaussian": {}}},
                "weights": "peak",
                "retrofit": True,
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
    monkeypatch.chdir(tmp_path)
    run.main(str(grid), "out", "lr0=0.01")
    folder = tmp_path / "out" / "tiny"
    names = [f"{row}-s{seed}" for row in ("peak", "retrofit", "stock", "uncert") for seed in (0, 1)]
    assert sorted(f.name for f in folder.iterdir() if f.is_dir()) == names
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| stock", "hard", "2"],
        ["| uncert", "hard", "2"],
        ["| uncert", "soft + vote", "2"],
        ["| peak", "hard", "2"],
        ["| retrofit", "hard", "2"],
    ]
    assert (folder / "uncert-s1" / "val" / "uncertainty.json").is_file()
    assert lines[0].startswith("| model | rule | seeds | AP50 | AP75 | AP85 | AP90 | AP | NLL")
    trained = json.loads((folder / "uncert-s1" / "trained.json").read_text(encoding="utf-8"))
    assert (trained["options"]["seed"], trained["options"]["lr0"]) == (1, 0.01)
    names = ("peak-s1", "retrofit-s1", "stock-s1", "stock-s0")
    peak, retrofit, own, other = (weights_of(run, folder / name) for name in names)
    assert peak == retrofit == own != other
    fitted = {name: (folder / name / "results.csv").is_file() for name in ("stock-s1", "peak-s1", "retrofit-s1")}
    assert fitted == {"stock-s1": True, "peak-s1": False, "retrofit-s1": True}
    head = YOLO(folder / "uncert-s1" / "weights" / "last.pt").model.model[-1]
    assert {branch.name: branch.options for branch in head.branches}["gaussian"].loss == "nll"
    monkeypatch.setattr(YOLO, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("evaluated again"))
    run.main(str(grid), str(tmp_path / "out"), "lr0=0.01")
    assert (folder / "table.md").read_text(encoding="utf-8").splitlines() == lines
    assert lines[2] in capsys.readouterr().out


def test_ap_of_a_stock_model_is_that_of_ultralytics(run, tiny, tmp_path):
    options = {"data": str(tiny.data("detect")), "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0}
    cell = run.Cell("a", 0, tmp_path, {}, {"hard": {"sigma_source": "dfl"}}, options)
    found = run.evaluate(cell, Path(tiny.weights("stock")))["hard"]
    box = ultralytics.YOLO(tiny.weights("stock")).val(**options, plots=False, project=str(tmp_path)).box
    expected = 100 * box.all_ap.mean(0)
    assert found["AP50"] == pytest.approx(100 * box.map50) == pytest.approx(expected[0])
    assert [found[name] for name in ("AP75", "AP85", "AP90")] == pytest.approx(expected[[5, 7, 8]])
    assert found["AP"] == pytest.approx(100 * box.map)
    assert found["AP50"] > found["AP"] > 1
    assert np.isfinite([found[name] for name in run.SIGMA_COLUMNS]).all()


def test_a_rule_is_evaluated_again_once_a_default_is_another_one(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "YOLO", lambda _: SimpleNamespace(val=lambda **options: asked.append(options)))
    monkeypatch.setattr(run, "numbers", lambda _: {"AP": float(len(asked))})
    cell = run.Cell("a", 0, tmp_path, {}, {"vote": {"var_vote": True}}, {"imgsz": 64})
    assert run.evaluate(cell, tmp_path) == run.evaluate(cell, tmp_path) == {"vote": {"AP": 1.0}}
    assert "vote_share" not in asked[0], "what is not given is left to the package"
    monkeypatch.setattr(run, "RunOptions", partial(run.RunOptions, vote_share=0.25))
    assert run.evaluate(cell, tmp_path) == {"vote": {"AP": 2.0}}


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


@pytest.fixture(scope="module")
def built():
    """Models of grids that have been built."""
    return set()


@pytest.mark.parametrize("file", GRIDS, ids=lambda f: f.stem)
def test_every_grid_names_models_that_build_and_rules_that_exist(run, file, built, tmp_path, monkeypatch):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    monkeypatch.chdir(EXPERIMENTS.parent)
    for cell in run.cells(content, tmp_path, {}):
        if cell.seed == content["seeds"][0]:
            assert cell.weights in (None, *content["rows"])
            model = cell.train["model"]
            if repr(model) not in built:  # grids have rows in common
                assert YOLO(run.model_file(cell, model)).task in ("detect", "obb")
                built.add(repr(model))


@pytest.mark.parametrize("file", GRIDS, ids=lambda f: f.stem)
def test_every_grid_passes_its_own_check(run, file, shared_data, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert run.read_grid(file, {"epochs": 1}).keys() <= {"data", "train", "evaluate", "seeds", "rows", "rules"}


def changed(grid, place, value):
    """The grid with another value at a place, which is removed if the value is None."""
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    *folders, name = place.split("/")
    inner = content
    for folder in folders:
        inner = inner[folder]
    inner.pop(name, None) if value is None else inner.update({name: value})
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    return content


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("evalute", {"split": "val"}, "key 'evalute' is unknown .did you mean 'evaluate'"),
        ("seeds", 0, "seeds missing"),
        ("seeds", ["a"], "seeds must be a list of whole numbers"),
        ("train/imgsz", None, "imgsz missing"),
        ("train/epoch", 3, "stock: .*epoch"),
        ("train/vote_sigm", 3, "did you mean 'vote_sigma'"),
        ("rows/stock/model", None, "stock: model missing"),
        ("rows/stock", {"modle": "yolov8n.yaml"}, "model missing, instead there is 'modle'"),
        ("rows/peak/weights", "stok", "peak: weights 'stok' is unknown .did you mean 'stock'"),
        ("rows/peak/weights", "peak", "peak: weights 'peak' is unknown"),
        ("rows/peak/weights", "retrofit", "peak: weights 'retrofit' is unknown"),  # which takes those of peak
        ("rows/peak/rules", {"hard": {"supress": "hard"}}, "peak: hard: .*did you mean 'suppress'"),
        ("evaluate/split", "tset", "split 'tset' is unknown. Known: train, val"),
        ("rules", None, "uncert: no rules"),
        ("data", "nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_mistakes_are_found_before_the_first_training(run, grid, place, value, message, monkeypatch):
    monkeypatch.setattr(run, "train", lambda cell: pytest.fail("trained"))
    changed(grid, place, value)
    with pytest.raises((OptionError, FileNotFoundError), match=message):
        run.main(str(grid), "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["seed=3"], "seed= is what a grid varies"), (["out", "epochs", "1"], "one folder .*not out epochs 1")],
)
def test_words_that_a_grid_does_not_take(run, grid, words, message):
    with pytest.raises(OptionError, match=message):
        run.main(str(grid), *words)


def test_a_grid_is_no_data_set(run, grid):
    changed(grid, "data", str(grid))
    with pytest.raises(OptionError, match=r"is the grid .*tiny\.yaml from here"):
        run.read_grid(grid, {})


def test_evaluation_takes_over_data_size_and_device(run, tmp_path):
    grid = {"data": "a.yaml", "train": {"imgsz": 64, "batch": 8}, "seeds": [0], "rules": {"hard": {}}}
    grid["rows"] = {"own": {"model": "m.yaml", "data": "b.yaml"}}
    (cell,) = run.cells(grid, tmp_path, {"device": 0})
    assert cell.evaluate == {"data": "b.yaml", "imgsz": 64, "device": 0}


def test_results_are_read_again_only_by_the_same_options(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "numbers", lambda found: {"AP": float(len(seen))})
    monkeypatch.setattr(run, "YOLO", lambda _: SimpleNamespace(val=lambda **options: seen.append(options["split"])))
    for split, expected in (("val", 1.0), ("val", 1.0), ("test", 2.0)):
        cell = run.Cell("a", 0, tmp_path, {}, {"hard": {}}, {"split": split})
        assert run.evaluate(cell, tmp_path / "best.pt") == {"hard": {"AP": expected}}
    assert run.evaluate(run.Cell("a", 0, tmp_path, {}, {}, {}), tmp_path) == {}, "rules that the grid has no longer"
    assert seen == ["val", "test"]
