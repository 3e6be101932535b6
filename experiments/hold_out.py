"""A tuning split by recording date: ``python experiments/hold_out.py datasets/hituav DATE[,DATE...] FOLDER``.

Writes ``FOLDER/data.yaml`` with ``train.txt`` and ``val.txt`` beside it: the training images of the other dates, and
those of the dates held out. The set's own val is left alone, so that choices are not made on what is reported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml


def hold_out(source: Path, dates: set[str], folder: Path, names: dict[int, str]) -> tuple[int, int]:
    """Write the split and return the numbers of its images.

    Args:
        source: Folder of the data set, with ``images/train`` and ``meta.json``: by image without suffix a ``date``.
        dates: Those to hold out, as ``meta.json`` has them.
        folder: Where to write.
        names: Class names.

    Raises:
        KeyError: ``meta.json`` has no date of an image.
        ValueError: No training image is of a date, or all are of the dates held out.
    """
    meta = json.loads((source / "meta.json").read_text())
    images = {image: meta[image.stem]["date"] for image in sorted((source / "images/train").absolute().iterdir())}
    if unknown := dates - set(images.values()):
        raise ValueError(f"no training image of {source} has the date {', '.join(sorted(unknown))}")
    held = [image for image, date in images.items() if date in dates]
    train = [image for image, date in images.items() if date not in dates]
    if not train:
        raise ValueError("all training images are of the dates held out")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("val", held)):
        (folder / f"{name}.txt").write_text("".join(f"{image}\n" for image in part))
    data = {"path": str(folder.absolute()), "train": "train.txt", "val": "val.txt", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return len(train), len(held)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    root = Path(sys.argv[1])
    classes = yaml.safe_load((Path(__file__).parents[1] / "data" / f"{root.name}.yaml").read_text())["names"]
    try:
        counts = hold_out(root, set(sys.argv[2].split(",")), Path(sys.argv[3]), classes)
    except KeyError as error:
        sys.exit(f"hold_out: {root / 'meta.json'} does not have {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"hold_out: {error}")
    print("{} images to train on, {} held out".format(*counts), f"-> {Path(sys.argv[3]) / 'data.yaml'}")
