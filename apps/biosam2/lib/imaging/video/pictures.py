"""A folder or ZIP of pictures as a video: in the order in which a person would number them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.readers.raster import pixels_of
from lib.imaging.readers.raw import reading
from lib.imaging.video.source import About, Source, even_times

FOLDER, ARCHIVE = ".frames", ".frames.zip"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MOST_BYTES = 1 << 28  # of one picture in an archive, unpacked


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """The pictures' names in their order."""

    about: About
    names: tuple[str, ...]


def natural(name: str) -> tuple[object, ...]:
    """A key that sorts frame2 before frame10, and folders in an archive one after the other."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts) + (name,)


def index_pictures(path: Path) -> PictureIndex:
    """List the pictures of a folder or an archive, and compare their sizes.

    Raises
    ------
    Unprocessable
        If there is none, one cannot be read, or they have different sizes.
    """
    with (
        reading(path, "a folder of pictures" if path.is_dir() else "a ZIP of pictures"),
        _Shelf(path) as shelf,
    ):
        names = tuple(sorted(shelf.names(), key=natural))
        if not names:
            raise Unprocessable(f"video '{path.name}' has no frames: there is no picture in it.")
        size: tuple[int, int] | None = None
        for n, name in enumerate(names):
            here = _size(shelf, name, n, path)
            size = size or here
            if here != size:
                raise Unprocessable(
                    f"video '{path.name}' changes its size: frame {n} ({name[-80:]}) has {here[0]} x "
                    f"{here[1]} pixels, the frames before {size[0]} x {size[1]}."
                )
        first = _pixels(shelf, names[0])
        assert size is not None
        about = About(path, "pictures", size, first.ndim == 3, even_times(len(names), None))
        return PictureIndex(about, names)


class Pictures(Source):
    """An open folder or archive of pictures.

    Parameters
    ----------
    path : Path
    index : PictureIndex
    """

    def __init__(self, path: Path, index: PictureIndex) -> None:
        self._path, self._index, self.about = path, index, index.about
        self._shelf: _Shelf | None = None

    def read(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        name = self._index.names[index]
        with reading(self._path, f"a video (frame {index}, {name[-80:]})"):
            if self._shelf is None:
                self._shelf = _Shelf(self._path)
            pixels = _pixels(self._shelf, name)
            if self.about.is_rgb and pixels.ndim == 2:
                pixels = np.repeat(pixels[..., None], 3, 2)
            yield index, pixels

    def close(self) -> None:
        if self._shelf is not None:
            self._shelf.close()
            self._shelf = None


class _Shelf:
    """Files by name, in a folder or in an archive."""

    def __init__(self, path: Path) -> None:
        self._folder = path if path.is_dir() else None
        self._archive = None if path.is_dir() else zipfile.ZipFile(path)

    def names(self) -> list[str]:
        if self._folder is not None:
            found = [file.name for file in self._folder.iterdir() if file.is_file()]
        else:
            assert self._archive is not None
            found = [entry.filename for entry in self._archive.infolist() if not entry.is_dir()]
        return [name for name in found if _is_picture(PurePosixPath(name))]

    def open(self, name: str) -> IO[bytes]:
        if self._folder is not None:
            return open(self._folder / name, "rb")
        assert self._archive is not None
        if self._archive.getinfo(name).file_size > MOST_BYTES:
            raise Unprocessable(f"picture {name[-80:]} has more than {MOST_BYTES >> 20} MB.")
        return self._archive.open(name)

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> _Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_picture(name: PurePosixPath) -> bool:
    # macOS puts a ._ file beside each of its own into archives
    return name.suffix.lower() in PICTURES and not name.name.startswith(".") and "__MACOSX" not in name.parts


def _size(shelf: _Shelf, name: str, index: int, path: Path) -> tuple[int, int]:
    what = f"a video (frame {index}, {name[-80:]})"
    with reading(path, what), shelf.open(name) as file, Image.open(file) as picture:
        return picture.size  # of the head alone: no pixel is read


def _pixels(shelf: _Shelf, name: str) -> np.ndarray:
    with shelf.open(name) as file, Image.open(file) as picture:
        return np.ascontiguousarray(pixels_of(picture))
