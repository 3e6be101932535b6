"""Synthetic scenes with known label noise, the only data on which a predicted sigma meets the true one."""

from yolo_uncert.synthetic.dataset import load_truth, make_dataset
from yolo_uncert.synthetic.scene import Scene, SceneObject, render_scene
from yolo_uncert.synthetic.score import NoiseScore
from yolo_uncert.synthetic.spec import SceneSpec

__all__ = ["NoiseScore", "Scene", "SceneObject", "SceneSpec", "load_truth", "make_dataset", "render_scene"]
