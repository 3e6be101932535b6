"""Tell Ultralytics where the local copy of a shipped data set is.

The data yamls of this project name no absolute path. ``local:`` is the name of the data set's folder below a data root,
``source:`` says where its files come from; the rest is an ordinary Ultralytics data yaml. Before a run, such a file is
turned into a yaml with an absolute ``path:``, kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from yolo_uncert.options import OptionError
from yolo_uncert.paths import find_asset, list_assets

ROOT_VARIABLE = "YOLO_UNCERT_DATA"

_DIGEST = re.compile(r"-[0-9a-f]{12}(?=\.yaml$)")


def resolve_data(data: str | Path, root: str | Path | None = None) -> str:
    """Value for Ultralytics' ``data`` option, with the folder of a shipped data set filled in.

    The folder is looked for in ``root`` alone when it is given, otherwise in ``$YOLO_UNCERT_DATA``, ``./datasets`` and
    the ``datasets_dir`` of Ultralytics' settings, in this order.

    Args:
        data: Name or path of a data yaml, or anything else that Ultralytics accepts (folder, archive, URL, the name of
            one of its own data sets), which comes back unchanged.
        root: Folder that holds the data set folders.

    Returns:
        Path of a yaml with an absolute ``path:``; for a yaml without ``local:``, the path of that yaml.

    Raises:
        FileNotFoundError: No such yaml, or no local copy of its data; the message says what to get and where to put it.
        OptionError: The file is no yaml.
    """
    file = _find_yaml(data)
    if file is None:
        return str(data)
    spec = _read(file)
    if not isinstance(spec, dict) or "local" not in spec:
        shipped = _shipped(file)
        moved = shipped and isinstance(spec, dict) and (root is not None or not Path(str(spec.get("path"))).is_dir())
        return resolve_data(shipped, root) if shipped and moved else str(file)
    settings = {key: value for key, value in spec.items() if key not in {"local", "source"}}
    return str(_write(file.stem, {"path": str(_find_folder(file, spec, root)), **settings}))


def data_name(data: str | Path) -> str:
    """File name of a data yaml as its user knows it: that of a shipped one, of a file that ``resolve_data`` made."""
    return _DIGEST.sub("", Path(data).name)


def _shipped(data: str | Path) -> str | None:
    """Name of the yaml that ``resolve_data`` made a file from, if it is one of ours and that yaml is known."""
    name = data_name(data)
    known = name != Path(data).name and (Path(name).is_file() or name in list_assets("data"))
    return name if known else None


def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} is no yaml in UTF-8: {error}") from error


def _find_yaml(data: str | Path) -> Path | None:
    """Path of the yaml, or None for what Ultralytics has to read itself."""
    if "://" in str(data) or Path(data).is_dir():
        return None
    try:
        file = find_asset(data, "data")
    except FileNotFoundError:
        if _ships_with_ultralytics(Path(data).name):
            return None
        if (shipped := _shipped(data)) is None:
            raise
        file = find_asset(shipped, "data")  # a checkpoint names our file in a cache, which has been emptied since
    return file if file.suffix in {".yaml", ".yml"} else None


def _ships_with_ultralytics(name: str) -> bool:
    from ultralytics.utils import ROOT

    return any((ROOT / "cfg" / "datasets" / candidate).is_file() for candidate in (name, f"{name}.yaml"))


def _find_folder(file: Path, spec: dict[str, Any], root: str | Path | None) -> Path:
    places = []
    for place in _roots(root):
        folder = (place / str(spec["local"])).expanduser().resolve()
        if folder.is_dir():
            return folder
        places.append(str(folder))
    raise FileNotFoundError(
        f"no local copy of the data set of {file}. Looked for: {', '.join(dict.fromkeys(places))}.\n"
        f"{spec.get('source', '').strip()}\n"
        f"Put it in a folder named '{spec['local']}' in the layout that {file.name} describes, and name the folder "
        f"above it with data_root=FOLDER or {ROOT_VARIABLE}=FOLDER."
    )


def _roots(root: str | Path | None) -> Iterator[Path]:
    if root is not None:
        yield Path(root)
        return
    if variable := os.environ.get(ROOT_VARIABLE):
        yield Path(variable)
    yield Path("datasets")
    from ultralytics.utils import SETTINGS

    yield Path(SETTINGS["datasets_dir"])


def _write(stem: str, spec: dict[str, Any]) -> Path:
    """Write once under a name made from the content: processes that run at the same time never see half a file."""
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    folder = _cache_folder()
    target = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    if not target.is_file():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as temporary:
            temporary.write(text)
        os.replace(temporary.name, target)
    return target


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo-uncert" / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:  # a read-only home, as in some containers
        return Path(tempfile.mkdtemp(prefix="yolo-uncert-"))
    return folder
