"""Suppression and voting on real data: ``python benchmarks/voting.py MODEL DATA [IMGSZ] [KEY=VALUE ...]``.

Validates a trained model with hard and soft suppression, each with and without a vote, and prints a Markdown table: AP
in percent, the NLL of sigma per coordinate in pixels (as predicted, and after one temperature), and milliseconds of
post-processing per image. Further ``key=value`` words are options of every run, with several values in a row of their
own: ``vote_sigma=0.01,0.02,0.05``.
"""

from __future__ import annotations

import logging
import sys
from itertools import product
from typing import Any

from ultralytics.cfg import parse_key_value_pair
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO

RULES: dict[str, dict[str, Any]] = {
    "hard": {},
    "hard + vote": {"var_vote": True},
    "soft": {"suppress": "soft"},
    "soft + vote": {"suppress": "soft", "var_vote": True},
}
AP90 = 8
"""Position of 0.90 among the thresholds 0.50, 0.55, ... 0.95."""


def row(name: str, metrics: Any) -> str:
    """Return a line of the table."""
    box, sigma = metrics.box, metrics.sigma
    ap = (box.map50, box.map75, box.all_ap[:, AP90].mean(), box.map)
    nll = f"{sigma.nll:.3f} / {sigma.nll_calibrated:.3f}" if sigma is not None else ""
    return f"| {name} | {' | '.join(f'{100 * x:.1f}' for x in ap)} | {nll} | {metrics.speed['postprocess']:.1f} |"


def main(model: str, data: str, *words: str) -> None:
    """Validate with every rule and print the table."""
    imgsz, words = (int(words[0]), words[1:]) if words and words[0].isdigit() else (640, words)
    pairs = [word.split("=") for word in words]
    values = [[(key, parse_key_value_pair(f"{key}={x}")[1]) for x in value.split(",")] for key, value in pairs]
    LOGGER.setLevel(logging.ERROR)
    print("| rule | AP50 | AP75 | AP90 | AP | NLL / after temperature | ms |\n|---|---|---|---|---|---|---|")
    for name, rule in RULES.items():
        # the options of the vote make no rows where nobody votes
        heard = [options for options in values if "var_vote" in rule or not options[0][0].startswith("vote_")]
        for chosen in product(*heard):
            shown = " ".join(f"{key}={x}" for (key, x), options in zip(chosen, heard, strict=True) if len(options) > 1)
            common = {"data": data, "imgsz": imgsz, "plots": False, "verbose": False, "workers": 0}
            metrics = YOLO(model).val(**{**common, **rule, **dict(chosen)})
            print(row(f"{name} {shown}".strip(), metrics), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
