from __future__ import annotations

import json
import os
import zipfile

import pytest

from yolo_uncert.engine.exported import keeping, with_size


@pytest.fixture
def write(tmp_path):
    """Function that writes a TorchScript file's metadata, at a moment of its own, and returns its path."""
    moments = iter(range(1, 100))

    def zipped(size, *, dynamic=True):
        file = tmp_path / "m.torchscript"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("m/extra/config.txt", json.dumps({"imgsz": size, "args": {"dynamic": dynamic}}))
        os.utime(file, (moment := next(moments), moment))
        return str(file)

    return zipped


def test_the_size_is_that_of_the_file_unless_given(write):
    file = write([96, 96])
    assert with_size(file, {"conf": 0.1}, {}, square=False) == {"conf": 0.1, "imgsz": 96}
    assert with_size(file, {"imgsz": 64}, {}, square=False) == {"imgsz": 64}
    assert with_size(file, {}, {"imgsz": 64}, square=False) == {}, "the facade gives it"
    file = write([64, 96])
    assert with_size(file, {}, {}, square=False) == {"imgsz": [64, 96]}
    assert with_size(file, {}, {}, square=True) == {"imgsz": 96}, "validation takes one number"


def test_a_new_export_is_read_anew(write):
    assert with_size(write([96, 96]), {}, {}, square=True) == {"imgsz": 96}
    assert with_size(write([64, 64]), {}, {}, square=True) == {"imgsz": 64}


def test_what_says_no_size_is_left_alone(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"")
    for model in (str(tmp_path / "other.onnx"), "http://server/model", object()):
        assert with_size(model, {"conf": 0.1}, {}, square=False) == {"conf": 0.1}


@pytest.mark.parametrize(("given", "said"), [(64, False), ([64, 64], False), (96, True)])
def test_a_size_that_a_fixed_file_cannot_take(write, caplog, given, said):
    with_size(write([64, 64], dynamic=False), {"imgsz": given}, {}, square=False)
    assert ("has no effect" in caplog.text) is said


class Model:
    def __init__(self, path):
        self.pt_path = str(path)


@pytest.mark.parametrize(
    ("options", "onnx", "torchscript"),
    [
        ({"format": "onnx"}, b"new", b"old"),
        ({"format": "onnx", "quantize": 8}, b"old", b"old"),
        ({"format": "onnx", "quantize": "int8"}, b"old", b"old"),
        ({"format": "onnx", "quantize": "fp16"}, b"new", b"old"),
        ({"format": "engine"}, b"old", b"old"),
        ({}, b"old", b"new"),
    ],
)
def test_only_the_file_that_was_asked_for_is_replaced(tmp_path, options, onnx, torchscript):
    files = [tmp_path / "m.onnx", tmp_path / "m.torchscript"]
    for file in files:
        file.write_bytes(b"old")
    with keeping(Model(tmp_path / "m.pt"), options):
        for file in files:
            file.write_bytes(b"new")
    assert [file.read_bytes() for file in files] == [onnx, torchscript]


def test_a_failure_leaves_what_was_there(tmp_path):
    def fail():
        with keeping(Model(tmp_path / "m.pt"), {"format": "onnx"}):
            (tmp_path / "m.onnx").unlink()
            raise OSError("disk full")

    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    with keeping(object(), {"format": "onnx"}):
        pass
