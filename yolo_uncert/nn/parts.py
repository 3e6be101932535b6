"""What the stock head computes for the branches: everywhere, or at the anchors alone that can become detections."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from yolo_uncert.nn.branches.base import Features
from yolo_uncert.nn.places import local, look

CROWD = 8
"""With more than one anchor in so many to look at, the head runs everywhere. A border branch has a limit of its own."""


@dataclass(frozen=True)
class Part:
    """A stock head that has run, at all anchors of a batch or at some of one image.

    Some anchors of a level are a map of height 1 to whatever reads them.

    Attributes:
        maps: Tensor[B, C, H, W] feature maps that the head is given, per level.
        classes: Tensor[B, nc, H, W] or Tensor[1, nc, 1, N] class logits per level.
        features: What the branches read.
        index: Tensor[N] of the anchors among those of all levels; None where it is all.
    """

    maps: list[torch.Tensor]
    classes: list[torch.Tensor]
    features: Features
    index: torch.Tensor | None = None


def everywhere(maps: list[torch.Tensor], class_head: Any, heads: tuple[Any, Any]) -> Part:
    """Run a stock head: box branch, angle branch (None where boxes are horizontal) and then class branch.

    In this order the gradients of the maps add up bit for bit as those of a stock model do.
    """
    box, angle = (_levels(head, maps) if head is not None else ([], []) for head in heads)
    classes = [level(f) for level, f in zip(class_head, maps, strict=True)]
    return Part(maps, classes, Features(*box, *angle))


def by_image(
    maps: list[torch.Tensor],
    classes: list[torch.Tensor],
    heads: tuple[Any, Any],
    places: list[list[torch.Tensor]],
    *,
    around: bool = False,
) -> list[Part | None]:
    """Run box and angle branch of a stock head at some places of each image.

    Args:
        maps: Tensor[B, C, H, W] feature maps.
        classes: Tensor[B, nc, H, W] class logits.
        heads: Box branch, and angle branch or None.
        places: Those of :func:`chosen`.
        around: Whether a branch reads the features next to the anchors.

    Returns:
        A part per image, None for one without a place.
    """
    parts: list[Part | None] = []
    for image, own in enumerate(places):
        f, c = ([level[image : image + 1] for level in levels] for levels in (maps, classes))
        parts.append(_at_places(f, c, heads, own, around) if any(map(len, own)) else None)
    return parts


def chosen(classes: list[torch.Tensor], least: float, most: int) -> list[list[torch.Tensor]] | None:
    """Return the places whose best class score may exceed a bound, Tensor[N] by image and level.

    Args:
        classes: Tensor[B, nc, H, W] class logits per level.
        least: The bound, a probability. A logit that is no number counts as above it, so that it is noticed later.
        most: Places of an image, at most; if one has more there is no answer.
    """
    useless = [level.amax(1).flatten(1).sigmoid() <= least for level in classes]
    places = [[(~level[image]).nonzero()[:, 0] for level in useless] for image in range(len(classes[0]))]
    return places if all(sum(map(len, own)) <= most for own in places) else None


def can_be_local(maps: list[torch.Tensor], heads: tuple[Any, Any]) -> bool:
    """Return whether a stock head can run at some places alone.

    A GPU would have to wait for their number, and a traced file has to have one. Who asks for gradients
    (``visualize=True`` does) reads the raw predictions of all anchors.
    """
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    plain = maps[0].device.type == "cpu" and maps[0].dtype == torch.float32
    return (
        plain
        and not traced
        and not torch.is_grad_enabled()
        and all(local(level) for head in heads if head is not None for level in head)
    )


def _levels(head: Any, maps: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return per level the features before the last layer of a stock branch, and its output."""
    hidden = []
    for level, features in zip(head, maps, strict=True):
        for layer in list(level)[:-1]:
            features = layer(features)
        hidden.append(features)
    return hidden, [level[-1](h) for level, h in zip(head, hidden, strict=True)]


def _at_places(
    maps: list[torch.Tensor],
    classes: list[torch.Tensor],
    heads: tuple[Any, Any],
    places: list[torch.Tensor],
    around: bool,
) -> Part:
    """Run the branches of a stock head at places of one image."""
    boxes = [look(level, f, own, around=around) for level, f, own in zip(heads[0], maps, places, strict=True)]
    angles = [look(level, f, own) for level, f, own in zip(heads[1] or (), maps, places, strict=False)]
    features = Features(
        [part.hidden for part in boxes],
        [part.out for part in boxes],
        [part.hidden for part in angles],
        [part.out for part in angles],
        [part.around for part in boxes if part.around is not None],
    )
    # What is 0 where a level has no place stands at its first anchor, whose score counts as little as before.
    places = [own if len(own) else own.new_zeros(1) for own in places]
    scores = [level.flatten(2)[:, :, None, own] for level, own in zip(classes, places, strict=True)]
    starts = accumulate((level[0, 0].numel() for level in maps), initial=0)
    index = torch.cat([own + start for own, start in zip(places, starts, strict=False)])
    return Part(maps, scores, features, index)
