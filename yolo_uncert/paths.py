"""Find the files that ship with the project by name, from any working directory: yamls and trained weights.

A wheel carries ``cfg/``, ``data/*.yaml`` and ``weights/*.pt`` inside the package (``yolo_uncert/_assets``). An editable
install and a plain checkout have them at the root of the checkout, beside the package. Exactly one of the two places
exists.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

Kind = Literal["models", "data", "trackers", "weights"]

_PACKAGE = Path(__file__).resolve().parent
_SCALE = re.compile(r"yolov?\d+([nslmx])(?=[-.]|$)")
_SUFFIXES = (".yaml", ".yml", ".pt")
# Data sets may be unpacked below data/, so that only models are searched in subfolders.
_PLACES: dict[Kind, tuple[str, str]] = {
    "models": ("cfg/models", "**/*.yaml"),
    "data": ("data", "*.yaml"),
    "trackers": ("cfg/trackers", "*.yaml"),
    "weights": ("weights", "*.pt"),
}


def split_scale(name: str | Path) -> tuple[str, str]:
    """Separate the scale letter from the name of a model yaml, as Ultralytics reads it from a file name.

    Args:
        name: Name or path of a model yaml; only its last component is read, with or without a suffix.

    Returns:
        The name without its letter, and the letter (``n``, ``s``, ``m``, ``l`` or ``x``). A name without a letter comes
        back unchanged, with an empty string: ``yolo11n-uncert.yaml`` gives ``("yolo11-uncert.yaml", "n")``.
    """
    path = Path(name)
    match = _SCALE.search(path.name)
    if match is None:
        return str(name), ""
    return str(path.with_name(path.name[: match.start(1)] + path.name[match.end(1) :])), match[1]


def list_assets(kind: Kind) -> list[str]:
    """Names of the shipped files.

    Args:
        kind: ``models`` for ``cfg/models``, ``data`` for ``data``, ``trackers`` for ``cfg/trackers``, ``weights`` for
            ``weights``.

    Returns:
        Sorted paths relative to the folder of that kind, with ``/`` between folders and with the suffix.
    """
    folder = _root() / _PLACES[kind][0]
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(_PLACES[kind][1]))


def find_asset(name: str | Path, kind: Kind) -> Path:
    """Path of a yaml file, or of trained weights, given by path or by name.

    An existing file wins (absolute or relative to the working directory), then the shipped files: by file name, or by
    any tail of their path such as ``data/hituav.yaml``. The suffix of a yaml may be left out. A model is found with the
    scale letter in its name: ``yolo11n-uncert`` is ``yolo11-uncert.yaml``, unless a file has exactly the name given.

    Args:
        name: Name or path, with or without ``.yaml``.
        kind: ``models``, ``data``, ``trackers`` or ``weights``.

    Returns:
        Path of an existing file: as given when it was found that way, otherwise absolute.

    Raises:
        FileNotFoundError: No such file; the message names the closest matches and all shipped names of this kind.
    """
    spellings = _spellings(name, kind)
    for path in spellings:
        if path.is_file():
            return path
    place, names = _PLACES[kind][0], list_assets(kind)
    for path in spellings:
        for shipped in (Path(place, candidate) for candidate in names):
            if shipped.parts[-len(path.parts) :] == path.parts:
                return _root() / shipped
    stems = {Path(candidate).stem: candidate for candidate in names}
    close = difflib.get_close_matches(spellings[-1].stem, stems)
    hint = f" Did you mean {' or '.join(stems[stem] for stem in close)}?" if close else ""
    what = kind if kind == "weights" else f"{kind} yaml"
    raise FileNotFoundError(f"no {what} named '{name}'.{hint} Shipped: {', '.join(names) or 'none'}.")


def shipped_weights(name: str | Path) -> str:
    """File of trained weights that ship with the project, or the name as it is if it is none of theirs.

    Args:
        name: ``uncert-bccd-n.pt``, or the path of any other model; a file of the user's that is there wins.
    """
    known = str(name) in list_assets("weights") and not Path(name).exists()
    return str(find_asset(name, "weights")) if known else str(name)


def is_shipped(file: str | Path) -> bool:
    """Whether a file is one of the weights that ship with the project, which nothing should be written to or beside."""
    return Path(file).resolve().parent == (_root() / _PLACES["weights"][0]).resolve()


def _root() -> Path:
    packaged = _PACKAGE / "_assets"
    return packaged if packaged.is_dir() else _PACKAGE.parent


def _spellings(name: str | Path, kind: Kind) -> list[Path]:
    names = [str(name)]
    if kind == "models":
        names.append(split_scale(name)[0])
    paths = [Path(item).expanduser() for item in dict.fromkeys(names)]
    return [spelling for path in paths for spelling in _with_suffix(path)]


def _with_suffix(path: Path) -> list[Path]:
    return [path] if path.suffix in _SUFFIXES or not path.name else [path, path.with_name(f"{path.name}.yaml")]
