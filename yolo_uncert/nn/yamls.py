"""Model yamls: from a name or file to the resolved dict that a model is built from and that its checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ultralytics.utils import ROOT, YAML

from yolo_uncert.config import ModelOptions
from yolo_uncert.nn.branches import check_uncertainty
from yolo_uncert.options import OptionError, parse_options
from yolo_uncert.paths import find_asset, split_scale

HEADS = {"UncertDetect": "Detect", "UncertOBB": "OBB", "UncertOBB26": "OBB26"}
"""Head rows of our yamls and the stock head that stands in for them while Ultralytics parses the rest."""
OURS = {stock: ours for ours, stock in HEADS.items()}
"""The other way round: our head that takes the place of a stock one."""


def load_model_yaml(name: str | Path) -> dict[str, Any]:
    """Read and resolve a model yaml of ours.

    Args:
        name: Path, or the name of a packaged yaml; a letter in the name (``yolo11n-uncert.yaml``) selects the scale.

    Returns:
        A full model dict: backbone, head with an ``Uncert...`` row, scale, ``yaml_file`` (the name, as Ultralytics
        notes it), and the ``uncertainty`` section. A stock yaml comes back without that section.

    Raises:
        FileNotFoundError: No such yaml, here or in Ultralytics.
        OptionError: The yaml has unknown keys, an impossible base, or a bad ``uncertainty`` section.
    """
    path = _find(name)
    _, scale = split_scale(Path(name).name)
    cfg = YAML.load(path)
    return {**resolve(cfg, scale, where=path.name), "yaml_file": Path(name).name}


def resolve(cfg: Mapping[str, Any], scale: str = "", where: str = "model yaml") -> dict[str, Any]:
    """Resolve a model dict: fetch its base, swap the head row and check the ``uncertainty`` section."""
    if "base" in cfg:
        full = _from_base(cfg, where)
    elif {"backbone", "head"} <= cfg.keys():
        full = deepcopy(dict(cfg))
        for ours, likeness in (("uncertainty", 0.6), ("detach", 0.8)):  # the short one looks like "depth"
            if ours not in full and (typo := get_close_matches(ours, full, n=1, cutoff=likeness)):
                raise OptionError(f"{where}: unknown key {typo[0]!r} (did you mean {ours!r}?)")
    else:
        raise OptionError(f"{where}: a model yaml needs either base: or backbone: and head:")
    if not isinstance(full.get("detach", False), bool):
        raise OptionError(f"{where}: detach must be true or false, not {full['detach']!r}")
    if "uncertainty" in full:
        check_uncertainty(full["uncertainty"], f"{where}: uncertainty")
        row = full["head"][-1]
        row[2] = OURS.get(row[2], row[2])
        if row[2] not in HEADS:
            raise OptionError(f"{where}: uncertainty needs a head row {', '.join(HEADS)}, not {row[2]}")
    elif full["head"][-1][2] in HEADS:
        raise OptionError(f"{where}: a head {full['head'][-1][2]} needs an uncertainty: section")
    if scale:
        full["scale"] = scale
    return full


def _from_base(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the base's dict with our overrides and the head that the task asks for."""
    options = parse_options(ModelOptions, cfg, where)
    base = options.base
    full = YAML.load(_find(base))
    if not {"backbone", "head"} <= full.keys():
        raise OptionError(f"{where}: base {base} is no full model yaml with backbone: and head:")
    head = full["head"][-1][2]
    if head not in HEADS.values():
        raise OptionError(f"{where}: base {base} has a head {head}; only Detect and OBB heads carry branches")
    if options.task == "detect" and head != "Detect":
        raise OptionError(f"{where}: base {base} is an OBB model; use its detect yaml as base, or task: obb")
    if options.task == "obb" and head == "Detect":
        _swap_to_obb(full)
    if letter := split_scale(base)[1]:
        full["scale"] = letter
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
        stock = sorted((ROOT / "cfg" / "models").rglob("*.yaml"))
        for wanted in (Path(name).stem, Path(plain).stem):
            if found := [path for path in stock if path.stem == wanted]:
                return found[0]
        raise FileNotFoundError(f"{error}\nNor does Ultralytics have a model yaml {plain}.") from error
