"""The report of a validation run, written into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from yolo_uncert.data import data_name
from yolo_uncert.engine.tables import tables
from yolo_uncert.report import plot_all, write_report


def report_run(validator: Any) -> None:
    """Plot sigma and write ``report.html``, where the run has plots and the model sigma.

    Args:
        validator: After a validation. For other tasks than ours, and in an epoch of a training, nothing happens.
    """
    metrics: Any = getattr(validator, "metrics", None)
    if not getattr(metrics, "prefixes", ()) or validator.training or not validator.args.plots:
        return
    figures = plot_all(metrics.matches, metrics.scored, validator.save_dir, metrics.names)
    settings = {name: value for name, value in sorted(vars(validator.args).items()) if value is not None}
    all_tables = [*tables(metrics), *metrics.further]
    model, data = Path(str(settings.get("model", "model"))).name, data_name(str(settings.get("data", "data")))
    title = f"Uncertainty of {model} on {Path(data).stem}"
    file = write_report(validator.save_dir, title, settings, all_tables, figures)
    LOGGER.info(f"Report with tables and plots: {file}")
