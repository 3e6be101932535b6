"""One process of distributed validations on the CPU (gloo): ``RANK=0 WORLD_SIZE=2 ... distributed_worker.py JOBS``.

JOBS is a JSON list of jobs ``[weights, data, folder]``, done one after the other.

Ultralytics gathers over its ranks, which it reads from the environment when it is imported, but starts processes of its
own on GPUs only. This does by hand what its trainer does before it validates.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ultralytics.data.utils import check_det_dataset

from yolo_uncert import YOLO
from yolo_uncert.engine.val import UncertDetectionValidator, UncertOBBValidator


def main(jobs: str) -> None:
    """Do all jobs in one process group."""
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for job in json.loads(jobs):
        validate(*job, rank=rank, world=world)
    dist.destroy_process_group()


def validate(weights: str, data: str, folder: str, *, rank: int, world: int) -> None:
    """Validate the images of this rank (-1: alone), gather, and write the results of the first rank."""
    model = YOLO(weights)
    kind = UncertOBBValidator if model.task == "obb" else UncertDetectionValidator
    options = {"data": data, "imgsz": 64, "batch": 2, "plots": False, "rect": False, "pdq": model.task == "detect"}
    validator = kind(save_dir=Path(folder), args={**options, "task": model.task, "workers": 0, "device": "cpu"})
    net = model.model.float().eval()
    validator.training, validator.device, validator.stride = False, torch.device("cpu"), 32
    validator.data, validator.names = check_det_dataset(data), net.names
    validator.dataloader = validator.get_dataloader(validator.data["val"], 2)
    validator.init_metrics(net)
    for number, batch in enumerate(validator.dataloader):
        if rank >= 0 and number % world != rank:
            continue
        batch = validator.preprocess(batch)
        with torch.no_grad():
            found = validator.postprocess(net(batch["img"]))
        validator.update_metrics(found, batch)
    validator.gather_stats()
    if rank <= 0:
        validator.get_stats()
        metrics = validator.metrics
        results = {k: float(v) for k, v in metrics.results_dict.items()}
        files = sorted(Path(file).name for file in metrics.matches.files)
        found = {"metrics": results, "files": files, "images": len(files)}
        Path(folder, "results.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
