"""Operators on boxes: overlap, suppression and voting; imports no Ultralytics."""
