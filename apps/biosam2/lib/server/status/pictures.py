"""The worst cases of a version's hold-out: which they are, and a picture of each."""

from __future__ import annotations

import base64
import csv
import functools
import math
import re
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from lib.errors import NotFound
from lib.evaluation.results import KEY, Row
from lib.evaluation.runner import TABLE
from lib.evaluation.worst import FOLDER, Worst
from lib.server.status.plain import LONGEST_NAME, text
from lib.versions.store import Version

HOLDOUT = "holdout"
MOST_PICTURES = 12
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\.png")
# Matplotlib's figures are drawn by one thread at a time.
_drawing = threading.Lock()


def _measured(version: Version) -> list[Row]:
    """The results of a version on its hold-out, without those of what it was compared with."""
    table = version.path / HOLDOUT / TABLE
    try:
        stat = table.stat()
    except OSError:
        return []
    rows = _rows(table, stat.st_mtime_ns)
    own = [row for row in rows if row["version"] == version.about.get("checkpoint")]
    return own or rows


@functools.lru_cache(maxsize=4)
def _rows(table: Path, _: int) -> list[Row]:
    """Rows with a Dice; lines that are damaged or cut off are left out."""
    try:
        with table.open(newline="", encoding="utf-8", errors="replace") as file:
            return [row for row in csv.DictReader(file) if _is_whole(row)]
    except (OSError, csv.Error):
        return []


def _is_whole(row: Row) -> bool:
    try:
        return math.isfinite(float(row["dice"])) and all(isinstance(row[name], str) for name in KEY)
    except (KeyError, TypeError, ValueError):
        return False


def worst(version: Version) -> list[dict[str, Any]]:
    """The cases of which there is a picture, the worst first, at most `MOST_PICTURES`.

    Returns
    -------
    list of dict
        `picture`: its name for `picture`; `image`, `structure`, `prompts`, `slices`; `dice`.
    """
    return [
        {
            "picture": name,
            "image": text(row["case"], LONGEST_NAME),
            "structure": text(row["structure"], LONGEST_NAME),
            "prompts": text(row["prompts"], LONGEST_NAME),
            "slices": text(row["slices"], LONGEST_NAME),
            "dice": float(row["dice"]),
        }
        for name, row in islice(_kept(version), MOST_PICTURES)
    ]


def _kept(version: Version) -> Iterator[tuple[str, Row]]:
    """The rows of which there is a picture, or slices to draw one of, with its name; the worst first."""
    out = version.path / HOLDOUT
    if not (out / FOLDER).is_dir():
        return
    kept = Worst(out)
    for row in sorted(_measured(version), key=lambda row: float(row["dice"])):
        slices = kept.path(row)
        drawn = slices.with_suffix(".png")
        if drawn.exists() or slices.exists():
            yield drawn.name, row


def picture(version: Version, name: str) -> bytes:
    """A picture as PNG: the file of that name, or drawn of the slices that were kept under it.

    Raises
    ------
    NotFound
        If the version has no such picture.
    """
    missing = NotFound(f'"{name[:80]}" is not a picture of version {version.number}.')
    if not NAME.fullmatch(name):
        raise missing
    file = version.path / HOLDOUT / FOLDER / name
    try:
        if file.is_file():
            return file.read_bytes()
        stamp = file.with_suffix(".npz").stat().st_mtime_ns
    except OSError:
        raise missing from None
    row = next((row for kept, row in _kept(version) if kept == name), None)
    if row is None:
        raise missing
    try:
        with _drawing:
            return _drawn(version.path / HOLDOUT, tuple(row[key] for key in KEY), stamp)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # numpy's, for a file that is damaged
        raise missing from None


@functools.lru_cache(maxsize=64)
def _drawn(out: Path, key: tuple[str, ...], _: int) -> bytes:
    from lib.evaluation.figures import png, worst_case  # matplotlib, which most servers never need

    figure = worst_case(Worst(out).read(dict(zip(KEY, key, strict=True))), "")
    # without a title above: the page says what it is
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.93, wspace=0.02)
    return base64.b64decode(png(figure))
