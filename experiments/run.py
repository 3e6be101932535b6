"""Train and evaluate a grid of models and seeds: ``python experiments/run.py GRID.yaml [OUT] [KEY=VALUE ...]``.

A grid names data, training options, rows (a model yaml each, by name or written out, with options of its own), seeds,
and the rules of suppression that every trained model is evaluated with. A row with ``weights: ROW`` is not trained: it
reads that row's weights with a head of its own; with ``retrofit: true`` beside, its branches are trained on them.
Mistakes are found before the first training (``grid.py``).

Each cell has a folder under OUT (default runs/experiments). What is there is not trained again, whatever its options
(use another OUT for trials), nor evaluated again unless the options of the rule have changed, or defaults of this
package that it leaves as they are; an interrupted training goes on from its last epoch. Further words are training
options of all rows, such as ``device=0`` or ``epochs=1``.
``table.md`` and ``table.csv`` are written after every cell.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
import yaml
from grid import Cell, cells, read_grid
from ultralytics.cfg import parse_key_value_pair
from ultralytics.utils import LOGGER
from ultralytics.utils.patches import torch_load

import yolo_uncert
from yolo_uncert import YOLO
from yolo_uncert.files import replacing
from yolo_uncert.functional.residuals import rank_correlation
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import RunOptions

AP_COLUMNS = {"AP50": 0, "AP75": 5, "AP85": 7, "AP90": 8}
SIGMA_COLUMNS = {
    "NLL": "nll",
    "NLL after T": "nll_calibrated",
    "cal. error": "calibration_error",
    "Spearman": "spearman",
}


def train(cell: Cell) -> Path:
    """Train a cell, or go on where its training stopped, and return its checkpoint."""
    last, done = (cell.folder / name for name in ("weights/last.pt", "trained.json"))
    if done.is_file():
        return checkpoint(cell.folder)
    start = time.time()
    options = {**cell.train, "project": str(cell.folder.parent), "name": cell.folder.name, "exist_ok": True}
    if last.is_file():
        if torch_load(last, map_location="cpu").get("optimizer") is not None:  # it has not finished
            YOLO(last).train(resume=True)
    elif cell.reads_only:
        last.parent.mkdir(parents=True, exist_ok=True)
        YOLO(model_file(cell, cell.train["model"])).load(source(cell)).save(last)
    else:
        if cell.weights:
            options["pretrained"] = str(source(cell))
        YOLO(model_file(cell, options.pop("model"))).train(**options)
    write(done, {"options": cell.train, "seconds": round(time.time() - start), **versions()})
    return checkpoint(cell.folder)


def source(cell: Cell) -> Path:
    """Return the checkpoint of the row whose weights a cell takes, of the same seed."""
    return checkpoint(cell.folder.parent / f"{cell.weights}-s{cell.seed}")


def checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a training; of one that never validated well enough, the last."""
    best = folder / "weights" / "best.pt"
    return best if best.is_file() else best.with_name("last.pt")


def model_file(cell: Cell, model: str | Mapping[str, Any]) -> str | Path:
    """Return the name of a row's model yaml; one that is written out in the grid becomes a file beside the cells."""
    if isinstance(model, str):
        return model
    file = cell.folder.parent / f"{cell.row}.yaml"
    with replacing(file) as part:
        part.write_text(yaml.safe_dump(dict(model), sort_keys=False), encoding="utf-8")
    return file


def evaluate(cell: Cell, weights: Path) -> dict[str, dict[str, float]]:
    """Evaluate a trained cell with every rule that it has no results of yet, by the same options."""
    results, used = (read(cell.folder / name) for name in ("results.json", "rules.json"))
    for name, rule in cell.rules.items():
        options = {**cell.evaluate, **rule}
        complete = {**asdict(RunOptions()), **options}
        if name not in results or used.get(name) != complete:
            quiet = {"plots": False, "verbose": False, "project": str(cell.folder), "name": "val", "exist_ok": True}
            results[name], used[name] = numbers(YOLO(weights).val(**quiet, **options)), complete
            write(cell.folder / "results.json", results)
            write(cell.folder / "rules.json", used)
    return {name: results[name] for name in cell.rules}


def numbers(metrics: Any) -> dict[str, float]:
    """Return what the table shows of a validation: AP in percent, sigma in pixels.

    ``rank of scores`` is the rank correlation of the matched boxes' scores with their overlaps: how well the score
    knows the place.
    """
    ap = np.asarray(metrics.box.all_ap).reshape(-1, 10).mean(0)
    found = {name: 100 * float(ap[column]) for name, column in AP_COLUMNS.items()}
    found["AP"] = 100 * float(ap.mean())
    for table in metrics.further:
        if table.caption == "Exact IoU":
            found |= {f"exact {k}": 100 * float(v) for k, v in zip(table.header[1:4], table.rows[0][1:4], strict=True)}
    found |= {name: float(getattr(metrics.sigma, key, np.nan)) for name, key in SIGMA_COLUMNS.items()}
    found["rank of scores"] = rank_correlation(metrics.matches.conf, metrics.matches.iou)
    return found


def table(results: Mapping[tuple[str, str], list[dict[str, float]]]) -> list[list[str]]:
    """Return rows of mean and standard deviation over seeds, by model and rule."""
    columns = list(dict.fromkeys(key for rows in results.values() for row in rows for key in row))
    lines = [["model", "rule", "seeds", *columns]]
    for (model, rule), rows in results.items():
        values = [[row.get(column, np.nan) for row in rows] for column in columns]
        lines.append(
            [model, rule, str(len(rows)), *(spread(column, v) for column, v in zip(columns, values, strict=True))]
        )
    return lines


def spread(column: str, values: list[float]) -> str:
    """Return mean and, of several seeds, sample standard deviation; a dash where nothing is known."""
    if not np.isfinite(values).all():
        return "-"
    digits = 1 if "AP" in column else 3
    error = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def versions() -> dict[str, str]:
    """Return what the numbers were made with."""
    modules = {"torch": torch, "ultralytics": ultralytics, "yolo_uncert": yolo_uncert}
    return {name: module.__version__ for name, module in modules.items()}


def read(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file, nothing if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(file: Path, content: Any) -> None:
    """Write JSON, or lines as Markdown or CSV, by the file's suffix; complete or not at all."""
    with replacing(file) as part, part.open("w", encoding="utf-8", newline="") as stream:
        if file.suffix == ".json":
            json.dump(content, stream, indent=1)
        elif file.suffix == ".csv":
            csv.writer(stream).writerows(content)
        else:
            rows = [content[0], ["---"] * len(content[0]), *content[1:]]
            stream.writelines(f"| {' | '.join(row)} |\n" for row in rows)


def main(grid_file: str, *words: str) -> None:
    """Run all cells of a grid."""
    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise OptionError(f"one folder for the results, and options as KEY=VALUE, not {' '.join(folders)}")
    given = dict(parse_key_value_pair(word) for word in words if "=" in word)
    grid = read_grid(grid_file, given)
    # Ultralytics puts a relative project= below a folder of its own.
    folder = Path(folders[0] if folders else "runs/experiments").resolve() / Path(grid_file).stem
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for cell in cells(grid, folder, given):
        LOGGER.info(f"\n{cell.row}, seed {cell.seed}, read on {cell.evaluate.get('split', 'val')}")
        for rule, found in evaluate(cell, train(cell)).items():
            results.setdefault((cell.row, rule), []).append(found)
        for name in ("table.md", "table.csv"):
            write(folder / name, table(results))
    print((folder / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OptionError, OSError) as error:
        sys.exit(str(error))
