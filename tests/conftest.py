"""What every test runs under: no network, no run-time installs, settings of its own, seeded generators."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

# Ultralytics and matplotlib read these at import, hence before any test module is imported.
os.environ["YOLO_AUTOINSTALL"] = "False"
os.environ["YOLO_OFFLINE"] = "True"
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo-uncert-tests-"))
if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side must not write one settings file
    os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="yolo-uncert-tests-")
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, which torch does not do by itself


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Any:
    """Only addresses of this machine resolve: whatever would download fails at once, and the same way everywhere."""
    resolve = socket.getaddrinfo

    def local_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}:
            return resolve(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {host}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", local_only)
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread_in_fixtures() -> None:
    """What a module's fixtures compute is compared with what its tests do."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors are tiny, and results are compared bit for bit: how a sum is split among threads depends on the load.

    Before every test, because Ultralytics sets the number of threads when it selects a device.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """Folder with real data sets (hituav, voc07, ...); a test that asks for it is skipped where there is none."""
    folder = os.environ.get("YOLO_UNCERT_DATA")
    if not folder:
        pytest.skip("YOLO_UNCERT_DATA names no folder with data sets")
    return Path(folder)


NETWORKS = Path(__file__).with_name("networks")

QUICK: dict[str, Any] = {
    "epochs": 20,
    "imgsz": 64,
    "batch": 8,
    "nbs": 8,
    "optimizer": "AdamW",
    "lr0": 0.004,
    "warmup_epochs": 1,
    "mosaic": 0.0,
    "scale": 0.0,
    "translate": 0.0,
    "erasing": 0.0,
    "workers": 0,
    "cache": "ram",
    "plots": False,
    "device": "cpu",
}
"""Training of a few seconds after which a model detects something."""


class Tiny:
    """Tiny data sets and trainings, each made once; the models that tests only read, once for all processes."""

    branches: ClassVar[dict[str, tuple[str, ...]]] = {
        "detect": ("gaussian", "dfl", "iou_aware"),
        "obb": ("gaussian", "dfl", "iou_aware"),
        "e2e": ("gaussian", "iou_aware"),
    }
    """Those of the ``light`` yamls."""

    def __init__(self, root: Path, shared: Path) -> None:
        self.root, self.shared = root, shared

    @cache  # noqa: B019  lives as long as the session
    def data(self, task: str) -> Path:
        """Data yaml of 16 + 8 scenes with one or two objects."""
        from yolo_uncert.synthetic import SceneSpec, make_dataset

        spec = SceneSpec(imgsz=64, objects=(1, 2), size=(0.2, 0.45), sigma=(0.3, 1.0), classes=("disc", "plate"))
        return make_dataset(self.root / task, task, {"train": 16, "val": 8}, spec)

    def yaml(self, kind: str, *branches: str) -> str:
        """Path of a yaml of a small network: what :meth:`run` trains, or the same with other branches."""
        network = NETWORKS / ("tiny-e2e.yaml" if kind == "e2e" else "tiny.yaml")
        if kind == "stock":
            return str(network)
        names = branches or self.branches[kind]
        content = {
            "base": str(network),
            "task": "obb" if kind == "obb" else "detect",
            "uncertainty": {name: {} for name in names},
        }
        file = self.root / f"tiny-{'-'.join((kind, *names))}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return str(file)

    def train(self, model: Any, name: str, task: str = "detect", **options: Any) -> Any:
        """Train a model object and return its trainer."""
        # So few steps would leave the running statistics of BatchNorm where they started.
        model.add_callback("on_train_start", lambda trainer: _set_momentum(trainer.model, 0.5))
        settings = {**QUICK, "data": str(self.data(task)), "project": str(self.root / "runs"), "name": name}
        model.train(**{**settings, "exist_ok": True, **options})
        return model.trainer

    @cache  # noqa: B019
    def run(self, kind: str) -> Path:
        """Folder of the training of ``detect``, ``obb``, ``e2e`` or ``stock``."""
        from yolo_uncert import YOLO

        task = "obb" if kind == "obb" else "detect"
        # Without a predicted IoU, whose root lifts low scores, it takes longer until they pass the tests' thresholds.
        longer = {"epochs": 40} if kind == "stock" else {}
        folder, done = self.shared / kind, self.shared / f"{kind}.done"
        with FileLock(self.shared / f"{kind}.lock"):
            if not done.exists():
                # Without a validation in between the last epoch is the best; writing each takes as long as training it.
                options = {"val": False, "save": False, "project": str(self.shared), **longer}
                self.train(YOLO(self.yaml(kind)), kind, task, **options)
                done.touch()
        return folder

    def weights(self, kind: str) -> str:
        """Path of the trained model of that kind."""
        return str(self.run(kind) / "weights" / "best.pt")


def _set_momentum(model: torch.nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    parallel = "PYTEST_XDIST_WORKER" in os.environ  # each process has a folder of its own, in one that all share
    shared = tmp_path_factory.getbasetemp().parent / "trained" if parallel else root / "trained"
    shared.mkdir(exist_ok=True)
    return Tiny(root, shared)
