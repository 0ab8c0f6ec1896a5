"""A table on disk: a line for each finished row, so that a run may die at any moment and go on after it."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lib.errors import UserError

Row = dict[str, str]
Key = tuple[str, ...]


class Table:
    """Rows in a CSV file, read at the start and appended one by one; threads may share it.

    Parameters
    ----------
    path : Path
        Made if it is not there. A last line without its end, left by a run that was killed, is cut off.
    columns : sequence of str
    key : sequence of str
        The columns that tell a row from all others.

    Attributes
    ----------
    rows : dict of Key to Row

    Raises
    ------
    UserError
        If it is another table.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.columns, self.key = path, tuple(columns), tuple(key)
        self.rows: dict[Key, Row] = {}
        self._lock = threading.Lock()
        if path.exists():
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(path, whole)
            self._read(text[:whole].decode())
        if not path.exists() or path.stat().st_size == 0:
            self._append([self.columns])

    def key_of(self, row: Mapping[str, str]) -> Key:
        """What tells a row from all others."""
        return tuple(row[name] for name in self.key)

    def add(self, row: Row) -> None:
        """Write a row to the disk, and only then count it as done."""
        with self._lock:
            self._append([[row[name] for name in self.columns]])
            self.rows[self.key_of(row)] = row

    def _read(self, text: str) -> None:
        reader = csv.DictReader(io.StringIO(text))
        if text and tuple(reader.fieldnames or ()) != self.columns:
            raise UserError(f"{self.path} is another table than this program writes: choose another --out.")
        for row in reader:
            self.rows[self.key_of(row)] = row

    def _append(self, lines: Iterable[Iterable[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        with open(self.path, "ab") as file:
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
