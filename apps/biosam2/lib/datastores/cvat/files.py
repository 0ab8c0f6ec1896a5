"""Files: images and labels on this server's disk, each with a note beside it, put in their place whole.

A file goes to its place before its note does: one without its note counts as not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PART = ".part-"
LEFT_SECONDS = 3600.0  # after which a part belongs to a server that was killed in the middle
NOTE = ".json"
LABEL = ".png"
IMAGES, LABELS = "images", "labels"
IMAGE_BYTES = 20 * 10**9  # of images, beyond which those go that were not used for the longest time
IN_USE_SECONDS = 3600.0  # but none that somebody may be reading


class Files:
    """A folder with `images/ID.png` or `.jpg` and `labels/TAG/ID.png`; several processes may use it.

    Ids and tags become file names: whoever calls has checked them.

    Parameters
    ----------
    folder : Path
    image_bytes : int
        Bound on the images together. Labels are small, and stay.
    """

    def __init__(self, folder: Path, image_bytes: int = IMAGE_BYTES) -> None:
        self.folder = folder
        self._image_bytes = image_bytes
        self._lock = threading.Lock()
        self._images = folder / IMAGES
        for left in folder.glob(f"{PART}*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        self._bytes = sum(size for _, size, _ in self._by_use())

    @contextmanager
    def workshop(self) -> Iterator[Path]:
        """A folder to make files in, on the same disk, so that they can be moved to their place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=self.folder) as work:
            yield Path(work)

    # Images

    def image(self, image: str) -> Path | None:
        """The file of an image, if it is here whole; it counts as used now."""
        suffix = self.image_info(image).get("ext")
        path = self._images / f"{image}{suffix}"
        if suffix not in (".png", ".jpg") or not path.exists():
            return None
        with suppress(OSError):
            os.utime(path)
        return path

    def image_info(self, image: str) -> dict[str, Any]:
        """The note of an image; empty if it is not here."""
        return _read(self._images / f"{image}{NOTE}")

    def keep_image(self, image: str, file: Path, info: dict[str, Any]) -> Path:
        """Move an image from a workshop to its place, and let others go if there are too many."""
        place = self._images / f"{image}{file.suffix}"
        self._images.mkdir(parents=True, exist_ok=True)
        size = file.stat().st_size
        os.replace(file, place)
        os.utime(place)
        _write(self._images / f"{image}{NOTE}", {**info, "ext": file.suffix, "name": place.name})
        with self._lock:
            self._bytes += size
            if self._bytes > self._image_bytes:
                self._make_room()
        return place

    def update_image_info(self, image: str, info: dict[str, Any]) -> None:
        """Add to the note of an image."""
        with self._lock:
            note = self._images / f"{image}{NOTE}"
            _write(note, {**_read(note), **info})

    def images(self) -> list[str]:
        """The images that are here."""
        return sorted(path.stem for path in self._images.glob(f"*{NOTE}"))

    def _make_room(self) -> None:
        found = sorted(self._by_use())
        self._bytes = sum(size for _, size, _ in found)
        for used, size, path in found:
            if self._bytes <= 0.9 * self._image_bytes or time.time() - used < IN_USE_SECONDS:
                break
            # The note stays: what strategies know of an image is not in CVAT.
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _by_use(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._images.glob("*"):
            if path.suffix != NOTE:
                with suppress(OSError):
                    found = path.stat()
                    yield found.st_mtime, found.st_size, path

    # Labels

    def label(self, image: str, tag: str) -> Path | None:
        """The file of a label, if it is here whole."""
        path = self._label(image, tag)
        return path if path.exists() and path.with_suffix(NOTE).exists() else None

    def label_info(self, image: str, tag: str) -> dict[str, Any]:
        """The note of a label; empty if it is not here."""
        return _read(self._label(image, tag).with_suffix(NOTE))

    def keep_label(self, image: str, tag: str, file: Path, info: dict[str, Any]) -> Path:
        """Move a label from a workshop to its place."""
        place = self._label(image, tag)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
        os.chmod(place, 0o644)
        self.update_label_info(image, tag, {**info, "ts": int(time.time()), "name": place.name}, anew=True)
        return place

    def update_label_info(self, image: str, tag: str, info: dict[str, Any], anew: bool = False) -> None:
        """Add to the note of a label, or write it anew."""
        note = self._label(image, tag).with_suffix(NOTE)
        with self._lock:
            _write(note, info if anew else {**_read(note), **info})

    def remove_label(self, image: str, tag: str) -> None:
        """Remove a label that is kept here."""
        place = self._label(image, tag)
        place.with_suffix(NOTE).unlink(missing_ok=True)
        place.unlink(missing_ok=True)

    def tags(self) -> dict[str, list[str]]:
        """Tag -> the images that have such a label here."""
        found = {}
        for folder in sorted((self.folder / LABELS).glob("*")):
            images = sorted(path.stem for path in folder.glob(f"*{NOTE}"))
            if images:
                found[folder.name] = images
        return found

    def _label(self, image: str, tag: str) -> Path:
        return self.folder / LABELS / tag / f"{image}{LABEL}"


def _read(note: Path) -> dict[str, Any]:
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(note: Path, content: dict[str, Any]) -> None:
    handle, name = tempfile.mkstemp(prefix=PART, suffix=".tmp", dir=note.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, default=str)
        os.chmod(name, 0o644)
        os.replace(name, note)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
