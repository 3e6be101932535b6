"""The package itself: what an import costs and offers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import yolo_uncert


def test_version_is_that_of_the_installed_distribution():
    assert yolo_uncert.__version__ == version("yolo-uncert")


def test_import_loads_neither_torch_nor_ultralytics():
    heavy = {"torch", "ultralytics", "cv2", "numba"}
    code = f"import sys, yolo_uncert; sys.exit(sorted({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_facade_is_exported():
    from yolo_uncert.model import YOLO

    assert yolo_uncert.YOLO is YOLO


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'yolo_uncert' has no attribute 'YOLOX'"):
        yolo_uncert.YOLOX  # noqa: B018
