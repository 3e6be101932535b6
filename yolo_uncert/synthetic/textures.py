"""Procedural backgrounds and object patterns: smooth noise, colour ramps, stripes, rings."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def fractal_noise(rng: np.random.Generator, side: int, cells: tuple[int, int] = (3, 3), octaves: int = 5) -> Field:
    """Sum of smooth random fields, each with twice the frequency and half the amplitude of the one before.

    Args:
        rng: Source of randomness.
        side: Side of the square field, pixels.
        cells: Random cells of the first octave per column and row, at least 1; unequal numbers give a grain.
        octaves: Number of fields, at least 1.

    Returns:
        `float32[side, side]` with minimum 0 and maximum 1.
    """
    field = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        shape = [min(n << octave, side) + 1 for n in cells]
        grid = rng.random(shape, np.float32)
        field += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    return cv2.normalize(field, None, 0, 1, cv2.NORM_MINMAX)


def _clouds(rng: np.random.Generator, side: int) -> Field:
    return fractal_noise(rng, side, (int(rng.integers(2, 5)),) * 2, 6)


def _brushed(rng: np.random.Generator, side: int) -> Field:
    field = fractal_noise(rng, side, (int(rng.integers(16, 40)), 2), 3)
    return np.ascontiguousarray(field.T) if rng.random() < 0.5 else field


def _dunes(rng: np.random.Generator, side: int) -> Field:
    angle = rng.uniform(0, math.pi)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    phase = x * math.cos(angle) + y * math.sin(angle) + 0.35 * fractal_noise(rng, side, (2, 2), 4)
    waves = 0.5 + 0.5 * np.sin(phase * np.float32(rng.uniform(20, 50)))
    return 0.65 * waves + 0.35 * fractal_noise(rng, side, (8, 8), 4)


def _terraces(rng: np.random.Generator, side: int) -> Field:
    levels = int(rng.integers(4, 8))
    steps = np.floor(fractal_noise(rng, side, (3, 3), 4) * levels) / levels
    return 0.8 * steps + 0.2 * fractal_noise(rng, side, (12, 12), 3)


BACKGROUNDS: tuple[Callable[[np.random.Generator, int], Field], ...] = (_clouds, _brushed, _dunes, _terraces)


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Field:
    """Colour of random hue.

    Args:
        rng: Source of randomness.
        saturation: Range of the HSV saturation, within [0, 1].
        value: Range of the HSV value, within [0, 1].

    Returns:
        `float32[3]`, BGR in [0, 255].
    """
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * np.float32(255)


def background(rng: np.random.Generator, side: int) -> Field:
    """Muted two-colour texture under uneven light, with speckle.

    Args:
        rng: Source of randomness.
        side: Side of the square image, pixels.

    Returns:
        `float32[side, side, 3]`, BGR on the scale of [0, 255]; speckle may leave that range.
    """
    field = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, side)
    dark = random_colour(rng, (0.1, 0.5), (0.15, 0.4))
    light = random_colour(rng, (0.05, 0.45), (0.45, 0.8))
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    speckle = rng.standard_normal((side, side), np.float32) * np.float32(rng.uniform(0.01, 0.045))
    shade = 1 + slope_x * ramp[None, :] + slope_y * ramp[:, None] + speckle
    return cv2.merge([(low + field * (high - low)) * shade for low, high in zip(dark, light, strict=True)])


def rings(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Concentric ellipses around a hub, the outermost in the first colour.

    Args:
        rng: Source of randomness.
        u: Position along the object, -1 to 1 inside its box.
        v: Position across the object, -1 to 1 inside its box.

    Returns:
        Mixing weight of the second colour in [0, 1], shape of ``u``.
    """
    # An odd number of half waves ends with the first colour at the rim.
    half_waves = 2 * rng.integers(1, 3) + 1
    return 0.5 + 0.5 * np.cos(np.float32(np.pi * half_waves) * cv2.magnitude(u, v))


def lattice(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Stripes or checks inside a frame of the first colour; arguments and result as in `rings`."""
    across = np.sin(np.float32(np.pi * rng.integers(2, 5)) * (u + 1))
    if rng.random() < 0.5:
        across = across * np.sin(np.float32(np.pi * rng.integers(1, 3)) * (v + 1))
    across[np.maximum(np.abs(u), np.abs(v)) > 0.86] = -1
    return np.clip(0.5 + 2 * across, 0, 1).astype(np.float32, copy=False)


def chevrons(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """V-shaped bands that point along the object, fading to its tip; arguments and result as in `rings`."""
    bands = np.sin(np.float32(np.pi * rng.uniform(2.5, 4.5)) * (u + 0.6 * np.abs(v)))
    return np.clip(0.5 + 1.5 * bands, 0, 1) * np.clip(0.55 - 0.45 * u, 0, 1)
