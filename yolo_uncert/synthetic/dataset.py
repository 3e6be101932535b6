"""Synthetic scenes on disk, in the layout Ultralytics trains on, with the truth beside the labels.

::

    root/data.yaml                  splits relative to this file, so that the folder can be moved
    root/images/<split>/000000.jpg
    root/labels/<split>/000000.txt  noisy labels: "cls cx cy w h" or "cls x1 y1 x2 y2 x3 y3 x4 y4", divided by imgsz
    root/truth/<split>.json         true boxes, label boxes and noise levels of every object
    root/spec.json                  what the dataset was made from
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import yaml

from yolo_uncert.synthetic.scene import Scene, SceneObject, render_scene
from yolo_uncert.synthetic.shapes import corners
from yolo_uncert.synthetic.spec import SceneSpec, Task, check_task

GENERATOR_VERSION = 1
"""Raised when the same options and seed would give other scenes than before."""

_JPEG_QUALITY = 95
_DEFAULT_COUNTS = MappingProxyType({"train": 200, "val": 80})
_BOX_FORMATS = {
    "detect": "[x1, y1, x2, y2] in pixels",
    "obb": "[cx, cy, w, h, angle] in pixels and radians, w along (cos angle, sin angle), y pointing down",
}
_TRUTH_FIELDS = {
    "cls": "class index",
    "true_box": "box before label noise",
    "label_box": "noisy box, the one in the label file",
    "sigma": "standard deviation of each side of label_box, in the frame of true_box, pixels",
    "sigma_angle": "standard deviation of the label angle, radians, 0 for detect",
}


def make_dataset(
    root: str | Path,
    task: Task = "detect",
    counts: Mapping[str, int] = _DEFAULT_COUNTS,
    spec: SceneSpec | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a dataset, or reuse the one that is there.

    A scene depends on the options, the seed, the split and its index only: larger counts add scenes and keep the ones
    before. The dataset appears under ``root`` when it is complete, never in part.

    Args:
        root: Folder to create. A dataset made from the same arguments is left as it is.
        task: "detect" or "obb".
        counts: Number of images per split, at least 1 each; "train" and "val" are needed for training.
        spec: Scene options, `SceneSpec()` by default.
        seed: Seed, not negative.
        overwrite: Make the dataset anew where one, the same or another, exists. Folders that are no dataset of this
            function are never replaced.

    Returns:
        Path of ``data.yaml``, to be handed to training.

    Raises:
        ValueError: If ``task`` is unknown, ``counts`` is empty or not positive, or ``seed`` is negative.
        FileExistsError: If ``root`` holds something else.
    """
    check_task(task)
    if not counts or min(counts.values()) < 1:
        raise ValueError(f"counts must name at least one split with at least one image, got {dict(counts)}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    root, spec = Path(root).resolve(), spec or SceneSpec()
    recipe = _recipe(task, counts, spec, seed)
    if not _must_build(root, recipe, overwrite):
        return root / "data.yaml"
    root.parent.mkdir(parents=True, exist_ok=True)
    # The temporary folder lies beside root: a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        fresh = Path(scratch) / "new"
        for split, count in counts.items():
            _write_split(fresh, split, count, recipe, spec)
        _write_description(fresh, counts, spec, recipe)
        if root.exists():
            root.rename(Path(scratch) / "old")
        fresh.rename(root)
    return root / "data.yaml"


def load_truth(root: str | Path, split: str) -> dict[str, list[SceneObject]]:
    """Read the truth of a split.

    Args:
        root: Dataset folder.
        split: Split name.

    Returns:
        Objects of every image in drawing order, by image file name.

    Raises:
        FileNotFoundError: If the dataset has no such split.
    """
    truth = json.loads((Path(root) / "truth" / f"{split}.json").read_text(encoding="utf-8"))
    return {name: [_object(entry) for entry in entries] for name, entries in truth["images"].items()}


def _object(entry: dict[str, Any]) -> SceneObject:
    boxes = {name: tuple(entry[name]) for name in ("true_box", "label_box")}
    return SceneObject(**{**entry, **boxes})


def _recipe(task: Task, counts: Mapping[str, int], spec: SceneSpec, seed: int) -> dict[str, Any]:
    recipe = {
        "generator": GENERATOR_VERSION,
        "task": task,
        "seed": seed,
        "counts": dict(counts),
        "spec": asdict(spec),
    }
    # A round trip through JSON turns tuples into lists, as in the file this is compared with.
    loaded: dict[str, Any] = json.loads(json.dumps(recipe))
    return loaded


def _must_build(root: Path, recipe: dict[str, Any], overwrite: bool) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return True
    described = root / "spec.json"
    found = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    if "generator" not in found:
        raise FileExistsError(f"{root} exists and is no synthetic dataset: choose another folder")
    if overwrite:
        return True
    if found != recipe:
        changed = sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key))
        raise FileExistsError(
            f"{root} holds a dataset with another {', '.join(changed)}: pass overwrite=True to replace it"
        )
    return False


def _write_split(root: Path, split: str, count: int, recipe: dict[str, Any], spec: SceneSpec) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    truth = {}
    for index in range(count):
        # crc32 gives a split the same number in every process, which hash() does not.
        rng = np.random.default_rng([recipe["seed"], zlib.crc32(split.encode()), index])
        scene = render_scene(rng, spec, recipe["task"])
        image = images / f"{index:06d}.jpg"
        if not cv2.imwrite(str(image), scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise OSError(f"cannot write {image}")
        (labels / f"{index:06d}.txt").write_text(_label_lines(scene, spec.imgsz), encoding="utf-8")
        truth[image.name] = [asdict(item) for item in scene.objects]
    (root / "truth").mkdir(exist_ok=True)
    contents = {"boxes": _BOX_FORMATS[recipe["task"]], "fields": _TRUTH_FIELDS, "images": truth}
    (root / "truth" / f"{split}.json").write_text(json.dumps(contents, indent=1), encoding="utf-8")


def _label_lines(scene: Scene, imgsz: int) -> str:
    lines = []
    for item in scene.objects:
        if len(item.label_box) == 5:
            values = corners(item.label_box).ravel()
        else:
            x1, y1, x2, y2 = item.label_box
            values = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        lines.append(" ".join([str(item.cls), *(f"{value:.6f}" for value in values / imgsz)]) + "\n")
    return "".join(lines)


def _write_description(root: Path, counts: Mapping[str, int], spec: SceneSpec, recipe: dict[str, Any]) -> None:
    data = {split: f"images/{split}" for split in counts} | {"names": dict(enumerate(spec.classes))}
    (root / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (root / "spec.json").write_text(json.dumps(recipe, indent=2), encoding="utf-8")
