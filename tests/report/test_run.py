"""When a run gets a report: after a validation with plots, by itself or at the end of a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from yolo_uncert import YOLO
from yolo_uncert.model import _report
from yolo_uncert.report.run import report_run

QUIET = {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "name": "val", "exist_ok": True}


def test_a_validation_with_plots_is_reported_with_everything_it_measured(tiny, tmp_path):
    model = YOLO(tiny.weights("detect"))
    model.val(data=str(tiny.data("detect")), project=str(tmp_path), plots=True, save_json=True, **QUIET)
    text = (tmp_path / "val" / "report.html").read_text(encoding="utf-8")
    for caption in ("AP at IoU", "Sigma (px)", "Coverage", "Scores", "COCO precision", "COCO recall"):
        assert caption in text
    assert (tmp_path / "val" / "coverage.png").is_file()
    assert len(model.callbacks["on_val_end"]) == len(YOLO(tiny.weights("detect")).callbacks["on_val_end"])


@pytest.mark.parametrize(("kind", "options"), [("detect", {"plots": False}), ("stock", {"plots": True})])
def test_no_report_without_plots_or_sigma(tiny, tmp_path, kind, options):
    YOLO(tiny.weights(kind)).val(data=str(tiny.data("detect")), project=str(tmp_path), **QUIET, **options)
    assert not (tmp_path / "val" / "report.html").exists()


@pytest.mark.slow
def test_a_training_ends_with_a_report(tiny, tmp_path):
    options = {"epochs": 1, "plots": True, "project": str(tmp_path), "name": "train"}
    YOLO(tiny.yaml("detect", "gaussian")).train(data=str(tiny.data("detect")), **{**QUIET, **options})
    assert "Sigma (px)" in (tmp_path / "train" / "report.html").read_text(encoding="utf-8")


def test_other_tasks_have_none(tmp_path):
    args = SimpleNamespace(plots=True)
    report_run(SimpleNamespace(metrics=SimpleNamespace(), training=False, args=args, save_dir=tmp_path))
    _report(None)
    assert list(tmp_path.iterdir()) == []
