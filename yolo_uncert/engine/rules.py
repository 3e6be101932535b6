"""What a model can do under the options of a run: where sigma comes from, what is suppressed and voted, and by what."""

from __future__ import annotations

from types import SimpleNamespace

from ultralytics.utils import LOGGER

from yolo_uncert.ops import Suppression
from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema


def pick_source(names: tuple[str, ...], wanted: str | None) -> str:
    """Return which field the standard deviations come from: ``gaussian``, ``dfl`` or ``none``.

    Raises:
        OptionError: The model does not have the field asked for.
    """
    available = [name for name in ("gaussian", "dfl") if name in names]
    if wanted is None:
        return available[0] if available else "none"
    if wanted != "none" and wanted not in available:
        raise OptionError(
            f"sigma_source={wanted}: this model has no such branch. It has: {', '.join(available) or 'none'}"
        )
    return wanted


def sigma_prefixes(schema: Schema, sigma_source: str | None) -> tuple[str, ...]:
    """Return the prefixes of the results that a model provides: ``""`` for the box, ``angle_`` for a predicted angle.

    Raises:
        OptionError: The model does not have the field asked for.
    """
    source = pick_source(schema.names, sigma_source)
    if source == "none":
        return ()
    return ("", "angle_") if schema.task == "obb" and source == "gaussian" else ("",)


def check_rules(schema: Schema, args: SimpleNamespace, *, end2end: bool = False) -> None:
    """Look at the options before the first image: what is impossible is an error, what has no effect a warning.

    Args:
        schema: Order of the extra channels.
        args: Run options.
        end2end: The head selects its detections itself.

    Raises:
        OptionError: An option asks for what this model does not predict.
    """
    check_fusion(schema.names, args)
    options = suppression_of(args, schema)
    source = pick_source(schema.names, args.sigma_source)
    if args.pdq and (schema.task != "detect" or source == "none"):
        raise OptionError("pdq=True needs horizontal boxes with standard deviations, which this model has not")
    if end2end and (options.method != "hard" or options.vote != "off"):
        LOGGER.warning("this end-to-end head selects its boxes itself: suppress and var_vote have no effect")


def suppression_of(args: SimpleNamespace, schema: Schema) -> Suppression:
    """Translate the run options for `yolo_uncert.ops`.

    Args:
        args: Run options.
        schema: Order of the extra channels.

    Raises:
        OptionError: ``suppress=iou-guided`` without an IoU-aware branch, ``vote_weight=bayes`` without sigma.
    """
    if args.suppress == "iou-guided" and "iou_aware" not in schema.names:
        raise OptionError("suppress=iou-guided ranks by the predicted IoU, and this model has no iou_aware branch")
    bayes = args.vote_weight == "bayes"
    if args.var_vote and bayes and pick_source(schema.names, args.sigma_source) == "none":
        raise OptionError("vote_weight=bayes multiplies Gaussians: this model has no sigma, or sigma_source=none")
    return Suppression(
        method=args.suppress,
        sigma=float(args.soft_sigma),
        iou_threshold=float(args.iou),
        score_threshold=float(args.conf or 0.0),
        max_det=args.max_det,
        max_nms=args.max_nms,
        agnostic=bool(args.agnostic_nms),
        vote=("bayes" if bayes else "var") if args.var_vote else "off",
        vote_sigma=float(args.vote_sigma),
        vote_iou=float(args.vote_iou),
        vote_pool=args.vote_pool,
        vote_share=float(args.vote_share),
        vote_weight="variance" if bayes else args.vote_weight,
        merge=args.vote_merge,
    )


def check_fusion(names: tuple[str, ...], args: SimpleNamespace) -> None:
    """Refuse a score fusion that needs standard deviations where there are none.

    Raises:
        OptionError: The model has no such branch, or ``sigma_source=none``.
    """
    if args.score_fusion in ("gaussian", "both") and pick_source(names, args.sigma_source) == "none":
        raise OptionError(
            f"score_fusion={args.score_fusion} needs standard deviations: this model has none, or sigma_source=none"
        )
