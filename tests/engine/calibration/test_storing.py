from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import strip_optimizer

from yolo_uncert import YOLO
from yolo_uncert.engine import checkpoints
from yolo_uncert.engine.calibration import ATTRIBUTE, calibration_of
from yolo_uncert.engine.checkpoints import store_calibration, target_file
from yolo_uncert.options import OptionError
from yolo_uncert.paths import find_asset
from yolo_uncert.run_options import CalibrationOptions


def test_where_it_is_written():
    source = Path("runs/best.pt")
    assert target_file(source, CalibrationOptions()) == Path("runs/best-calibrated.pt")
    assert target_file(Path("runs/best-calibrated.pt"), CalibrationOptions()) == Path("runs/best-calibrated.pt")
    assert target_file(source, CalibrationOptions(inplace=True)) == source
    assert target_file(source, CalibrationOptions(remove=True)) == source
    assert target_file(source, CalibrationOptions(out="x/y.pt", remove=True)) == Path("x/y.pt")


@pytest.mark.parametrize("option", ["inplace", "remove"])
def test_a_model_that_ships_stays_as_it_is(option):
    shipped = find_asset("uncert-bccd-n.pt", "weights")
    assert target_file(shipped, CalibrationOptions()) == Path("uncert-bccd-n-calibrated.pt"), "in the working directory"
    assert target_file(shipped, CalibrationOptions(out="mine.pt", remove=True)) == Path("mine.pt")
    with pytest.raises(OptionError, match=r"uncert-bccd-n\.pt ships with the package and stays as it is"):
        target_file(shipped, CalibrationOptions(**{option: True}))


def test_failure_leaves_the_old_file(weights, monkeypatch, calibration):
    file = Path(weights("detect"))
    before = file.read_bytes()

    def fail(checkpoint, stream):
        stream.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        store_calibration(file, file, calibration().as_dict())
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file], "no remains"


def test_weights_and_everything_else_stay(weights, calibration):
    file = Path(weights("detect"))
    file.chmod(0o640)
    before = checkpoints.torch_load(file, map_location="cpu")
    store_calibration(file, file.with_name("new.pt"), calibration().as_dict())
    after = checkpoints.torch_load(file.with_name("new.pt"), map_location="cpu")
    assert after.keys() - before.keys() == {ATTRIBUTE}
    assert file.with_name("new.pt").stat().st_mode & 0o777 == 0o640
    for (name, old), (_, new) in zip(
        before["model"].state_dict().items(), after["model"].state_dict().items(), strict=True
    ):
        assert torch.equal(old, new), name
        assert old.dtype == new.dtype
    store_calibration(file.with_name("new.pt"), file.with_name("new.pt"), None)
    again = checkpoints.torch_load(file.with_name("new.pt"), map_location="cpu")
    assert again.keys() == before.keys()
    assert calibration_of(again["model"]) is None


def test_copies_halves_and_fused_models_keep_it(marked):
    from copy import deepcopy

    file = marked()
    strip_optimizer(file)
    model = YOLO(file).model
    for kept in (model, deepcopy(model), model.half(), model.float().fuse(verbose=False)):
        assert calibration_of(kept).scale.factors.tolist() == [2, 3, 4, 5]
    assert calibration_of(nn.Identity()) is None
