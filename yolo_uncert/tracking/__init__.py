"""Trackers of Ultralytics that know how sure the detector is about each box."""
