"""Objects that move across an image, with known paths, and detections of them with known noise.

Nothing is painted: a sequence is what a detector would hand to a tracker. Shape shorthand: T frames, K objects, N
detections of one frame; boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

NOISES = ("varies", "fixed", "relative")


@dataclass(frozen=True)
class MotionSpec:
    """What happens in a sequence.

    Attributes:
        frames: Number of frames T.
        objects: Number of objects K; half of them are there from the start.
        size: Width and height of the image in pixels.
        height: Smallest and largest height of an object in pixels, log-uniform.
        speed: Smallest and largest speed in pixels per frame, log-uniform.
        turns: Probability per frame that an object heads for another direction.
        jerk: Standard deviation of the change of velocity per frame, pixels per frame.
        noise: ``varies``: every detection has its own standard deviation, 1 to 12 px log-uniform, up to three times as
            large for hidden objects, and at most a quarter of the object. ``fixed``: that of ``sigma`` for all.
            ``relative``: that which Ultralytics' filter assumes, by which the centre has h / 20.
        sigma: Standard deviation of ``fixed`` in pixels.
        missed: Probability that a visible object is not detected.
        false: Expected number of detections per frame that show nothing.
    """

    frames: int = 200
    objects: int = 40
    size: tuple[int, int] = (1280, 720)
    height: tuple[float, float] = (24.0, 120.0)
    speed: tuple[float, float] = (0.5, 6.0)
    turns: float = 1 / 60
    jerk: float = 0.05
    noise: str = "varies"
    sigma: float = 3.0
    missed: float = 0.05
    false: float = 0.6

    def __post_init__(self) -> None:
        """Check the name of the noise."""
        if self.noise not in NOISES:
            raise ValueError(f"noise is {self.noise!r}, allowed: {', '.join(NOISES)}")


@dataclass(frozen=True)
class Detected:
    """Detections of one frame.

    Attributes:
        boxes: Array[N, 4].
        std: Standard deviations of ``boxes``, Array[N, 4] in pixels.
        score: Array[N] in (0, 1); lower for uncertain and for hidden objects.
        index: Object that each detection shows, Array[N]; -1: none.
    """

    boxes: Floats
    std: Floats
    score: Floats
    index: npt.NDArray[np.integer]


@dataclass(frozen=True)
class Sequence:
    """Truth and detections.

    Attributes:
        truth: Boxes Array[T, K, 4].
        present: Whether an object is in the scene, Array[T, K].
        frames: Detections of each frame.
    """

    truth: Floats
    present: npt.NDArray[np.bool_]
    frames: list[Detected]


def make_sequence(spec: MotionSpec, seed: int) -> Sequence:
    """Make a sequence; the same specification and seed give the same one."""
    rng = np.random.default_rng(seed)
    truth = _paths(spec, rng)
    start = rng.integers(0, spec.frames // 2, spec.objects) * (rng.random(spec.objects) < 0.5)
    end = start + rng.integers(spec.frames // 4, spec.frames, spec.objects)
    time = np.arange(spec.frames)[:, None]
    present = (time >= start) & (time < end)
    frames = [_detect(spec, boxes, np.flatnonzero(there), rng) for boxes, there in zip(truth, present, strict=True)]
    return Sequence(truth, present, frames)


def hidden(boxes: Floats) -> Floats:
    """Return the share of each box that the one nearer object covers which hides most of it, Array[N] in [0, 1].

    Of two objects that one is nearer whose lower edge is lower in the image.
    """
    corner, opposite = boxes[:, None, :2], boxes[:, None, 2:]
    overlap = np.minimum(opposite, boxes[:, 2:]) - np.maximum(corner, boxes[:, :2])
    share = overlap.clip(0).prod(-1) / (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    return np.where(nearer, share, 0).max(1, initial=0)


def _paths(spec: MotionSpec, rng: np.random.Generator) -> Floats:
    """Return boxes Array[T, K, 4] of objects that steer towards a direction, which changes at times."""
    count = spec.objects
    height = _log_uniform(rng, spec.height, count)
    aspect = rng.uniform(0.5, 1.6, count)
    position = rng.uniform((0, 0), spec.size, (count, 2))
    speed = _log_uniform(rng, spec.speed, count)[:, None]
    velocity = speed * _directions(rng, count)
    aim, growth = velocity.copy(), np.zeros(count)
    boxes = np.empty((spec.frames, count, 4))
    for t in range(spec.frames):
        turning = (rng.random(count) < spec.turns)[:, None]
        aim = np.where(turning, speed * _directions(rng, count), aim)
        velocity = velocity + 0.15 * (aim - velocity) + spec.jerk * rng.normal(size=(count, 2))
        position = position + velocity
        inward = np.where(position < 0, 1, np.where(position > spec.size, -1, 0))
        velocity = np.where(inward, inward * abs(velocity), velocity)
        aim = np.where(inward, inward * abs(aim), aim)
        growth = 0.9 * growth + 0.002 * rng.normal(size=count)
        height = (height * np.exp(growth)).clip(spec.height[0] * 0.8, spec.height[1] * 1.2)
        half = np.stack((aspect * height, height), 1) / 2
        boxes[t] = np.concatenate((position - half, position + half), 1)
    return boxes


def _detect(spec: MotionSpec, truth: Floats, there: npt.NDArray[np.integer], rng: np.random.Generator) -> Detected:
    """Return detections of the objects that are there, and some of nothing."""
    exact = truth[there]
    share = hidden(exact)
    std = _std(spec, exact, share, rng)
    boxes = exact + std * rng.normal(size=exact.shape)
    side = np.sqrt((exact[:, 2:] - exact[:, :2]).prod(1))
    score = 0.9 - 1.2 * std.mean(1) / side - 0.4 * share + 0.08 * rng.normal(size=len(exact))
    missed = rng.random(len(exact)) < np.where(share > 0.5, 0.85, spec.missed)
    seen = ~missed & (boxes[:, 2:] - boxes[:, :2] > 2).all(1)

    count = rng.poisson(spec.false)
    half = _log_uniform(rng, spec.height, (count, 2)) / 2
    centre = rng.uniform((0, 0), spec.size, (count, 2))
    nothing = np.concatenate((centre - half, centre + half), 1)
    return Detected(
        np.concatenate((boxes[seen], nothing)),
        np.concatenate((std[seen], _std(spec, nothing, np.zeros(count), rng))),
        np.concatenate((score[seen].clip(0.11, 0.98), rng.uniform(0.1, 0.6, count))),
        np.concatenate((there[seen], np.full(count, -1))),
    )


def _std(spec: MotionSpec, boxes: Floats, share: Floats, rng: np.random.Generator) -> Floats:
    """Return standard deviations Array[N, 4] for true boxes, of which a share is hidden."""
    size = boxes[:, 2:] - boxes[:, :2]
    if spec.noise == "fixed":
        return np.full(boxes.shape, spec.sigma)
    if spec.noise == "relative":
        return np.tile(size[:, 1:] * np.sqrt(2) / 20, 4)  # var(x) is half that of a side
    level = _log_uniform(rng, (1.0, 12.0), len(boxes))[:, None] * _log_uniform(rng, (0.7, 1.4), boxes.shape)
    largest = np.sqrt(size.prod(1, keepdims=True)) / 4
    return np.minimum(level * (1 + 2 * share[:, None]), largest)


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], shape: int | tuple[int, ...]) -> Floats:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), shape))


def _directions(rng: np.random.Generator, count: int) -> Floats:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack((np.cos(angle), np.sin(angle)), 1)
