"""The demonstration: a look at a trained model, then train a small one and show what its standard deviations mean."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import cv2
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import LOGGER
from ultralytics.utils.files import increment_path

from yolo_uncert.data import resolve_data
from yolo_uncert.engine.figures import contact_sheet, enlarge, noise_plot
from yolo_uncert.engine.options import split_options
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.model import YOLO
from yolo_uncert.modes import DEMO_TRAINING, PLACES
from yolo_uncert.options import OptionError
from yolo_uncert.synthetic import NoiseScore, SceneObject, SceneSpec, load_truth, make_dataset

TRAINED = "uncert-synthetic-obb-n.pt"
"""Shipped model for the first look, trained on oriented scenes of the same kind."""

SCENES = 480
MOST_VALIDATED = 300
MODELS = {"detect": "yolov8n-light.yaml", "obb": "yolov8n-obb-light.yaml"}
"""Trained for minutes from random weights, features know blur sooner if they learn for sigma too (docs/measured.md)."""
PICTURES = 6
"""Images on the contact sheet."""

SHOWN_SIDE = 480
"""Pixels of the longer side up to which small images are enlarged on the contact sheet."""


def demo(
    data: str | None = None,
    task: str = "detect",
    out: str = "runs/demo",
    scenes: int = SCENES,
    seed: int = 0,
    **options: Any,
) -> dict[str, float]:
    """Show what a trained model sees, then train, validate and predict, print a table and leave pictures and curves.

    Args:
        data: Data yaml of the user; by default scenes are generated whose label noise is known.
        task: ``detect`` or ``obb``.
        out: Folder for the data, the run and the pictures; with data of the user a new one in it for each run.
        scenes: Scenes to train on, at least 4; a quarter as many, 300 at most, are validated.
        seed: Seed of scenes and training.
        options: Training options in place of the demo's, such as ``epochs`` or ``model``. ``epochs=0``: only the first
            look, which takes seconds.

    Returns:
        The numbers of the table; none without training.

    Raises:
        OptionError: The task is unknown, there are too few scenes, an option says where files go, or data are given
            and no epochs.
    """
    if task not in MODELS:
        raise OptionError(f"task is {task!r}. Allowed: {', '.join(MODELS)}")
    if not isinstance(scenes, int) or scenes < 4:
        raise OptionError(f"scenes must be a whole number of at least 4, not {scenes!r}")
    if given := [name for name in PLACES if name in options]:
        raise OptionError(f"demo: {given[0]} has no effect here, out= says where files go")
    folder = Path(out).resolve() / task
    if data is not None:  # trained on it, a model is worth keeping
        folder = increment_path(folder.with_name(f"{task}-{Path(data).stem}"))
    settings = {**DEMO_TRAINING, "seed": seed, **options}
    known = data is None
    if known:
        first_look(folder, seed, settings.get("device"))
    elif settings["epochs"] == 0:
        raise OptionError("epochs=0 is the first look alone, which is one at generated scenes: leave out data=")
    if settings["epochs"] == 0:
        return {}
    if data is None:
        data = _write_scenes(folder / "scenes", task, scenes, settings["imgsz"], seed)
    else:
        data = resolve_data(data, settings.get("data_root"))
    model = YOLO(settings.pop("model", MODELS[task]))
    model.train(data=data, project=str(folder), name="train", exist_ok=True, **settings)
    shared = {"imgsz": settings["imgsz"], "device": settings.get("device"), **split_options(settings)[1]}
    metrics = model.val(data=data, project=str(folder), name="val", exist_ok=True, **shared)
    table = {"AP50": metrics.box.map50, "AP75": metrics.box.map75, "AP50-95": metrics.box.map}
    results = _predict(model, data, None if known else PICTURES, shared)
    cv2.imwrite(str(folder / "predictions.jpg"), _pictures(results[:PICTURES]))
    if known and _detections(results[0]).std is not None:
        table |= _compare(results, folder)
    _print(table, folder, _enlargement(results[0]) if results else 1)
    return table


def first_look(folder: Path, seed: int, device: Any = None) -> list[UncertResults]:
    """Draw what a shipped model sees in new scenes, ``first-look.jpg``.

    Args:
        folder: For scenes and picture.
        seed: Seed of the scenes.
        device: As for predict.

    Returns:
        The results.
    """
    spec = SceneSpec(imgsz=DEMO_TRAINING["imgsz"])
    # Other scenes than those that the model was trained on, which began at seed 0.
    data = make_dataset(folder / "first-look", "obb", {"val": PICTURES}, spec, seed=seed + 10_000, overwrite=True)
    source = data.parent / "images" / "val"
    results = list(YOLO(TRAINED).predict(source, stream=True, verbose=False, imgsz=spec.imgsz, device=device))
    picture = folder / "first-look.jpg"
    cv2.imwrite(str(picture), _pictures(results))
    LOGGER.info(f"First look: what a trained model ({TRAINED}) sees in new scenes, with its bands: {picture}")
    return results


def _write_scenes(folder: Path, task: str, count: int, imgsz: int, seed: int) -> str:
    """Generate the scenes and return their data yaml."""
    counts = {"train": count, "val": min(count // 4, MOST_VALIDATED)}
    data = make_dataset(folder, task, counts, SceneSpec(imgsz=imgsz), seed=seed, overwrite=True)  # type: ignore[arg-type]
    LOGGER.info(f"Wrote {sum(counts.values())} scenes with known label noise to {folder}")
    return str(data)


def _compare(results: list[UncertResults], folder: Path) -> dict[str, float]:
    """Plot predicted sigma against the known noise, and return the rank correlations."""
    score = _score(results, load_truth(folder / "scenes", "val"))
    noise_plot(score.known, score.predicted, score.size, folder / "sigma.png")
    table = {"sigma / known noise": score.correlation()}
    table |= {f"  {name} objects": value for name, value in score.correlation_by_size().items()}
    if (angle := score.angle_correlation()) is not None:
        table |= {"angle sigma / known noise": angle}
    return table


def _predict(model: YOLO, data: str, limit: int | None, options: dict[str, Any]) -> list[UncertResults]:
    """Predict the validation images one by one, the first ones only if there is a limit."""
    source = check_det_dataset(data, autodownload=False)["val"]
    return list(islice(model.predict(source, stream=True, verbose=False, **options), limit))


def _pictures(results: list[UncertResults]) -> Any:
    """Return a contact sheet, small images enlarged so that the bands can be seen."""
    return contact_sheet([enlarge(r, _enlargement(r)).plot() for r in results])


def _enlargement(result: UncertResults) -> int:
    return max(1, SHOWN_SIDE // max(result.orig_shape))


def _score(results: list[UncertResults], truth: dict[str, list[SceneObject]]) -> NoiseScore:
    """Match predictions to the true objects of their image."""
    score = NoiseScore()
    for result in results:
        found = _detections(result)
        if result.obb is None:
            boxes, std = found.xyxy, found.std
        else:
            boxes, std = found.xywhr, found.fields["sides"][:, :5]
        score.add(boxes, found.cls, std, truth[Path(result.path).name])
    return score


def _detections(result: UncertResults) -> Any:
    return result.boxes if result.obb is None else result.obb


def _print(table: dict[str, float], folder: Path, enlargement: int) -> None:
    """Print the table and where the pictures are, and how much the first of them is enlarged."""
    width = max(map(len, table)) + 2
    lines = [f"  {name:<{width}}{value:6.3f}" for name, value in table.items()]
    LOGGER.info("\n" + "\n".join(lines))
    larger = f", enlarged {enlargement} times and the printed sigma with them" if enlargement > 1 else ""
    LOGGER.info(f"\nPictures and curves: {folder}")
    if (folder / "first-look.jpg").is_file():
        LOGGER.info("  first-look.jpg    what a model that was trained for longer sees in scenes of this kind")
    LOGGER.info(f"  predictions.jpg   boxes with their sigma bands{larger}")
    if "sigma / known noise" in table:
        LOGGER.info("  sigma.png         predicted sigma against the known label noise, object by object")
    if (folder / "val" / "report.html").is_file():
        LOGGER.info("  val/report.html   is sigma true? coverage, calibration, best and worst boxes")
    LOGGER.info("  train/            losses and metrics by epoch (results.png, results.csv), weights")
