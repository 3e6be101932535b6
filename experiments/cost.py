"""What each way to a sigma costs: time per image against one forward and suppression of the stock model."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from passes import PASSES, RATES, SCALES, STRIDE, Array, dropout, flipped, pair, spread
from run import write
from torch.nn.functional import interpolate
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils.nms import non_max_suppression

from yolo_uncert import YOLO
from yolo_uncert.data import resolve_data
from yolo_uncert.engine.postprocess import postprocess
from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.yamls import HEADS

IMAGES, ROUNDS, WARM_UP = 72, 3, 3
"""Images from all over the split, how often each is measured, and images before the first that counts."""

Work = Callable[[torch.Tensor], Any]


def costs(file: Path, ours: dict[str, list[Path]], options: dict[str, Any]) -> dict[str, float]:
    """Return the time of each method as a share of the stock model's; from the file if it has the same models.

    It is the median of the shares, each of the same image moments apart: what slows a shared machine down lasts longer.

    Args:
        file: CSV of the times.
        ours: Models with branches, a list of seeds for each kind. The stock models have the weights of the first kind,
            so that all do the same work, less the branches.
        options: ``data``, ``split`` and ``imgsz``.
    """
    known = read_shares(file)
    if not {f"{row}: Gaussian branch" for row in ours} <= known.keys():
        images = sorted(image_files(options["data"], options["split"]))
        images = images[:: max(1, len(images) // IMAGES)][:IMAGES]
        times = in_turns(works(ours, images[0], options), images, options["imgsz"])
        known = {name: share(of, times["stock"]) for name, of in times.items()}
        lines = [[n, *(f"{1e3 * t:.3f}" for t in np.percentile(times[n], (50, 10, 90))), known[n]] for n in times]
        write(file, [["work", "median_ms", "p10_ms", "p90_ms", "share"], *lines])
    return known


def read_shares(file: Path) -> dict[str, float]:
    """Return the shares in a file of times; nothing if there is none, or one of an earlier version without them."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {line["work"]: float(line["share"]) for line in csv.DictReader(stream) if "share" in line}


def share(of: list[float], base: list[float]) -> float:
    """Return the median of times over those of other work on the same images."""
    return float(np.median(np.divide(of, base)))


def image_files(data: str, split: str) -> list[Path]:
    """Return the images of a split of a data set."""
    folder = Path(check_det_dataset(resolve_data(data))[split])
    return [file for file in folder.iterdir() if file.suffix.lower() in {".jpg", ".png"}]


def works(ours: dict[str, list[Path]], image: Path, options: dict[str, Any]) -> dict[str, Work]:
    """Return the work of each method on an image."""
    ready = {**{k: v for k, v in options.items() if k == "device"}, "imgsz": options["imgsz"], "verbose": False}
    twins = [twin(file) for file in next(iter(ours.values()))]
    plain = [predictor(one, image, **ready, sigma_source="none") for one in twins]
    base, oriented = plain[0], twins[0].task == "obb"
    kind = {"nc": len(twins[0].model.names), "rotated": oriented}
    found: dict[str, Work] = {
        "stock": lambda x: non_max_suppression(base.model(x), base.args.conf, base.args.iou, **kind),
        "stock, suppression of this package": partial(detect, base),
    }
    for row, (first, *_) in ours.items():
        for name, rule in (("", {}), (", soft + vote", {"suppress": "soft", "var_vote": True})):
            found[f"{row}: Gaussian branch{name}"] = partial(detect, predictor(YOLO(first), image, **ready, **rule))
    if has_moments(twins[0]):
        moments = predictor(twin(next(iter(ours.values()))[0]), image, **ready, sigma_source="dfl")
        found["DFL moments"] = partial(detect, moments)
    return {
        **found,
        "TTA": partial(augmented, base, oriented=oriented),
        "MC-dropout": partial(dropped, base),
        "MC-dropout, head only": partial(dropped_in_head, base),
        "ensemble": partial(ensemble, plain),
    }


def has_moments(facade: YOLO) -> bool:
    """Return whether a detector has side distributions, whose moments are a sigma."""
    return int(facade.model.model[-1].reg_max) > 1


def augmented(base: Any, x: torch.Tensor, *, oriented: bool) -> Array:
    """Return the spread over the scales, each as it is and mirrored."""
    found = []
    for scale in SCALES:
        size = [round(scale * side / STRIDE) * STRIDE for side in x.shape[2:]]
        resized = x if scale == 1 else interpolate(x, size, mode="bilinear")
        found.append(detect(base, resized))
        with flipped(base.model, oriented=oriented):
            found.append(detect(base, resized))
    return together(found[0], found)


def dropped(base: Any, x: torch.Tensor) -> Array:
    """Return the spread over passes with dropout around the plain one."""
    first = detect(base, x)
    with dropout(base.model.model, RATES[0]):
        return together(first, [detect(base, x) for _ in range(PASSES)])


def dropped_in_head(base: Any, x: torch.Tensor) -> Array:
    """Return the same with backbone and neck done once."""
    head, seen = base.model.model.model[-1], []
    with head.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        first = detect(base, x)
    with dropout(base.model.model, RATES[0]):
        return together(first, [detections(base, head(list(seen[0]))) for _ in range(PASSES)])


def ensemble(plain: list[Any], x: torch.Tensor) -> Array:
    """Return the spread over models."""
    found = [detect(one, x) for one in plain]
    return together(found[0], found)


def twin(checkpoint: Path) -> YOLO:
    """Return a stock model with the weights of a model with branches."""
    facade = YOLO(checkpoint)
    trained = facade.model
    cfg = {key: value for key, value in deepcopy(trained.yaml).items() if key != "uncertainty"}
    cfg["head"][-1][2] = HEADS[cfg["head"][-1][2]]
    facade.model = build_model(cfg, facade.task, cfg["channels"], len(trained.names))
    facade.model.load(trained, verbose=False)
    facade.model.names = trained.names
    return facade


def predictor(facade: YOLO, image: Path, **options: Any) -> Any:
    """Return the predictor of a model, ready to predict with these options."""
    facade.predict(str(image), save=False, **options)
    return facade.predictor


def detect(predictor: Any, x: torch.Tensor) -> Any:
    """Return the detections of one image."""
    return detections(predictor, predictor.inference(x))


def detections(predictor: Any, output: Any) -> Any:
    """Return the detections in the network's output for one image."""
    y = output[0] if isinstance(output, (list, tuple)) else output
    return postprocess(y, predictor.schema, predictor.args)[0]


def together(first: Any, found: list[Any]) -> Array:
    """Return the spread of the passes around the detections of the first one."""
    boxes, cls = first.boxes.numpy(), first.cls.numpy()
    return spread([pair(boxes, cls, other.boxes.numpy(), other.cls.numpy()) for other in found])


def in_turns(works: dict[str, Work], images: list[Path], imgsz: int) -> dict[str, list[float]]:
    """Return the seconds of every work on every image; all do an image, in random order, before the next one comes."""
    order = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in works}
    letterbox = LetterBox((imgsz, imgsz), auto=True)
    with torch.inference_mode():
        for turn, file in enumerate([*images[:WARM_UP], *images * ROUNDS]):
            pixels = letterbox(image=cv2.imread(str(file)))[..., ::-1].transpose(2, 0, 1)
            x = torch.from_numpy(np.ascontiguousarray(pixels))[None] / 255
            for name in order.permutation(list(works)):  # what comes first finds the caches cold
                start = time.perf_counter()
                works[name](x)
                if turn >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    return times
