"""Data sets in DOTA's format: scenes cut into tiles for training; results of whole scenes are those of ``scenes``.

>>> from yolo_uncert.dota import prepare_dota
>>> prepared = prepare_dota("DOTA", "DOTA-tiles", tile=1024, overlap=200, scales=[0.5, 1.0])  # doctest: +SKIP
>>> YOLO("yolo11n-obb-uncert.yaml").train(data=prepared.data)  # doctest: +SKIP
"""

from __future__ import annotations

from yolo_uncert.dota.prepare import PreparedDota, prepare_dota
from yolo_uncert.dota.sources import DOTA_CLASSES

__all__ = ["DOTA_CLASSES", "PreparedDota", "prepare_dota"]
