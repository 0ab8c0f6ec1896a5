"""Files of other programs as plain values: nothing that is missing or damaged stops the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LONGEST_NAME = 200
LONGEST_TEXT = 1000


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping as it is, anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; none if it is no list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | int | None:
    """A finite number, or None: JSON has no other ones, and a loss may well be NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def numbers(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, float | int | None]:
    """Some entries as numbers."""
    return {name: number(values.get(name)) for name in names}


def text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Text of a bounded length; other than text is empty."""
    return value[:longest] if isinstance(value, str) else ""


def seconds(value: Any) -> float | None:
    """A time in ISO 8601 as seconds since 1970; without a time zone it is this machine's own."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def iso(moment: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
