"""Comparison of models and settings."""

from yolo_uncert.compare.run import compare

__all__ = ["compare"]
