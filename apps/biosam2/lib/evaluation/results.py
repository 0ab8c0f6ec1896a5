"""The table of results on disk: a line for each finished row, so that a run may die at any moment."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.errors import UserError

KEY = ("version", "pipeline", "protocol", "data", "case", "structure", "slices", "prompts")
"""What names a row: the weights, how they were asked, and what about."""

FIGURES = ("dice", "nsd", "iou", "noc85", "noc90", "auc_dice", "auc_nsd", "absence")
SECONDS = ("seconds_first", "seconds")
CURVES = ("dice_after", "nsd_after", "dice_along")
"""Numbers separated by spaces: after each answer; on each slice from the structure's first to its last."""

COLUMNS = ("model", *KEY, *FIGURES, *SECONDS, *CURVES)

Row = dict[str, str]
Key = tuple[str, ...]


def key_of(row: Mapping[str, str]) -> Key:
    """What tells a row from all others."""
    return tuple(row[name] for name in KEY)


class Results:
    """Rows in a CSV file, read at the start and appended one by one.

    Parameters
    ----------
    path : Path
        Made if it is not there. A last line without its end, left by a run that was killed, is cut off.

    Raises
    ------
    UserError
        If it is another table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        if path.exists():
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(path, whole)
            self._read(text[:whole].decode())
        if not path.exists() or path.stat().st_size == 0:
            self._append([COLUMNS])

    def add(self, row: Row) -> None:
        """Write a row to the disk, and only then count it as done."""
        self._append([[row[name] for name in COLUMNS]])
        self.rows[key_of(row)] = row

    def _read(self, text: str) -> None:
        reader = csv.DictReader(io.StringIO(text))
        if text and tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{self.path} is another table than this program writes: choose another --out.")
        for row in reader:
            self.rows[key_of(row)] = row

    def _append(self, lines: Iterable[Iterable[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        with open(self.path, "ab") as file:
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
