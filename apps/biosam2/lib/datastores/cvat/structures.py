"""Structures: the values that CVAT's labels have in the label maps here; none ever gets another one."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib.datastores.cvat.draw import BACKGROUND
from lib.imaging.seg.segments import Rgb


class Structures:
    """Values from 1 on, by name: in the order of CVAT's numbers of the labels, new ones after all others.

    Parameters
    ----------
    file : Path
        Where they are kept; other processes may use it at the same time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._colors: dict[str, Rgb] = {}

    def learn(self, labels: Iterable[Mapping[str, Any]]) -> None:
        """Give values to labels as CVAT lists them, oldest first."""
        names = []
        for label in labels:
            name = str(label.get("name", ""))
            if not name or label.get("has_parent") or name.strip().lower() == BACKGROUND:
                continue
            names.append(name)
            color = _rgb(label.get("color"))
            if color:
                self._colors[name] = color
        if any(name not in self.values() for name in names):
            self._add(names)

    def values(self) -> dict[str, int]:
        """Value of each name."""
        try:
            return {str(name): int(value) for name, value in json.loads(self._file.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def value_of(self, name: str) -> int:
        """The value of a name, which it gets if it has none yet."""
        known = self.values()
        return known[name] if name in known else self._add([name])[name]

    def info(self, present: Iterable[int]) -> list[dict[str, Any]]:
        """What values stand for, as `label_info` of MONAI Label's notes: `name`, `idx`, perhaps `color`."""
        names = {value: name for name, value in self.values().items()}
        found = []
        for value in present:
            name = names.get(value, f"structure {value}")
            color = self._colors.get(name)
            found.append({"name": name, "idx": value, **({"color": list(color)} if color else {})})
        return found

    def _add(self, names: Iterable[str]) -> dict[str, int]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, FileLock(f"{self._file}.lock"):
            values = self.values()
            for name in names:
                if name not in values:
                    values[name] = max(values.values(), default=0) + 1
            handle, part = tempfile.mkstemp(prefix=".part-", dir=self._file.parent)
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump(values, stream, indent=1)
                os.replace(part, self._file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part)
                raise
            return values


def _rgb(color: object) -> Rgb | None:
    try:
        red, green, blue = bytes.fromhex(str(color).removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue
