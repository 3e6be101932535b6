"""Imports inside the package only point downwards (see CONTRIBUTING.md, "Layers")."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "yolo_uncert"

# From the bottom to the top: a module imports from its own layer and from those before it.
LAYERS: list[tuple[str, ...]] = [
    ("files", "options"),
    ("functional",),
    ("ops",),
    ("evaluation",),
    ("paths", "schema", "config", "data", "synthetic"),
    ("run_options",),
    ("modes",),
    ("streams",),
    ("losses",),  # knows predictions, not heads
    ("tracking",),
    ("nn",),  # the branches of a head bring their loss terms
    ("engine",),
    ("output",),
    ("report",),
    ("model",),
    ("compare", "demo", "dota", "help", "scenes"),
    ("cli",),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ONLY = {"synthetic": {"synthetic", "functional", "ops"}}
WITHOUT_ULTRALYTICS = {"files", "options", "functional", "ops", "evaluation", "paths", "synthetic"}
ANY_LAYER = {"__init__", "__main__"}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(source: str, file: Path) -> list[str]:
    """Absolute names of all that a module imports, wherever the statement stands (functions, TYPE_CHECKING)."""
    package = ("yolo_uncert", *file.parts[:-1])
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *filter(None, [node.module])])
            # `from yolo_uncert import schema` imports a module; the names that any other origin offers do not matter.
            names += [f"{origin}.{alias.name}" for alias in node.names] if origin == "yolo_uncert" else [origin]
    return names


def violations(source: str, file: Path) -> list[str]:
    """What is wrong with the imports of one module, a line each."""
    layer = file.parts[0].removesuffix(".py")
    found = []
    for name in imported(source, file):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "ultralytics" and layer in WITHOUT_ULTRALYTICS:
            found.append(f"{layer} must not import {name}")
        if top == "yolo_uncert" and target != "__version__" and not _allowed(layer, target):
            found.append(f"{layer} must not import {name}")
    return found


def _allowed(layer: str, target: str) -> bool:
    return target in RANK and RANK[target] <= RANK[layer] and target in ONLY.get(layer, RANK)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_downwards(file):
    layer = file.parts[0].removesuffix(".py")
    if layer in ANY_LAYER:
        return
    assert layer in RANK, f"{file}: give it a place in LAYERS"
    assert violations((PACKAGE / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("functional/kld.py", "import ultralytics"),
        ("ops/nms.py", "def f():\n    from ultralytics.utils import ops"),
        ("ops/nms.py", "if TYPE_CHECKING:\n    from yolo_uncert.nn.heads import UncertDetect"),
        ("functional/kld.py", "from yolo_uncert import schema"),
        ("functional/kld.py", "from ..ops import nms"),
        ("functional/kld.py", "from .. import ops"),
        ("losses/criterion.py", "from yolo_uncert.nn.heads import UncertDetect"),
        ("nn/heads.py", "from yolo_uncert.engine.train import Trainer"),
        ("engine/val.py", "import yolo_uncert.model"),
        ("engine/val.py", "from yolo_uncert import YOLO"),
        ("synthetic/spec.py", "from yolo_uncert.config import UncertConfig"),
        ("model.py", "from yolo_uncert.cli import main"),
    ],
)
def test_an_upward_import_is_found(file, source):
    assert len(violations(source, Path(file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("functional/kld.py", "import torch\nfrom . import gaussian\nfrom .gaussian import nll"),
        ("losses/kld.py", "from ultralytics.utils.loss import BboxLoss\nfrom yolo_uncert.functional import kld"),
        (
            "nn/branches/base.py",
            "from ...losses.context import Context\nfrom yolo_uncert import config, __version__",
        ),
        ("cli.py", "from .model import YOLO"),
    ],
)
def test_a_downward_import_is_fine(file, source):
    assert violations(source, Path(file)) == []


def test_numbers_become_float64_on_the_host():
    """Apple's GPUs have no float64: ``x.double().cpu()`` fails there, or gives zeros."""
    wrong = re.compile(r"\.double\(\)\.cpu|\.to\([^)]*float64[^)]*\)\.cpu|\.to\(.cpu., (torch.float64|tensor_dtype)")
    found = [str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if wrong.search(file.read_text("utf-8"))]
    assert found == []
