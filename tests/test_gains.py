"""The plot of gains over a baseline: differences by seed, and what is said where a result is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

SPEC = importlib.util.spec_from_file_location("gains", Path(__file__).parents[1] / "experiments/gains.py")
gains = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gains)


@pytest.fixture
def folder(tmp_path):
    """Two rows; the second one lacks a seed."""
    for cell, ap in (("a-s0", 50.0), ("a-s1", 60.0), ("b-s1", 63.0)):
        (tmp_path / "grid" / cell).mkdir(parents=True)
        numbers = {column: ap + i for i, column in enumerate(gains.COLUMNS)}
        text = json.dumps({"hard": numbers, "soft + vote": {k: v + 2 for k, v in numbers.items()}})
        (tmp_path / "grid" / cell / "results.json").write_text(text, encoding="utf-8")
    return tmp_path / "grid"


def test_differences_are_those_of_the_same_seed(folder):
    (folder / "a-soft-s0").mkdir()
    (folder / "a-soft-s0" / "results.json").write_text((folder / "b-s1" / "results.json").read_text())
    np.testing.assert_array_equal(gains.gains(folder, "a:hard", "a:soft + vote"), np.full((2, 5), 2.0))
    np.testing.assert_array_equal(gains.gains(folder, "a:hard", "b:hard"), np.full((1, 5), 3.0))


def test_bars_are_the_differences_with_their_deviation(folder):
    file = folder / "a-s1" / "results.json"
    file.write_text(file.read_text(encoding="utf-8").replace("66.0", "70.0"), encoding="utf-8")  # AP: +2 and +6
    axes = Figure().subplots()
    gains.panel(axes, folder, "a:hard", ["a:soft + vote"])
    assert [bar.get_height() for bar in axes.patches] == [2.0, 2.0, 2.0, 2.0, 4.0]
    (errors,) = axes.collections
    low, high = errors.get_segments()[-1][:, 1]
    assert (high - low) / 2 == pytest.approx(np.std([2, 6], ddof=1))
    assert axes.get_title() == "grid: mean ± std, 2 seeds"


def test_table_and_picture(folder, tmp_path, capsys):
    gains.main(str(tmp_path / "g.png"), str(folder), "a:hard", "a:soft + vote", "b:hard")
    assert np.ptp(cv2.imread(str(tmp_path / "g.png"))) > 100
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "| a:soft + vote |" + " +2.0 ± 0.0 |" * 5
    assert lines[-1] == "| b:hard |" + " +3.0 |" * 5


def test_every_compared_row_is_shown(folder, tmp_path, capsys):
    gains.main(str(tmp_path / "g.png"), str(folder), "a:hard", *["a:soft + vote"] * 8)
    assert capsys.readouterr().out.count("| a:soft + vote |") == 8


def test_rows_without_a_common_seed(folder):
    (folder / "b-s1").rename(folder / "b-s2")
    with pytest.raises(ValueError, match="a:hard and b:hard have no seed in common"):
        gains.gains(folder, "a:hard", "b:hard")


@pytest.mark.parametrize("words", [(), ("a:hard", "b:hard"), ("grid", "a:hard")])
def test_usage_is_shown_for_too_few_words(words):
    with pytest.raises(SystemExit, match="Draw gains over a baseline"):
        gains.main("g.png", *words)


@pytest.mark.parametrize("name", ["c:hard", "a:hardest"])
def test_an_unknown_row_or_rule_is_named(folder, name):
    with pytest.raises(ValueError, match=rf"no results of row '{name[0]}' with rule '{name[2:]}'"):
        gains.gains(folder, "a:hard", name)
