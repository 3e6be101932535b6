"""Help texts of the command line, written from the options themselves so that they cannot fall behind."""

from __future__ import annotations

from textwrap import fill

from ultralytics.utils import DEFAULT_CFG_PATH

from yolo_uncert.modes import MODES, Mode
from yolo_uncert.nn.branches import BRANCHES
from yolo_uncert.options import OptionError, describe, suggest
from yolo_uncert.paths import list_assets
from yolo_uncert.run_options import RunOptions
from yolo_uncert.tracking.options import TrackerOptions

WIDTH = 100


def overview() -> str:
    """Return the general help."""
    modes = "\n".join(f"  {name:<10}{mode.doc}" for name, mode in MODES.items())
    return (
        "Object detection that knows how sure it is about every box.\n\n"
        "usage: yolo-uncert MODE key=value ...\n\nmodes:\n"
        f"{modes}\n\n"
        "yolo-uncert help MODE       options of a mode, with defaults and meaning\n"
        "yolo-uncert help branches   the uncertainty: section of a model yaml\n"
        "yolo-uncert help trackers   the uncertainty: section of a tracker yaml\n"
        "yolo-uncert version\n\n"
        "exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted\n"
    )


def mode_help(name: str) -> str:
    """Return the help of one mode, of the branches of a model yaml, or of tracker yamls.

    Raises:
        OptionError: There is no such mode or topic.
    """
    if name in _TOPICS:
        return _TOPICS[name]()
    if name not in MODES:
        known = (*MODES, *_TOPICS)
        raise OptionError(f"no help on {name!r}{suggest(name, known)}. One of: {', '.join(known)}")
    mode = MODES[name]
    rows = [row for row in describe(RunOptions) if row[0] in mode.ours]
    rows += [(key, "", doc) for key, doc in mode.own.items()]
    stock = ["options of Ultralytics:", *_stock_options(mode)] if mode.sections or mode.stock else []
    return "\n".join(
        [
            mode.doc,
            f"\nexample: {mode.example}\n",
            *(["options of yolo-uncert:", *map(_row, rows), ""] if rows else []),
            *stock,
        ]
    )


def _branch_help() -> str:
    parts = ["Branches of a model yaml's uncertainty: section, with their options and defaults.\n"]
    for name, branch in BRANCHES.items():
        parts.append(f"{name}: {(branch.__doc__ or '').splitlines()[0]}")
        parts += map(_row, describe(branch.options_class))
        parts.append("")
    return "\n".join(parts)


def _tracker_help() -> str:
    shipped = ", ".join(list_assets("trackers"))
    return "\n".join(
        [
            f"Options of the uncertainty: section of a tracker yaml such as {shipped}.\n",
            *map(_row, describe(TrackerOptions)),
        ]
    )


_TOPICS = {"branches": _branch_help, "trackers": _tracker_help}


def _row(row: tuple[str, str, str]) -> str:
    name, default, doc = row
    head = f"  {name}={default}" if default else f"  {name}"
    return fill(f"{head:<24} {doc}", WIDTH, subsequent_indent=" " * 25)


def _stock_options(mode: Mode) -> list[str]:
    """Return Ultralytics' own options with meaning and default, by its ``default.yaml`` where not by the mode."""
    rows, section = [], ""
    for line in DEFAULT_CFG_PATH.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and " ---" in line:
            section = line.removeprefix("# ")
        elif ":" in line and not line.startswith("#"):
            setting, _, doc = line.partition(" # ")
            key, _, value = setting.partition(":")
            heeded = section.startswith(mode.sections) or key in ("task", "cfg", *mode.stock)
            if heeded and key not in mode.unheeded:
                rows.append(_row((key, mode.defaults.get(key, value.strip()), doc.strip())))
    return rows
