"""Checkpoints hold classes by module and name: a class that moves makes every trained file unreadable."""

from __future__ import annotations

import importlib
import pickletools
import zipfile

import pytest

from yolo_uncert.paths import find_asset

HELD = [
    "config.BorderOptions",
    "config.DFLOptions",
    "config.GaussianOptions",
    "config.IoUAwareOptions",
    "config.KLDOptions",
    "config.QFLOptions",
    "config.QualityOptions",
    "nn.branches.base.HeadSpec",
    "nn.branches.border.BorderBranch",
    "nn.branches.dfl.DFLBranch",
    "nn.branches.dfl.MomentsDFL",
    "nn.branches.dfl.PeakDFL",
    "nn.branches.gaussian.GaussianBranch",
    "nn.branches.iou_aware.IoUAwareBranch",
    "nn.branches.kld.KLDBranch",
    "nn.branches.qfl.QFLBranch",
    "nn.branches.quality.QualityBranch",
    "nn.heads.UncertDetect",
    "nn.heads.UncertOBB",
    "nn.heads.UncertOBB26",
    "nn.models.UncertDetectionModel",
    "nn.models.UncertOBBModel",
    "schema.Schema",
]


@pytest.mark.parametrize("name", HELD)
def test_the_name_is_where_checkpoints_expect_it(name):
    module, _, cls = f"yolo_uncert.{name}".rpartition(".")
    found = getattr(importlib.import_module(module), cls)
    assert (found.__module__, found.__qualname__) == (module, cls), "pickled under the same name again"


@pytest.mark.parametrize("weights", ["uncert-bccd-n.pt", "uncert-hituav-obb-n.pt", "uncert-synthetic-obb-n.pt"])
def test_checkpoints_that_ship_hold_no_other_names(weights):
    with zipfile.ZipFile(find_asset(weights, "weights")) as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    texts = [arg for _, arg, _ in pickletools.genops(pickle) if isinstance(arg, str)]
    held = {text.replace(" ", ".").removeprefix("yolo_uncert.") for text in texts if text.startswith("yolo_uncert.")}
    assert held
    assert held <= set(HELD)
