"""Book: what is drawn on the frames of a task, kept on disk as it was exported last.

A line of JSON a frame, so that one label is read without the thousands beside it, and a digest of each, so
that only labels that have changed are new ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib.datastores.cvat.annotations import Drawn
from lib.errors import NotFound

FORMAT = 1  # of the file
DIGEST = 12  # hexadecimal digits


class Book:
    """The frames of one task.

    Attributes
    ----------
    stamp : str
        What the task's jobs were at when it was exported, see `lib.datastores.cvat.catalogue.Task.stamp`.
    digests : dict
        By frame of the task, where something is drawn that is a mask: what stands for it.
    others : Counter
        How many things there are of each kind that is no mask.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: dict[int, tuple[int, int]] = {}
        self.digests: dict[int, str] = {}
        self.others: Counter[str] = Counter()
        with file.open("rb") as stream:
            about = json.loads(stream.readline())
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}")
            self.stamp = str(about["stamp"])
            self._signature = _signature(os.fstat(stream.fileno()))
            begin = stream.tell()
            for line in stream:
                drawn = json.loads(line)
                self._lines[drawn["frame"]] = begin, len(line)
                self.others.update(drawn["others"])
                if drawn["shapes"]:
                    self.digests[drawn["frame"]] = hashlib.sha256(line).hexdigest()[:DIGEST]
                begin += len(line)

    @classmethod
    def open(cls, file: Path) -> Book | None:
        """The book in a file, if there is one that can be read."""
        try:
            return cls(file)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @classmethod
    def write(cls, file: Path, stamp: str, frames: Iterable[Drawn], start: int, step: int) -> Book:
        """Put a new book in its place, whole or not at all.

        Parameters
        ----------
        file : Path
        stamp : str
        frames : iterable of Drawn
            By frame of the source.
        start, step : int
            Of the task.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_line({"format": FORMAT, "stamp": stamp}))
                for drawn in frames:
                    stream.write(_line(_numbered(drawn, (drawn.frame - start) // step)))
            os.replace(name, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        return cls(file)

    def is_current(self) -> bool:
        """Whether the file is still the one that was read: another process may have put a newer one there."""
        try:
            return _signature(os.stat(self._file)) == self._signature
        except OSError:
            return False

    def drawn(self, frame: int) -> dict[str, Any]:
        """What is drawn on a frame: `width`, `height`, `shapes`, `others`, as `Drawn` has them.

        Raises
        ------
        NotFound
            If the export did not have the frame.
        OSError
            If another process has put a newer book there.
        """
        if frame not in self._lines:
            raise NotFound(f"CVAT's export has no frame {frame}: it was deleted there.")
        begin, length = self._lines[frame]
        with self._file.open("rb") as stream:
            if _signature(os.fstat(stream.fileno())) != self._signature:
                raise OSError(f"{self._file.name} is a newer one")
            stream.seek(begin)
            return dict(json.loads(stream.read(length)))


def _numbered(drawn: Drawn, frame: int) -> dict[str, Any]:
    return {
        "frame": frame,
        "width": drawn.width,
        "height": drawn.height,
        "shapes": drawn.shapes,
        "others": drawn.others,
    }


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
