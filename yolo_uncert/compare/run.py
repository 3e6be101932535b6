"""Models or settings side by side, with intervals that tell a gain from the luck of the images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ultralytics.cfg import get_cfg
from ultralytics.utils import LOGGER, RUNS_DIR
from ultralytics.utils.files import increment_path

from yolo_uncert.compare.settings import combinations, listed, short_names
from yolo_uncert.compare.tables import table, write
from yolo_uncert.compare.variants import Variant, variants_of
from yolo_uncert.engine.options import check_options, split_options
from yolo_uncert.engine.rules import check_rules
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.engine.states import lends_moments
from yolo_uncert.files import check_folder
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema

SAMPLES = 500
"""Draws of images."""


def compare(
    models: str | Path | Sequence[str | Path], *, samples: int = SAMPLES, out: str | Path | None = None, **options: Any
) -> list[Variant]:
    """Validate models or settings on the same images and compare them with bootstrap intervals over the images.

    Args:
        models: One or several trained models; in one string separated by commas.
        samples: Draws of images.
        out: Folder for ``comparison.json`` and ``comparison.csv``; by default a new one in the folder of
            Ultralytics' runs.
        **options: Options of val. Ours, ``iou``, ``conf``, ``imgsz``, ``max_det`` and ``agnostic_nms`` may have several
            values, in a list or separated by commas: each combination is a variant.

    Returns:
        The variants, the first of which is what the others are compared with.

    Raises:
        FileNotFoundError: There is no such model.
        OptionError: Fewer than two variants, too few samples, models of different tasks, or an option is wrong.
        OSError: ``out`` cannot be written to.
    """
    if not isinstance(samples, int) or samples < 2:
        raise OptionError(f"samples must be a whole number of at least 2, not {samples!r}")
    paths = [str(m).strip() for m in (models.split(",") if isinstance(models, str) else listed("model", models))]
    paths = list(filter(None, paths))
    settings = combinations(options)
    if len(paths) * len(settings) < 2:
        raise OptionError(
            "there is nothing to compare: name several models (model=a.pt,b.pt) or several values of an option "
            "(suppress=hard,soft)"
        )
    names = short_names(paths) if len(paths) > 1 else [""]
    check(paths, [{**options, **setting} for setting in settings])
    folder = Path(out) if out else increment_path(RUNS_DIR / "compare", mkdir=True)
    check_folder(folder, "compare: out")
    runs: list[tuple[str, Any, Any]] = []
    for (path, name), setting in itertools.product(zip(paths, names, strict=True), settings):
        label = " ".join(filter(None, (name, *(f"{k}={v}" for k, v in setting.items()))))
        LOGGER.info(f"\nValidating {label}")
        try:
            metrics = YOLO(path).val(**{"plots": False, **options, **setting})
        except BaseException:
            _rescue(runs, samples, folder)
            raise
        runs.append((label, metrics.matches, metrics.scored))
    variants = variants_of(runs, samples)
    LOGGER.info("\n" + table(variants))
    write(variants, folder)
    LOGGER.info(f"Results saved to {folder}")
    return variants


def _rescue(runs: list[tuple[str, Any, Any]], samples: int, folder: Path) -> None:
    """Write what was validated before a failure, which is not to be hidden by another one."""
    try:
        if runs:
            write(variants_of(runs, samples), folder)
            LOGGER.warning(f"the comparison ends here; what was validated so far is in {folder}")
    except (ValueError, OSError) as error:
        LOGGER.warning(f"what was validated so far could not be written: {error}")


def check(paths: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> None:
    """Look at all models and settings before the first validation, which may take an hour."""
    checked = [(check_options(s, "compare"), get_cfg(overrides=split_options(s)[0])) for s in settings]
    tasks: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        model = YOLO(path)
        tasks.setdefault(str(model.task), path)
        if len(tasks) > 1:
            said = ", ".join(f"{file} is of task {task}" for task, file in tasks.items())
            raise OptionError(f"compare: {said}; their boxes, overlaps and sigma are not the same things")
        if isinstance(model.model, str):  # an exported file: what it predicts is known when it is loaded
            continue
        for ours, stock in checked:
            dfl = lends_moments(model.model, ours)
            schema = Schema.of(model.task, 1, ["dfl"]) if dfl else schema_of(model.model, model.task)
            try:
                check_rules(schema, SimpleNamespace(**{**vars(stock), **asdict(ours)}))
            except OptionError as error:
                raise OptionError(f"{path}: {error}") from error
