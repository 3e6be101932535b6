"""Files that are whole at every moment, and values for JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from yolo_uncert.files import plain, replacing


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with replacing(target) as part:
        part.write_text("done")
        assert not target.exists()
    assert target.read_text() == "done"
    assert list(target.parent.iterdir()) == [target]


def test_what_was_there_stays_on_an_error(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), replacing(target) as part:
        fail(part)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_values_for_json():
    values = {"a": [np.float64(1.5), math.nan, (math.inf, 2)], "b": {"c": np.int64(3), "d": "x", "e": None, "f": True}}
    found = plain(values)
    assert found == {"a": [1.5, None, [None, 2]], "b": {"c": 3, "d": "x", "e": None, "f": True}}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
