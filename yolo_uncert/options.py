"""How options are declared (type, default, allowed values, meaning) and checked, with messages that name the rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class OptionError(ValueError):
    """An option is unknown, has the wrong type, or a value outside the allowed ones."""


def option(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one option of an options dataclass.

    Args:
        default: Value when the user gives none.
        doc: One sentence for ``--help`` and the docs.
        choices: Allowed strings, if limited.
        low: Smallest allowed number.
        high: Largest allowed number.
    """
    return field(default=default, metadata={"doc": doc, "choices": tuple(choices), "low": low, "high": high})


def parse_options(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """Build an options dataclass from user input, or say precisely what is wrong with it.

    Args:
        cls: Options dataclass.
        values: Option names and values; None stands for no options.
        where: File and key for the message, such as ``yolo11-uncert.yaml: uncertainty.gaussian``.

    Raises:
        OptionError: An option is unknown (with a suggestion), ill-typed or out of range.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise OptionError(f"{where}: expected options such as {{gain: 1.0}}, not {values!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{where}: unknown option {name!r}{suggest(name, known)}. Allowed: {', '.join(known)}")
        _check(known[name], hints[name], value, f"{where}: {name}")
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


def check_fields(options: Any) -> None:
    """Check every option of an instance that was made from values, not from user input with its place.

    Args:
        options: Instance of an options dataclass.

    Raises:
        OptionError: An option is ill-typed or out of range.
    """
    hints = _hints(type(options))  # type: ignore[arg-type]  # classes are hashable
    for spec in fields(options):
        _check(spec, hints[spec.name], getattr(options, spec.name), spec.name)


def check_choice(where: str, value: object, known: Iterable[str]) -> None:
    """Raise OptionError, with the nearest allowed value, unless the value is among the known ones."""
    known = tuple(known)
    if value not in known:
        raise OptionError(f"{where} is {value!r}{suggest(value, known)}. Allowed: {', '.join(known)}")


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    # Options are read for every batch of a prediction, and to evaluate their annotations takes a millisecond.
    return get_type_hints(cls)


def suggest(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or nothing."""
    match = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def describe(cls: type) -> list[tuple[str, str, str]]:
    """Return (name, default, meaning with allowed values) for each option of a dataclass."""
    rows = []
    for f in fields(cls):
        choices = f.metadata["choices"]
        doc = f.metadata["doc"] + (f" One of: {', '.join(choices)}." if choices else "")
        rows.append((f.name, "" if f.default is MISSING else str(f.default), doc))
    return rows


def _check(spec: Field[Any], hint: Any, value: Any, where: str) -> None:
    """Raise OptionError unless the value has one of the hinted types and lies in the allowed range."""
    kinds = get_args(hint) or (hint,)
    if not any(_is_a(kind, value) for kind in kinds):
        expected = " or ".join(_name_of(k) for k in kinds)
        raise OptionError(f"{where} must be {expected}, not {value!r} ({type(value).__name__})")
    choices, low, high = spec.metadata["choices"], spec.metadata["low"], spec.metadata["high"]
    if choices and value is not None:
        check_choice(where, value, choices)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise OptionError(f"{where} must be finite, not {value}")
        if low is not None and not value >= low:
            raise OptionError(f"{where} must be at least {low}, not {value}")
        if high is not None and not value <= high:
            raise OptionError(f"{where} must be at most {high}, not {value}")


def _is_a(kind: Any, value: Any) -> bool:
    """Return whether a value is of a type, where an int is a float but a bool is no number."""
    if get_args(kind):  # list[float]
        return isinstance(value, list) and all(_is_a(get_args(kind)[0], x) for x in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _name_of(kind: Any) -> str:
    """Return a type as written in an annotation."""
    if kind is type(None):
        return "None"
    return str(kind) if get_args(kind) else str(kind.__name__)
