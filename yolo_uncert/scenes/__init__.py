"""Scenes that are too large for one image: read, detected and merged by tiles, written for GIS."""

from __future__ import annotations

from yolo_uncert.scenes.detect import detect_scene
from yolo_uncert.scenes.images import SceneError
from yolo_uncert.scenes.raster import Georeference
from yolo_uncert.scenes.result import SceneResult
from yolo_uncert.scenes.several import detect_scenes

__all__ = ["Georeference", "SceneError", "SceneResult", "detect_scene", "detect_scenes"]
