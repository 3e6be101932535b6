"""The documents: no gaps left to fill, no links into nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*.md"), ROOT / "experiments" / "README.md"]
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_be_filled_in(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^[A-Z]+_[A-Z_]+$|TODO|FIXME", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    found = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [target for target, _ in found if not (page.parent / target).exists()]
    assert not [(target, anchor) for target, anchor in found if anchor and anchor not in anchors(page, target)]


def test_every_experiment_is_in_the_index():
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    files = [*ROOT.glob("experiments/*.py"), *ROOT.glob("experiments/*.yaml")]
    missing = [file.name for file in files if f"({file.name})" not in text]
    assert missing == ["yolov5-obb.yaml"], "a model, and no grid"


def anchors(page, target):
    """The names that GitHub gives the headings of a page."""
    text = (page.parent / target if target else page).read_text(encoding="utf-8")
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}
