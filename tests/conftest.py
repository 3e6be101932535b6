"""What every test runs under: no network, no run-time installs, settings of its own, seeded generators."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Any

# Ultralytics and matplotlib read these at import, hence before any test module is imported.
os.environ["YOLO_AUTOINSTALL"] = "False"
os.environ["YOLO_OFFLINE"] = "True"
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo-uncert-tests-"))
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # tensors of tests are tiny: a second thread only waits


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
