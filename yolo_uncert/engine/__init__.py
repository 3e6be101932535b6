"""Thin shells over the engine of Ultralytics."""
