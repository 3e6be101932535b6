"""Two processes that validate half of the images each report what one process reports."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("distributed_worker.py")
TASKS = ("detect", "obb")


def alone(jobs: list[list[str]]) -> list[dict[str, Any]]:
    """Validate in this process and return what it reports of each job: weights, data, folder."""
    validate = runpy.run_path(str(WORKER))["validate"]
    for job in jobs:
        validate(*job, rank=-1, world=1)
    return reports(jobs)


def together(world: int, jobs: list[list[str]]) -> list[dict[str, Any]]:
    """Validate in so many processes and return what the first of them reports of each job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, str(WORKER), json.dumps(jobs)]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    workers = [subprocess.Popen(command, env={**common, **rank}) for rank in ranks]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0] * world
    finally:
        for worker in workers:
            worker.kill()
    return reports(jobs)


def reports(jobs: list[list[str]]) -> list[dict[str, Any]]:
    """Return what a process has written of each job."""
    return [json.loads(Path(folder, "results.json").read_text(encoding="utf-8")) for _, _, folder in jobs]


@pytest.fixture(scope="module")
def reported(tiny, tmp_path_factory):
    """What one and two processes report of each task; starting them is what takes the time."""

    def jobs():
        return [[tiny.weights(task), str(tiny.data(task)), str(tmp_path_factory.mktemp(task))] for task in TASKS]

    return {1: dict(zip(TASKS, alone(jobs()), strict=True)), 2: dict(zip(TASKS, together(2, jobs()), strict=True))}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_report_what_one_does(reported, task):
    one, two = reported[1][task], reported[2][task]
    assert two["files"] == one["files"]
    assert two["images"] == 8
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6, nan_ok=True)
    assert one["metrics"]["uncert/nll"] == one["metrics"]["uncert/nll"], "not NaN"
