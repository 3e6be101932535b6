"""The report as one HTML file that needs nothing else: no network, no scripts, no files beside it."""

from __future__ import annotations

import base64
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import ultralytics
from PIL import Image

from yolo_uncert import __version__
from yolo_uncert.files import replacing

Table: TypeAlias = tuple[str, Sequence[object], Sequence[Sequence[object]]]
"""Caption, header and rows."""

REPORT = "report.html"

BROAD = 1200
"""Pixels of width from which a picture has the page to itself, and is scrolled on a phone rather than shrunk."""

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c6470; --page: #fff; --line: #d9dde3; --stripe: #f4f6f8;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a0a8b3; --page: #16181c; --line: #363b43;
  --stripe: #1f2329; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
nav a { color: var(--accent); margin-right: 1.2rem; }
.tables { display: flex; flex-wrap: wrap; gap: 1.75rem 3rem; align-items: start; overflow-wrap: normal; }
.tables div { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; white-space: nowrap; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
tbody tr:nth-child(odd) { background: var(--stripe); }
.number { text-align: right; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 2rem 1.5rem;
  align-items: start; }
figure { margin: 0; }
figure.broad { grid-column: 1 / -1; }
figure div { overflow-x: auto; }
figure.broad img { min-width: 44rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 6px; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .5rem; }
dl { columns: 17rem; column-gap: 2rem; margin: 0; font-size: .9rem; }
dl div { break-inside: avoid; display: flex; justify-content: space-between; gap: 1rem; padding: .15rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); flex: none; max-width: 60%; }
dd { margin: 0; text-align: right; }
@media print { :root { --text: #000; --soft: #444; --page: #fff; --line: #bbb; --stripe: #f4f6f8; }
  body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; } h2 { break-after: avoid; }
  figure, tr, dl { break-inside: avoid; } .tables div, figure div { overflow: visible; }
  .plots { grid-template-columns: 1fr 1fr; } figure.broad img { min-width: 0; max-height: 20cm; object-fit: contain; } }
"""


@dataclass(frozen=True)
class Picture:
    """A plot of the report.

    Attributes:
        file: PNG or JPEG image.
        title: Heading.
        caption: How to read it.
    """

    file: Path
    title: str
    caption: str


def write_report(
    folder: Path, title: str, settings: Mapping[str, object], tables: Iterable[Table], figures: Iterable[Picture]
) -> Path:
    """Write ``report.html``; images are part of the file, and a report that is there already is replaced at once.

    Args:
        folder: Folder to write to; made if absent.
        title: Heading, plain text like all that follows.
        settings: Options of the run.
        tables: Captions, headers and rows; numbers are rounded to four digits, one that is not finite becomes a dash.
        figures: Images to embed, in this order.

    Returns:
        The file.
    """
    sections = {
        "Numbers": _wrap("div", "".join(map(_table, tables)), "tables"),
        "Plots": _wrap("div", "".join(map(_figure, figures)), "plots"),
        "Settings": _pairs(settings),
        "Versions": _pairs(versions()),
    }
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>\n' for name, text in sections.items())
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )
    file = Path(folder) / REPORT
    with replacing(file) as part:
        part.write_text(page, encoding="utf-8")
    return file


def versions() -> dict[str, str]:
    """Return the versions of what the numbers of a report depend on."""
    return {
        "yolo-uncert": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def _table(table: Table) -> str:
    caption, header, rows = table
    rows = [tuple(row) for row in rows]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    head = _row("th", header, numeric)
    body = "\n".join(_row("td", row, numeric) for row in rows)
    text = f"<caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody>"
    return _wrap("div", _wrap("table", text)) + "\n"


def _row(tag: str, cells: Sequence[object], numeric: Sequence[bool]) -> str:
    texts = (
        _wrap(tag, escape(_text(cell)), "number" if number else "") for cell, number in zip(cells, numeric, strict=True)
    )
    return _wrap("tr", "".join(texts))


def _figure(picture: Picture) -> str:
    with Image.open(picture.file) as image:
        (width, height), kind = image.size, str(image.format).lower()
    data = base64.b64encode(picture.file.read_bytes()).decode("ascii")
    title, caption = escape(picture.title), escape(picture.caption)
    tag = f'<img src="data:image/{kind};base64,{data}" alt="{title}" width="{width}" height="{height}">'
    text = f"<h3>{title}</h3>{_wrap('div', tag)}<figcaption>{caption}</figcaption>"
    return _wrap("figure", text, "broad" if width >= BROAD else "") + "\n"


def _pairs(values: Mapping[str, object]) -> str:
    items = (f"<div><dt>{escape(str(key))}</dt><dd>{escape(_text(value))}</dd></div>" for key, value in values.items())
    return _wrap("dl", "".join(items))


def _wrap(tag: str, text: str, css: str = "") -> str:
    return f'<{tag} class="{css}">{text}</{tag}>' if css else f"<{tag}>{text}</{tag}>"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _text(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)
