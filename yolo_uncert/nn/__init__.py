"""Heads, their uncertainty branches, and the models built from yamls."""
