"""Two processes that validate half of the images each report what one process reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("distributed_worker.py")


def run(world: int, weights: Path, data: Path, folder: Path) -> dict[str, float]:
    """Validate in so many processes and return what the first of them reports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, str(WORKER), str(weights), str(data), str(folder)]
    ranks = range(world) if world > 1 else [-1]
    workers = [subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in ranks]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0] * world
    finally:
        for worker in workers:
            worker.kill()
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), [("detect", "detect"), ("obb", "obb")])
def test_two_processes_report_what_one_does(tiny, tmp_path, kind, task):
    weights, data = tiny.weights(kind), tiny.data(task)
    results = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        results[world] = run(world, weights, data, folder)
    assert results[2]["files"] == results[1]["files"]
    assert results[2]["images"] == 8
    assert results[2]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-6, nan_ok=True)
    assert results[1]["metrics"]["uncert/nll"] == results[1]["metrics"]["uncert/nll"], "not NaN"
