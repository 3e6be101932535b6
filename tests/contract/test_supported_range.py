"""The range of Ultralytics in ``pyproject.toml``: we run inside it, and its lower end works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ultralytics
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
DECLARED = re.search(r'^ +"ultralytics(>=.+?)",', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
RANGE = SpecifierSet(DECLARED[1] if DECLARED else "")

pytestmark = pytest.mark.seam("__init__.py")


def test_installed_version_lies_in_the_declared_range():
    assert {spec.operator for spec in RANGE} == {">=", "<"}, "a lower end that is tested and an upper that is not"
    assert RANGE.contains(ultralytics.__version__), f"{ultralytics.__version__} is not in {RANGE}: widen it or go back"


@pytest.fixture(scope="module")
def lower(tmp_path_factory):
    """The oldest supported version and a folder that has only it, for the front of the import path."""
    (version,) = (spec.version for spec in RANGE if spec.operator == ">=")
    folder = tmp_path_factory.mktemp("ultralytics")
    options = ["--no-deps", "--disable-pip-version-check", "--quiet", "--retries=1", "--timeout=20"]
    command = [sys.executable, "-m", "pip", "install", *options, f"--target={folder}", f"ultralytics=={version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        assert not re.search(r"from versions: \d", done.stderr), f"Ultralytics {version} was never released"
        pytest.skip(f"Ultralytics {version} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return version, folder


def run(folder, *command, **environment):
    """Run Python in the project with the Ultralytics of a folder, and fail with its output."""
    path = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_contract_holds_at_the_lower_end_and_it_trains_validates_and_predicts(lower):
    version, folder = lower
    files = "python_files=test_*.py smoke.py"  # the latter only here: what it trains is trained by other tests as well
    options = ("-m", "not slow", "-p", "no:cacheprovider", "-q", "-rp", "-o", files)
    output = run(folder, "-m", "pytest", "tests/contract", *options, EXPECTED_ULTRALYTICS=version)
    assert re.search(r"^\d{2,} passed", output, re.MULTILINE), output
    assert output.count("PASSED tests/contract/smoke.py::") == 5, output
