"""Find out which extra channels a loaded model has: from its head, or from an exported file's metadata."""

from __future__ import annotations

import json
from typing import Any

from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema

METADATA_KEY = "uncertainty"
"""Key of an exported file's metadata that lists the extra fields."""


def schema_of(model: Any, task: str) -> Schema:
    """Return the schema of a model.

    Args:
        model: A detection model, or the AutoBackend around one or around an exported file.
        task: ``detect`` or ``obb``.

    Raises:
        OptionError: An exported file has an uncertainty head but does not say which channels it has.
    """
    nc = len(model.names)
    if (head := head_of(model)) is not None:
        return getattr(head, "schema", Schema(task, nc))
    if (fields := getattr(model, METADATA_KEY, None)) is not None:
        return Schema.of(task, nc, json.loads(fields) if isinstance(fields, str) else fields)
    head = getattr(model, "head", "")
    if head.startswith("Uncert"):
        raise OptionError(
            f"the exported file has a head {head} but no list of its channels; export it with yolo-uncert"
        )
    return Schema(task, nc)


def head_of(model: Any) -> Any:
    """Return the head of a detection model or of the AutoBackend around one, None of an exported file."""
    module = getattr(model, "model", None) if getattr(model, "format", "pt") == "pt" else None
    if module is None:
        return None
    while not hasattr(module, "__getitem__"):
        module = module.model
    return module[-1]


def write_schema(exporter: Any) -> None:
    """Callback ``on_export_start``: note the extra fields in the exported file's metadata."""
    if (schema := getattr(exporter.model.model[-1], "schema", None)) is not None:
        exporter.metadata[METADATA_KEY] = json.dumps(schema.names)
