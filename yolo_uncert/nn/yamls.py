"""Model yamls: from a name or file to the resolved dict that a model is built from and that its checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ultralytics.utils import ROOT, YAML

from yolo_uncert.config import OptionError, suggest
from yolo_uncert.nn.branches import check_uncertainty
from yolo_uncert.paths import find_asset, split_scale

HEADS = {"UncertDetect": "Detect", "UncertOBB": "OBB", "UncertOBB26": "OBB26"}
"""Head rows of our yamls and the stock head that stands in for them while Ultralytics parses the rest."""

KEYS = ("base", "task", "uncertainty", "nc", "scale", "reg_max", "end2end")
"""Keys of a yaml with a base: the last four override those of the base."""


def load_model_yaml(name: str | Path) -> dict[str, Any]:
    """Read and resolve a model yaml of ours.

    Args:
        name: Path, or the name of a packaged yaml; a letter in the name (``yolo11n-uncert.yaml``) selects the scale.

    Returns:
        A full model dict: backbone, head with an ``Uncert...`` row, scale, and the ``uncertainty`` section. A stock
        yaml is returned with its scale and nothing added.

    Raises:
        FileNotFoundError: No such yaml, here or in Ultralytics.
        OptionError: The yaml has unknown keys, an impossible base, or a bad ``uncertainty`` section.
    """
    path = _find(name)
    _, scale = split_scale(Path(name).name)
    cfg = YAML.load(path)
    return resolve(cfg, scale or cfg.get("scale", ""), where=path.name)


def resolve(cfg: Mapping[str, Any], scale: str = "", where: str = "model yaml") -> dict[str, Any]:
    """Resolve a model dict: fetch its base, swap the head row and check the ``uncertainty`` section."""
    if "base" in cfg:
        full = _from_base(cfg, where)
    elif {"backbone", "head"} <= cfg.keys():
        full = deepcopy(dict(cfg))
    else:
        raise OptionError(f"{where}: a model yaml needs either base: or backbone: and head:")
    if "uncertainty" in full:
        check_uncertainty(full["uncertainty"], f"{where}: uncertainty")
        row = full["head"][-1]
        if row[2] in HEADS.values():
            row[2] = next(ours for ours, stock in HEADS.items() if stock == row[2])
        if row[2] not in HEADS:
            raise OptionError(f"{where}: uncertainty needs a head row {', '.join(HEADS)}, not {row[2]}")
    elif full["head"][-1][2] in HEADS:
        raise OptionError(f"{where}: a head {full['head'][-1][2]} needs an uncertainty: section")
    if scale:
        full["scale"] = scale
    return full


def has_uncertainty(cfg: Mapping[str, Any]) -> bool:
    """Return whether a resolved model dict is one of ours rather than a stock one."""
    return "uncertainty" in cfg


def _from_base(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the base's dict with our overrides and the head that the task asks for."""
    for key in cfg:
        if key not in KEYS:
            raise OptionError(
                f"{where}: unknown key {key!r}{suggest(key, dict.fromkeys(KEYS))}. Allowed: {', '.join(KEYS)}"
            )
    base = _find(cfg["base"])
    full = YAML.load(base)
    head = full["head"][-1][2]
    task = cfg.get("task") or ("obb" if head.startswith("OBB") else "detect")
    if task not in ("detect", "obb"):
        raise OptionError(f"{where}: task is {task!r}. Allowed: detect, obb")
    if head not in ("Detect", "OBB", "OBB26"):
        raise OptionError(f"{where}: base {cfg['base']} has a head {head}; only Detect and OBB heads carry branches")
    if task == "detect" and head != "Detect":
        raise OptionError(f"{where}: base {cfg['base']} is an OBB model; use its detect yaml as base, or task: obb")
    if task == "obb" and head == "Detect":
        _swap_to_obb(full)
    full.update({k: deepcopy(v) for k, v in cfg.items() if k not in ("base", "task")})
    return full


def _swap_to_obb(full: dict[str, Any]) -> None:
    """Put an OBB head on a detect yaml: the raw-angle head of YOLO26 on a base without DFL, else the classic one."""
    row = full["head"][-1]
    row[2] = "OBB26" if full.get("reg_max") == 1 else "OBB"
    row[3] = ["nc", 1]


def _find(name: str | Path) -> Path:
    """Return the yaml's path: an existing file, one of ours, or one of Ultralytics (with or without a scale letter)."""
    try:
        return find_asset(name, "models")
    except FileNotFoundError as error:
        plain, _ = split_scale(Path(name).name)
        for candidate in (Path(name).name, plain):
            if found := sorted((ROOT / "cfg" / "models").rglob(candidate)):
                return found[0]
        raise FileNotFoundError(f"{error}\nNor does Ultralytics have a model yaml {plain}.") from error
