"""Finding shipped yaml files by name, from a checkout, an editable install and a wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from yolo_uncert import paths
from yolo_uncert.paths import find_asset, list_assets, split_scale

CHECKOUT = Path(__file__).resolve().parents[1]
KINDS = ("models", "data", "trackers", "weights")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A packaged asset folder of our own, and a working directory elsewhere."""
    root = tmp_path / "package" / "_assets"
    models = ("cfg/models/yolo11-uncert.yaml", "cfg/models/obb/yolo11-obb-kld.yaml")
    for name in (*models, "data/city.yaml", "data/city/x.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "package")
    return root


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolo11n-uncert.yaml", ("yolo11-uncert.yaml", "n")),
        ("yolo11n-uncert", ("yolo11-uncert", "n")),
        ("yolov8x.yaml", ("yolov8.yaml", "x")),
        ("yolov10l", ("yolov10", "l")),
        ("yolo26s-obb-kld.yaml", ("yolo26-obb-kld.yaml", "s")),
        ("cfg/yolo11n/yolo11m-p2.yaml", ("cfg/yolo11n/yolo11-p2.yaml", "m")),  # a folder name has no scale
        ("yolo11-uncert.yaml", ("yolo11-uncert.yaml", "")),
        ("yolo11-small.yaml", ("yolo11-small.yaml", "")),  # the letter follows the digits directly ...
        ("yolo11nano.yaml", ("yolo11nano.yaml", "")),  # ... and nothing but - . or the end follows it
        ("yolov9c-uncert.yaml", ("yolov9c-uncert.yaml", "")),  # a file of its own upstream, not a scale
        ("rtdetr-l.yaml", ("rtdetr-l.yaml", "")),
    ],
)
def test_split_scale(name, expected):
    assert split_scale(name) == expected


@pytest.mark.parametrize(
    "name", ["yolo11n-uncert.yaml", "yolo11n-uncert", "yolo11-uncert", "cfg/models/yolo11x-uncert.yaml"]
)
def test_a_model_is_found_with_and_without_scale_and_suffix(shipped, name):
    assert find_asset(name, "models") == shipped / "cfg/models/yolo11-uncert.yaml"


@pytest.mark.parametrize("name", ["yolo11s-obb-kld", "obb/yolo11s-obb-kld.yaml", "models/obb/yolo11-obb-kld.yaml"])
def test_models_are_found_in_subfolders(shipped, name):
    assert find_asset(name, "models") == shipped / "cfg/models/obb/yolo11-obb-kld.yaml"


@pytest.mark.parametrize("name", ["city", "city.yaml", "data/city.yaml", "./data/city", Path("data/city.yaml")])
def test_a_data_yaml_is_found_by_any_tail_of_its_path(shipped, name):
    assert find_asset(name, "data") == shipped / "data/city.yaml"


def test_an_existing_file_wins_over_a_shipped_one(shipped):
    mine = Path("city.yaml")
    mine.write_text("mine")
    assert find_asset("city.yaml", "data") == mine
    assert find_asset("city", "data") == mine
    assert find_asset(mine.resolve(), "data") == mine.resolve()


def test_a_folder_of_that_name_is_no_yaml(shipped):
    Path("city").mkdir()
    assert find_asset("city", "data") == shipped / "data/city.yaml"


def test_an_exact_name_wins_over_the_name_without_scale(shipped):
    exact = shipped / "cfg/models/yolo11n-uncert.yaml"
    exact.write_text("nano only")
    assert find_asset("yolo11n-uncert", "models") == exact
    assert find_asset("yolo11s-uncert", "models") == shipped / "cfg/models/yolo11-uncert.yaml"


def test_the_own_file_of_a_user_is_found_with_a_scale_letter(shipped):
    Path("yolo11-mine.yaml").write_text("mine")
    assert find_asset("yolo11m-mine.yaml", "models") == Path("yolo11-mine.yaml")


def test_data_names_keep_their_letters(shipped):
    (shipped / "data/yolo11.yaml").write_text("")
    with pytest.raises(FileNotFoundError):
        find_asset("yolo11n.yaml", "data")


def test_names_are_listed_relative_to_their_kind(shipped):
    assert list_assets("models") == ["obb/yolo11-obb-kld.yaml", "yolo11-uncert.yaml"]
    assert list_assets("data") == ["city.yaml"]  # a data set unpacked below data/ is not searched


def test_an_unknown_name_is_an_error_with_suggestions(shipped):
    with pytest.raises(
        FileNotFoundError, match=r"no models yaml named 'yolo11n-uncret'\. Did you mean yolo11-uncert\.yaml"
    ):
        find_asset("yolo11n-uncret", "models")
    with pytest.raises(FileNotFoundError, match=r"named 'zzz'\. Shipped: city\.yaml\.$"):
        find_asset("zzz", "data")


@pytest.mark.parametrize("name", ["", ".", "/", "..", "/nowhere/city.yaml"])
def test_a_path_that_names_no_file_is_the_same_error(shipped, name):
    with pytest.raises(FileNotFoundError, match="no data yaml named"):
        find_asset(name, "data")


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_shipped_are_unambiguous(kind):
    stems = [Path(name).stem for name in list_assets(kind)]
    assert stems
    assert len(set(stems)) == len(stems)


def _find_from(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    code = (
        "from yolo_uncert.paths import find_asset, list_assets\n"
        f"for kind in {KINDS}:\n"
        "    for name in list_assets(kind):\n"
        "        print(find_asset(name, kind))\n"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)


def test_the_installation_under_test_finds_every_file_from_elsewhere(tmp_path):
    found = _find_from(tmp_path).stdout.splitlines()
    assert len(found) == sum(len(list_assets(kind)) for kind in KINDS)
    assert all(Path(path).is_file() for path in found)


@pytest.mark.slow
@pytest.mark.parametrize("by_way_of_sdist", [False, True])
def test_a_wheel_carries_every_file(tmp_path, by_way_of_sdist):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = CHECKOUT
    if by_way_of_sdist:
        sdist = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path]
        subprocess.run(sdist, cwd=CHECKOUT, check=True)
        source = next(tmp_path.glob("*.tar.gz"))
    wheel = [*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run(wheel, check=True)
    install = [*pip, "install", next(tmp_path.glob("*.whl")), "--no-deps", "--no-index", "--target", tmp_path / "site"]
    subprocess.run(install, check=True)
    (tmp_path / "cwd").mkdir()
    found = [Path(path) for path in _find_from(tmp_path / "cwd", PYTHONPATH=str(tmp_path / "site")).stdout.splitlines()]
    shipped = tmp_path / "site" / "yolo_uncert" / "_assets"
    assert sorted(path for path in shipped.rglob("*") if path.is_file()) == sorted(found)
    assert len(found) == sum(len(list_assets(kind)) for kind in KINDS)
    assert not (tmp_path / "site" / "tests").exists()
    assert (tmp_path / "site" / "yolo_uncert" / "py.typed").is_file()
