"""What is compared: the statistics of models and settings on the same draws of images, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo_uncert.engine.bootstrap import resample, score_statistics, sigma_statistics
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.options import OptionError

Floats = npt.NDArray[np.floating]

LEVEL = 0.95
"""Share of the draws that the intervals hold."""


@dataclass(frozen=True)
class Interval:
    """A statistic of the data set, and between which values it lies on resampled images."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Floats) -> Interval:
        """Return the interval of Array[samples + 1], the data set itself first.

        The spread of the draws around their mean, moved to the value: draws repeat images, which biases statistics such
        as the calibration error upwards.
        """
        value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
        if not len(rest) or not np.isfinite(value):
            return cls(float(value), math.nan, math.nan)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(rest, (tail, 1 - tail)) - rest.mean() + value
        return cls(float(value), float(low), float(high))

    @property
    def significant(self) -> bool:
        """Whether a difference of 0 lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Variant:
    """One model under one setting.

    Attributes:
        name: What tells it from the others.
        results: Its statistics by name.
        gains: Their differences to the first variant on the same images; empty for the first.
    """

    name: str
    results: dict[str, Interval]
    gains: dict[str, Interval]


def variants_of(runs: Sequence[tuple[str, Matches, Scored]], samples: int) -> list[Variant]:
    """Compute the statistics of all runs on the same draws of images."""
    order = sorted(runs[0][1].files)
    counts = resample(len(order), samples)
    draws = []
    for name, matches, scored in runs:
        if sorted(matches.files) != order:
            raise OptionError(f"{name} was validated on other images than {runs[0][0]}")
        mine = counts[:, np.argsort(np.argsort(matches.files))]
        draws.append({**score_statistics(scored, mine), **sigma_statistics(matches, mine)})
    first = draws[0]
    return [
        Variant(
            name,
            {key: Interval.of(values) for key, values in mine.items()},
            {key: Interval.of(values - first[key]) for key, values in mine.items()} if mine is not first else {},
        )
        for (name, *_), mine in zip(runs, draws, strict=True)
    ]
