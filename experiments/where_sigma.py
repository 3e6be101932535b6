"""Where is sigma large? ``python experiments/where_sigma.py MODEL DATA IMGSZ OUT [META.json]``.

Compares the predicted standard deviations of kinds of boxes, at the same class and size: of wide and of narrow sigma,
of high and of low score, at the border of the image, overlapped by another box, faint, blurred and, with META (image
name to attributes), by what is known of the image. Each kind has two factors: by how much its sigma, and its error, is
larger than what class and size let expect. A sigma that knows why it is large has both factors alike; a true one has
68 % of the errors within it. Sigma is read as trained, without a calibration. Writes ``where-sigma.md`` and
``where-sigma.png`` into OUT, and crops of the boxes that ``predict`` shows whose sigma is the most above and below what
class and size let expect: ``widest.jpg``, ``narrowest.jpg``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from ultralytics.utils.patches import imread

from yolo_uncert import YOLO
from yolo_uncert.evaluation.polygons import corners
from yolo_uncert.files import replacing
from yolo_uncert.functional.records import Matches
from yolo_uncert.ops import pairwise_rotated_iou
from yolo_uncert.report.groups import border_distance, box_size
from yolo_uncert.report.sheet import tiles_plot
from yolo_uncert.report.style import BLUE, GREY, ORANGE, canvas

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BORDER, OVERLAP, FEWEST, TILES = 3.0, 0.05, 30, 8
"""Pixels to the border; IoU with a neighbour; boxes that a kind needs to be shown; crops in a picture."""

SCORE, APART = 0.25, 10
"""Of crops: the score from which ``predict`` shows a box; steps by name between two images, which are of a flight."""


class Kind(NamedTuple):
    """A kind of boxes: number, means in pixels, by how much each is above what class and size let expect."""

    boxes: int
    sigma: float
    error: float
    sigma_factor: float
    error_factor: float
    within: float
    """Share of the errors within one sigma."""


def oriented(boxes: Floats) -> Floats:
    """Return boxes, xyxy or xywhr, as ``Array[N, 5]`` xywhr."""
    if boxes.shape[1] == 5:
        return boxes
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate(((low + high) / 2, high - low, np.zeros((len(boxes), 1))), axis=1)


def neighbours(matches: Matches) -> Floats:
    """Return the largest IoU of each box with another one of its image, ``Array[N]``."""
    boxes, most = oriented(matches.boxes), np.zeros(len(matches))
    for image in np.unique(matches.image):
        rows = np.flatnonzero(matches.image == image)
        iou = np.asarray(pairwise_rotated_iou(boxes[rows], boxes[rows]))
        np.fill_diagonal(iou, 0)
        most[rows] = iou.max(axis=1)
    return most


def looks(matches: Matches) -> tuple[Floats, Floats]:
    """Return contrast (standard deviation of grey) and sharpness (of its Laplacian) in each box, ``Array[N]`` each."""
    hulls = corners(oriented(matches.boxes))
    contrast, sharpness = np.full((2, len(matches)), np.nan)
    for image in np.unique(matches.image):
        grey = cv2.cvtColor(imread(matches.files[image]), cv2.COLOR_BGR2GRAY).astype(np.float64)
        edges = cv2.Laplacian(grey, cv2.CV_64F)
        limits = np.array(grey.shape[::-1])
        for row in np.flatnonzero(matches.image == image):
            x1, y1 = np.clip(np.floor(hulls[row].min(0)), 0, limits - 1).astype(int)
            x2, y2 = np.clip(np.ceil(hulls[row].max(0)), (x1 + 1, y1 + 1), limits).astype(int)
            contrast[row], sharpness[row] = grey[y1:y2, x1:x2].std(), edges[y1:y2, x1:x2].std()
    return contrast, sharpness


def expected(values: Floats, matches: Matches) -> Floats:
    """Return the mean of values over boxes of the same class and, in up to five groups, size: ``Array[N]``."""
    size, mean = box_size(matches), np.empty(len(matches))
    for cls in np.unique(matches.cls):
        rows = np.flatnonzero(matches.cls == cls)
        for group in np.array_split(rows[np.argsort(size[rows])], max(1, min(5, len(rows) // FEWEST))):
            mean[group] = values[group].mean()
    return mean


def factors(values: Floats, matches: Matches) -> Floats:
    """Return by how much each value is above what class and size let expect, ``Array[N]``."""
    return values / expected(values, matches)


def shown(order: npt.NDArray[np.intp], matches: Matches) -> list[int]:
    """Return the first rows of an order that ``predict`` shows, of images that are far apart, so that they differ."""
    place = np.argsort(np.argsort(matches.files))[matches.image]
    chosen: list[int] = []
    for row in order[matches.conf[order] >= SCORE]:
        if len(chosen) < TILES and all(abs(place[row] - place[other]) >= APART for other in chosen):
            chosen.append(int(row))
    return chosen


def kinds(matches: Matches, meta: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Mask]]:
    """Yield name and rows of each kind of boxes."""
    contrast, sharpness = looks(matches)
    for low, high, values in (
        ("narrow sigma for class and size", "wide sigma", factors(matches.sigma[:, :4].mean(1), matches)),
        ("low score", "high score", matches.conf),
        ("faint", "high contrast", contrast),
        ("blurred", "sharp", sharpness),
    ):
        lower, upper = np.quantile(values, (1 / 3, 2 / 3))
        yield from ((f"{low} (lowest third)", values <= lower), (f"{high} (highest third)", values >= upper))
    at_border, near = border_distance(matches) <= BORDER, neighbours(matches) > OVERLAP
    yield from (("at the image border", at_border), ("inside", ~at_border))
    yield from (("inside, overlapped by another box", near & ~at_border), ("inside, alone", ~near & ~at_border))
    about = [meta[Path(file).stem] for file in matches.files] if meta else []
    for key in about[0] if about else ():
        found = np.array([str(row[key]) for row in about])[matches.image]
        if 1 < len(set(found)) <= 6:
            yield from ((f"{key}: {value}", found == value) for value in sorted(set(found), key=lambda v: (len(v), v)))


def rows_of(matches: Matches, meta: dict[str, dict[str, Any]]) -> dict[str, Kind]:
    """Return what is known of each kind, by its name; of those with enough boxes."""
    sigma, error = matches.sigma[:, :4], np.abs(matches.residual[:, :4])
    within = (error <= sigma).mean(1)
    means = sigma.mean(1), error.mean(1)
    columns = (*means, *(factors(values, matches) for values in means), within)
    return {
        name: Kind(int(rows.sum()), *(float(values[rows].mean()) for values in columns))
        for name, rows in kinds(matches, meta)
        if rows.sum() >= FEWEST
    }


def table(rows: dict[str, Kind]) -> str:
    """Return the kinds as a table."""
    head = "| boxes | number | mean sigma, px | mean error, px | factor of sigma | factor of error | within 1 sigma |"
    lines = [f"| {name} | {kind.boxes} | {' | '.join(f'{v:.2f}' for v in kind[1:])} |" for name, kind in rows.items()]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *lines]) + "\n"


def draw(axes: Axes, rows: dict[str, Kind]) -> None:
    """Draw both factors of every kind."""
    place, found = np.arange(len(rows))[::-1], rows.values()
    axes.barh(place + 0.2, [k.sigma_factor - 1 for k in found], 0.36, left=1, color=BLUE, label="predicted sigma")
    axes.barh(place - 0.2, [k.error_factor - 1 for k in found], 0.36, left=1, color=ORANGE, label="mean absolute error")
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(place, [f"{name}  ({kind.boxes:,})" for name, kind in rows.items()])
    axes.set_xlabel("factor over what class and size let expect")
    axes.legend(loc="lower right")


def main(model: str, data: str, imgsz: str, out: str, meta: str | None = None) -> None:
    """Validate once; print and write the table, and draw it."""
    folder = Path(out).resolve()  # Ultralytics puts a relative project= below a folder of its own
    folder.mkdir(parents=True, exist_ok=True)
    attributes = json.loads(Path(meta).read_text(encoding="utf-8")) if meta else {}
    options = {"plots": False, "verbose": False, "workers": 0, "project": str(folder), "name": "val", "exist_ok": True}
    # A calibration may have been fitted to these very images.
    metrics = YOLO(model).val(data=data, imgsz=int(imgsz), calibrated=False, **options)
    matches = metrics.matches
    if not len(matches) or not np.isfinite(matches.sigma).all():
        sys.exit(f"{model}: no box was matched" if not len(matches) else f"{model} predicts no standard deviations")
    rows = rows_of(matches, attributes)
    text = table(rows)
    with replacing(folder / "where-sigma.md") as part:
        part.write_text(text, encoding="utf-8")
    with canvas(folder / "where-sigma.png", (8, 0.9 + 0.34 * len(rows))) as figure:
        draw(figure.subplots(), rows)
    order = np.argsort(factors(matches.sigma[:, :4].mean(1), matches), kind="stable")
    for name, word, ordered in (("widest", "most above", order[::-1]), ("narrowest", "most below", order)):
        title = f"Sigma {word} what class and size let expect"
        tiles_plot(matches, metrics.names, folder / f"{name}.jpg", np.array(shown(ordered, matches), int), title)
    print(text)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
