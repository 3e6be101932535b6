"""The uncertainty branches and their registry; tests run over the registry, so a new branch is tested once listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_uncert.nn.branches.base import Branch, HeadSpec
from yolo_uncert.nn.branches.border import BorderBranch
from yolo_uncert.nn.branches.dfl import DFLBranch
from yolo_uncert.nn.branches.gaussian import GaussianBranch
from yolo_uncert.nn.branches.iou_aware import IoUAwareBranch
from yolo_uncert.nn.branches.kld import KLDBranch
from yolo_uncert.nn.branches.qfl import QFLBranch
from yolo_uncert.nn.branches.quality import QualityBranch
from yolo_uncert.options import OptionError, parse_options, suggest

BRANCHES: dict[str, type[Branch]] = {
    cls.name: cls
    for cls in (GaussianBranch, DFLBranch, QualityBranch, QFLBranch, IoUAwareBranch, KLDBranch, BorderBranch)
}


def build_branches(uncertainty: Mapping[str, Any], spec: HeadSpec, where: str = "uncertainty") -> list[Branch]:
    """Build the branches that a yaml's ``uncertainty:`` section asks for.

    Args:
        uncertainty: Branch name to options.
        spec: The head that the branches join.
        where: File and key for error messages.

    Raises:
        OptionError: A branch or option is unknown, ill-typed or does not fit the head.
    """
    check_uncertainty(uncertainty, where)
    branches: dict[str, Branch] = {}
    for name, cls in BRANCHES.items():
        if name in uncertainty:
            options = parse_options(cls.options_class, uncertainty[name], f"{where}.{name}")
            try:
                branches[name] = cls(options, spec)
            except OptionError as error:
                raise OptionError(f"{where}.{name}: {error}") from error
    for name, branch in branches.items():
        try:
            branch.join(branches)
        except OptionError as error:
            raise OptionError(f"{where}.{name}: {error}") from error
    return list(branches.values())


def check_detached(branches: list[Branch], where: str) -> None:
    """Raise OptionError if a branch changes the training of the detector by more than the features that it reads."""
    for branch in branches:
        if branch.teaches:
            raise OptionError(
                f"{where}.{branch.name}: detach: true leaves the training of the detector as it is, "
                f"and {branch.teaches} would change it; leave out one of the two"
            )


def check_uncertainty(uncertainty: Any, where: str) -> None:
    """Raise OptionError unless the section is a mapping of known branches to well-formed options."""
    if not isinstance(uncertainty, Mapping):
        raise OptionError(f"{where}: expected branches such as {{gaussian: {{}}}}, not {uncertainty!r}")
    for name, values in uncertainty.items():
        if name not in BRANCHES:
            raise OptionError(
                f"{where}: unknown branch {name!r}{suggest(name, BRANCHES)}. Allowed: {', '.join(BRANCHES)}"
            )
        parse_options(BRANCHES[name].options_class, values, f"{where}.{name}")
