"""Grids of experiments: what a yaml may say, checked before the first training, and the cells that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import get_cfg

from yolo_uncert.data import resolve_data
from yolo_uncert.engine.options import check_options, split_options
from yolo_uncert.options import OptionError, suggest

KEYS = ("data", "train", "evaluate", "seeds", "rows", "rules")
NEEDED = ("data", "train", "seeds", "rows")
BOTH = ("data", "imgsz", "device")
"""Training options that an evaluation takes over, unless the grid says otherwise."""


@dataclass(frozen=True)
class Cell:
    """One training: a row of the grid with one seed."""

    row: str
    seed: int
    folder: Path
    train: dict[str, Any]
    rules: dict[str, dict[str, Any]]
    evaluate: dict[str, Any]
    weights: str | None = None
    """Row whose weights this one takes, by name, for its own head: as they are, or as the detector of a retrofit."""

    @property
    def reads_only(self) -> bool:
        """Whether it is not trained."""
        return self.weights is not None and not self.train.get("retrofit")


def read_grid(file: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read a grid and look at all that it says.

    Args:
        file: The yaml.
        given: Training options for all rows, from the command line.

    Raises:
        FileNotFoundError: No such grid, or no local copy of its data.
        OptionError: A key, an option, a value or a name is wrong; the message says which.
    """
    grid = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    if not isinstance(grid, Mapping):
        raise OptionError(f"{file}: a grid has the keys {', '.join(KEYS)}")
    _known(grid, KEYS, f"{file}: key")
    if missing := [key for key in NEEDED if not grid.get(key)]:
        raise OptionError(f"{file}: {' and '.join(missing)} missing")
    if not isinstance(grid["seeds"], list) or not all(type(seed) is int for seed in grid["seeds"]):
        raise OptionError(f"{file}: seeds must be a list of whole numbers, not {grid['seeds']!r}")
    if own := sorted({"seed", "model"} & given.keys()):
        raise OptionError(f"{own[0]}= is what a grid varies: it is given in {file}")
    _check_rows(grid, file)
    for cell in cells({**grid, "seeds": grid["seeds"][:1]}, Path(), given):
        _check(cell, f"{file}: {cell.row}")
    return dict(grid)


def cells(grid: Mapping[str, Any], folder: Path, given: Mapping[str, Any]) -> Iterator[Cell]:
    """Yield the cells of a grid, seed by seed, so that the first table has every row; first those that are trained."""
    for seed in grid["seeds"]:
        for name, row in _ordered(grid["rows"]):
            own = {k: v for k, v in row.items() if k not in ("rules", "weights")}
            train = {"data": grid["data"], **grid["train"], **own, **given, "seed": seed}
            evaluate = {**{k: train[k] for k in BOTH if k in train}, **grid.get("evaluate", {})}
            rules = row["rules"] if "rules" in row else grid["rules"]
            yield Cell(name, seed, folder / f"{name}-s{seed}", train, rules, evaluate, row.get("weights"))


def _ordered(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return rows by name as they stand, but first those that need no other row's weights."""
    return sorted(rows.items(), key=lambda item: "weights" in item[1])


def _check_rows(grid: Mapping[str, Any], file: str | Path) -> None:
    """Look at what every row has to say, and whether another row's weights are there by then."""
    earlier: list[str] = []
    for name, row in _ordered(grid["rows"]):
        where = f"{file}: {name}"
        if "model" not in row:
            raise OptionError(f"{where}: model missing" + _instead("model", row))
        if "rules" not in row and "rules" not in grid:
            raise OptionError(f"{where}: no rules, neither its own nor those of the grid")
        if "weights" in row:
            _known([row["weights"]], earlier, f"{where}: weights")
        earlier.append(name)


def _check(cell: Cell, where: str) -> None:
    """Look at the options of a cell and at the data that they name."""
    if "imgsz" not in cell.train:
        raise OptionError(f"{where}: imgsz missing in train")
    _options({k: v for k, v in cell.train.items() if k != "model"}, "train", where)
    for rule, options in cell.rules.items():
        used = {**cell.evaluate, **options}
        _options(used, "val", f"{where}: {rule}")
        _known([used.get("split", "val")], _splits(used["data"]), f"{where}: {rule}: split")


def _options(options: Mapping[str, Any], mode: str, where: str) -> None:
    try:
        check_options(options, mode)
        get_cfg(overrides=split_options(options)[0])
    except (ValueError, TypeError, SyntaxError) as error:
        raise OptionError(f"{where}: {error}") from error


def _splits(data: str) -> list[str]:
    """Return the splits of a data set; a folder or an archive has whatever is asked for."""
    file = Path(resolve_data(data))
    spec = yaml.safe_load(file.read_text(encoding="utf-8")) if file.suffix == ".yaml" and file.is_file() else {}
    if "rows" in spec:
        raise OptionError(f"data={data} is the grid {file.resolve()} from here: start from another folder")
    return [key for key in ("train", "val", "test") if key in spec or not spec]


def _known(names: Iterable[Any], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise OptionError(f"{what} {name!r} is unknown{suggest(name, known)}. Known: {', '.join(known)}")


def _instead(name: str, row: Mapping[str, Any]) -> str:
    close = [key for key in row if suggest(key, [name])]
    return f", instead there is {close[0]!r}" if close else ""
