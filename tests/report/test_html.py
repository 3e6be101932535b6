from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from yolo_uncert import __version__
from yolo_uncert.report.html import Picture, write_report

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Elements and texts of a page; fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.cells = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.cells.append((self.open[-1], data))

    def texts(self, tag):
        return [text for where, text in self.cells if where == tag]

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "plot.png"
    cv2.imwrite(str(file), np.zeros((20, 30, 3), np.uint8))
    return Picture(file, "Coverage", "How to read it.")


def read(file):
    return Page(file.read_text(encoding="utf-8"))


def test_report_holds_everything(tmp_path, picture):
    table = ("By class", ["class", "AP", "n"], [["cat", 0.123456, 12], ["dog", float("nan"), np.int64(3)]])
    file = write_report(tmp_path / "new", "Cats", {"imgsz": 320, "half": False, "split": None}, [table], [picture])
    assert file == tmp_path / "new" / "report.html"
    page = read(file)
    assert page.texts("title") == page.texts("h1") == ["Cats"]
    assert page.texts("caption") == ["By class"]
    assert page.texts("th") == ["class", "AP", "n"]
    assert page.texts("td") == ["cat", "0.1235", "12", "dog", "–", "3"]
    assert [cell.get("class") for cell in page.attributes("td")] == [None, "number", "number"] * 2
    assert page.texts("figcaption") == ["How to read it."]
    assert page.texts("dt")[:4] == ["imgsz", "half", "split", "yolo-uncert"]
    assert page.texts("dd")[:4] == ["320", "False", "–", __version__]
    (image,) = page.attributes("img")
    assert (image["width"], image["height"], image["alt"]) == ("30", "20", "Coverage")
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == picture.file.read_bytes()


def test_nothing_is_fetched_from_elsewhere(tmp_path, picture):
    text = write_report(tmp_path, "t", {}, [], [picture]).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", text.replace(_payload(text), ""))
    for tag, attributes in Page(text).elements:
        assert attributes.get("src", "data:").startswith("data:"), tag
        assert attributes.get("href", "#").startswith("#"), tag


def _payload(text):
    return re.search(r"base64,([A-Za-z0-9+/=]+)", text).group(1)


def test_links_lead_to_sections(tmp_path, picture):
    page = read(write_report(tmp_path, "t", {}, [], [picture]))
    ids = [attributes["id"] for attributes in page.attributes("section")]
    assert [attributes["href"] for attributes in page.attributes("a")] == [f"#{name}" for name in ids]


def test_every_text_is_escaped(tmp_path, picture):
    evil = "<script>alert('\"&')</script>"
    picture = Picture(picture.file, evil, evil)
    file = write_report(tmp_path, evil, {evil: evil}, [(evil, [evil, evil], [[evil, 1]])], [picture])
    page = read(file)
    assert page.attributes("script") == []
    for tag in ("title", "h1", "caption", "th", "td", "h3", "figcaption", "dt", "dd"):
        assert evil in page.texts(tag), tag
    assert page.attributes("img")[0]["alt"] == evil


def test_empty_report_is_a_page_all_the_same(tmp_path):
    page = read(write_report(tmp_path, "t", {}, [("none", ["a", "b"], [])], []))
    assert page.texts("h2") == ["Numbers", "Plots", "Settings", "Versions"]


@pytest.mark.parametrize(("width", "broad"), [(900, None), (1600, "broad")])
def test_broad_pictures_have_a_row_of_their_own(tmp_path, width, broad):
    cv2.imwrite(str(tmp_path / "plot.jpg"), np.zeros((10, width, 3), np.uint8))
    page = read(write_report(tmp_path, "t", {}, [], [Picture(tmp_path / "plot.jpg", "", "")]))
    assert page.attributes("figure")[0].get("class") == broad
    assert page.attributes("img")[0]["src"].startswith("data:image/jpeg;base64,")


def test_a_ragged_table_is_refused(tmp_path):
    with pytest.raises((ValueError, IndexError)):
        write_report(tmp_path, "t", {}, [("c", ["a", "b"], [[1, 2], [1]])], [])


def test_a_report_is_replaced_as_a_whole(tmp_path, monkeypatch):
    file = write_report(tmp_path, "first", {}, [], [])
    write_report(tmp_path, "second", {}, [], [])
    assert read(file).texts("h1") == ["second"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, "third", {}, [], [])
    assert read(file).texts("h1") == ["second"]
    assert list(tmp_path.iterdir()) == [file], "no drafts are left"
