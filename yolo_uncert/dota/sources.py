"""Where the images and labels of a data set in DOTA's layout are, and which classes it has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import LOGGER

from yolo_uncert.evaluation import DotaTruth, read_dota_labels
from yolo_uncert.evaluation.dota_boxes import class_name
from yolo_uncert.options import OptionError
from yolo_uncert.paths import find_asset

SPLITS = ("train", "val", "test")

DOTA_CLASSES = (
    "plane",
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "harbor",
    "bridge",
    "large vehicle",
    "small vehicle",
    "helicopter",
    "roundabout",
    "soccer ball field",
    "swimming pool",
    "container crane",
    "airport",
    "helipad",
)
"""Classes of DOTA-v2.0 in the order of Ultralytics' data yamls; the first 16 are those of v1.5, 15 those of v1.0."""

_VERSIONS = (15, 16, 18)
_LISTED = 5

_LAYOUT = """expected one of
  SOURCE/train/images/*.png  SOURCE/train/labelTxt/*.txt           and the same for val
  SOURCE/images/train/*.png  SOURCE/labelTxt/train/*.txt           and the same for val
  SOURCE/images/train/*.png  SOURCE/labels/train_original/*.txt    and the same for val
and for test the images alone"""


@dataclass(frozen=True)
class Scene:
    """An image of the data set.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        image: Its file.
        labels: Its label file; None if the split has none.
    """

    split: str
    image: Path
    labels: Path | None

    @property
    def name(self) -> str:
        """Name without folder and suffix."""
        return self.image.stem


def find_scenes(source: str | Path) -> list[Scene]:
    """Return the images of all splits with their label files, sorted by name within a split.

    Images without a label file, and label files without an image, are left out and named in a warning: in DOTA an image
    without objects has an empty label file. In ``test`` the label folder may be absent.

    Args:
        source: Folder of the data set.

    Raises:
        FileNotFoundError: The folder holds no split, or a split has no labels.
        OptionError: Two images of a split differ in their suffix alone, or a name holds white space.
    """
    root = Path(source)
    splits = {split: folder for split in SPLITS if (folder := _images(root, split)) is not None}
    if not splits:
        raise FileNotFoundError(f"{root} is no data set in DOTA's layout: {_LAYOUT}")
    return [scene for split, folder in splits.items() for scene in _scenes(split, folder, _labels(root, split))]


def read_scene(scene: Scene) -> DotaTruth:
    """Read the objects of a scene; none of a scene without label file.

    Raises:
        ValueError: A line is malformed; the message names file and line.
    """
    return DotaTruth.stack([]) if scene.labels is None else read_dota_labels(scene.labels)


def class_names(scenes: Iterable[Scene], names: str | Sequence[str] | None = None) -> list[str]:
    """Return the class names in their order, and read every label file to see that it holds no others.

    Args:
        scenes: The scenes.
        names: A data yaml, or names (a list, or separated by commas). None: the classes of the oldest DOTA version that
            has all that occur; where none has, those that occur, sorted.

    Raises:
        OptionError: A class is not among the names, or a name is there twice.
        ValueError: A line of a label file is malformed.
        FileNotFoundError: There is no such yaml.
    """
    wanted = None if names is None else _read_names(names)
    found: dict[str, Path] = {}
    for scene in scenes:
        for name in dict.fromkeys(read_scene(scene).classes.tolist()):
            found.setdefault(name, scene.labels or scene.image)
    if wanted is None:
        if not found:
            raise OptionError("the label files hold no object: name the classes with names=")
        versions = (list(DOTA_CLASSES[:count]) for count in _VERSIONS)
        return next((known for known in versions if found.keys() <= _keys(known)), sorted(found))
    for name in found.keys() - _keys(wanted):
        raise OptionError(f"{found[name]}: class {name!r} is not among the names: {', '.join(wanted)}")
    return wanted


def _keys(names: Collection[str]) -> set[str]:
    return {class_name(name) for name in names}


def _read_names(names: str | Sequence[str]) -> list[str]:
    if isinstance(names, str) and names.endswith((".yaml", ".yml")):
        content = yaml.safe_load(find_asset(names, "data").read_text(encoding="utf-8"))
        entry = content.get("names") if isinstance(content, dict) else None
        if not entry:
            raise OptionError(f"{names} has no names")
        listed = [entry[key] for key in sorted(entry)] if isinstance(entry, dict) else list(entry)
    else:
        listed = names.split(",") if isinstance(names, str) else list(names)
    listed = [str(name).strip() for name in listed]
    if len(_keys(listed)) < len(listed) or "" in _keys(listed):
        raise OptionError(f"names must be different and not empty: {', '.join(listed)}")
    return listed


def _images(root: Path, split: str) -> Path | None:
    return next((folder for folder in (root / split / "images", root / "images" / split) if folder.is_dir()), None)


def _labels(root: Path, split: str) -> Path | None:
    places = (root / split / "labelTxt", root / "labelTxt" / split, root / "labels" / f"{split}_original")
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None and split != "test":
        raise FileNotFoundError(f"{split} has no label folder. Looked for: {', '.join(map(str, places))}; {_LAYOUT}")
    return folder


def _scenes(split: str, images: Path, labels: Path | None) -> list[Scene]:
    found: dict[str, Path] = {}
    for file in sorted(images.iterdir()):
        if file.suffix[1:].lower() not in IMG_FORMATS or file.name.startswith("."):
            continue
        if file.stem in found:
            raise OptionError(f"{found[file.stem]} and {file.name} would give tiles of the same name")
        if len(file.stem.split()) != 1:
            raise OptionError(f"{file}: the name of an image must be one word, as DOTA's files separate by spaces")
        found[file.stem] = file
    if labels is None:
        return [Scene(split, file, None) for file in found.values()]
    texts = {file.stem: file for file in sorted(labels.glob("*.txt"))}
    _warn(f"{split}: images without a label file, left out", found.keys() - texts.keys())
    _warn(f"{split}: label files without an image, left out", texts.keys() - found.keys())
    return [Scene(split, file, texts[name]) for name, file in found.items() if name in texts]


def _warn(title: str, names: Collection[str]) -> None:
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        LOGGER.warning(f"{title} ({len(names)}): {', '.join(sorted(names)[:_LISTED])}{more}")
