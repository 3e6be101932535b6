"""A small data set in DOTA's layout, with numbers that are easy to follow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_uncert.evaluation import corners

HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"


def scene_objects(seed: int, size: tuple[int, int], count: int) -> np.ndarray:
    """Oriented boxes ``Array[count, 5]`` all over a scene."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(20, np.array(size) - 20, (count, 2))
    return np.column_stack((centres, rng.uniform(10, 36, (count, 2)), rng.uniform(-2, 2, count)))


class DotaFolder:
    """Writes scenes and label files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def image(self, split: str, name: str, size: tuple[int, int], suffix: str = "png", seed: int = 0) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
        file = self.root / split / "images" / f"{name}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), pixels)
        return file

    def labels(self, split: str, name: str, lines: list[str]) -> Path:
        file = self.root / split / "labelTxt" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEADER + "".join(f"{line}\n" for line in lines))
        return file

    def scene(self, split: str, name: str, size: tuple[int, int], lines: list[str]) -> None:
        self.image(split, name, size)
        self.labels(split, name, lines)


@pytest.fixture
def dota(tmp_path) -> DotaFolder:
    return DotaFolder(tmp_path / "DOTA")


@pytest.fixture
def filled(dota) -> DotaFolder:
    """Two scenes to train on, one to validate, one to test, with objects of two classes, each seventh difficult."""
    for seed, (split, name, size) in enumerate(
        [("train", "P0001", (300, 220)), ("train", "P0002", (90, 70)), ("val", "P0003", (250, 130))]
    ):
        quads = corners(scene_objects(seed, size, 30)).reshape(-1, 8)
        lines = [
            f"{' '.join(f'{value:.3f}' for value in quad)} {('plane', 'small-vehicle')[i % 2]} {int(i % 7 == 0)}"
            for i, quad in enumerate(quads)
        ]
        dota.scene(split, name, size, lines)
    dota.image("test", "P0004", (130, 100))
    return dota
