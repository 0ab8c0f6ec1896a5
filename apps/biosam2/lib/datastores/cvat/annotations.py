"""Reads an export of CVAT ("CVAT for images 1.1"): a zip with an XML file -> what is drawn on each frame.

A file from another server may be anything: what is unpacked is bounded, the XML is read as a stream, may have
no document type (and so no entities), and nothing in it becomes a path.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lib.errors import Unavailable

UNPACKED_BYTES = 4 << 30
CHUNK_BYTES = 1 << 20
ANNOTATIONS = "annotations.xml"
# What covers pixels, and what is kept of it. Boxes, points and lines do not say which pixels are meant.
DRAWN = {
    "mask": ("label", "z_order", "rle", "left", "top", "width", "height"),
    "polygon": ("label", "z_order", "points"),
    "ellipse": ("label", "z_order", "cx", "cy", "rx", "ry", "rotation"),
}
NOT_DRAWN = ("box", "polyline", "points", "cuboid", "skeleton")


@dataclass
class Drawn:
    """What is drawn on a frame, as the file has it: not checked yet.

    Attributes
    ----------
    frame : int
        In the source, see `lib.datastores.cvat.catalogue.Task`.
    width, height : str
    shapes : list of dict
        `kind`, one of `DRAWN`, and its attributes; the last ones lie on top.
    others : Counter
        How many there are of each kind that is no mask.
    """

    frame: int
    width: str
    height: str
    shapes: list[dict[str, Any]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


class Damaged(Unavailable):
    """An export that is no zip, or has not in it what it should."""


def read_export(file: Path, task: int) -> Iterator[Drawn]:
    """What is drawn on each frame of a task, also on those with nothing, in the order of the file.

    Parameters
    ----------
    file : Path
        The zip.
    task : int
        Whose it is, for the sentences of errors.

    Raises
    ------
    Damaged
        If it is damaged, no such export, or unpacks to more than `UNPACKED_BYTES`.
    """
    what = f"the export of task {task} from CVAT"
    try:
        with zipfile.ZipFile(file) as archive, archive.open(ANNOTATIONS) as stream:
            reader = _Reader()
            size = 0
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                if size > UNPACKED_BYTES:
                    raise Damaged(f"{what} unpacks to more than {UNPACKED_BYTES >> 30} GB.")
                yield from reader.feed(chunk)
            yield from reader.feed(b"", last=True)
    except KeyError:
        raise Damaged(f"{what} has no {ANNOTATIONS} in it.") from None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"{what} is damaged ({error}): try again.") from None
    except _NotReadable as error:
        raise Damaged(f"{what} cannot be read: {error}.") from None
    except (expat.ExpatError, ValueError) as error:
        raise Damaged(f"{what} is damaged ({error}): try again.") from None


class _NotReadable(Exception):
    """XML that CVAT does not write."""


class _Reader:
    """Frames as the XML of an export is fed."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._path: list[str] = []
        self._open: Drawn | None = None
        self._ready: list[Drawn] = []

    def feed(self, chunk: bytes, last: bool = False) -> list[Drawn]:
        """The frames that end in this chunk."""
        self._parser.Parse(chunk, last)
        ready, self._ready = self._ready, []
        return ready

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if self._path[0] != "annotations":
            raise _NotReadable(f"it begins with <{self._path[0][:40]}>")
        if len(self._path) == 2 and name == "image":
            size = attributes.get("width", ""), attributes.get("height", "")
            self._open = Drawn(int(attributes.get("id", "")), *size)
        # deeper ones are attributes, or the parts of a skeleton
        elif self._open is not None and len(self._path) == 3:
            if name in DRAWN:
                kept = {key: attributes[key] for key in DRAWN[name] if key in attributes}
                self._open.shapes.append({"kind": name, **kept})
            elif name in NOT_DRAWN:
                self._open.others[name] += 1

    def _end(self, name: str) -> None:
        self._path.pop()
        if self._open is not None and len(self._path) == 1:
            self._ready.append(self._open)
            self._open = None

    def _refuse(self, *_: object) -> None:
        raise _NotReadable("it declares a document type")
