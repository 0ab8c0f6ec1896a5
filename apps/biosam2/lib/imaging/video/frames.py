"""Frames: a video as a list of pictures that are decoded when they are looked at, and soon forgotten."""

from __future__ import annotations

import threading
from collections import OrderedDict
from operator import index as as_index
from pathlib import Path
from typing import Self

import numpy as np

from lib.errors import Unprocessable
from lib.imaging.video.source import FPS, Source, VideoKind
from lib.imaging.volume import Volume
from lib.imaging.window import Window, choose_window, to_uint8

KEEP_BYTES = 64_000_000
"""Decoded frames that one reader keeps: 277 of 320 x 240 in colour, 10 of 1920 x 1080."""

SAMPLE = 16  # frames from which a window is chosen where no tag says it


class Frames:
    """The frames of a video. Thread-safe.

    Parameters
    ----------
    source : Source
    window : object, optional
        What the person asked for, see `choose_window`. Colour has none.
    keep_bytes : int
        Bound on the decoded frames that are kept, least recently used first out; one always is.

    Examples
    --------
    >>> with open_video(path) as frames:
    ...     last = frames[len(frames) - 1]      # uint8 (W, H) or (W, H, 3)
    """

    def __init__(self, source: Source, window: object = None, keep_bytes: int = KEEP_BYTES) -> None:
        self._source, self._asked = source, window
        self.about = source.about
        width, height = self.about.size
        frame = width * height * (3 if self.about.is_rgb else 1)
        self.keep = max(1, keep_bytes // frame)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.RLock()
        self._window: Window | None = None

    def __len__(self) -> int:
        return len(self.about.times)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame `index` as it is shown: read-only uint8 (W, H) or (W, H, 3), [x, y].

        Raises
        ------
        IndexError
            If there is no such frame (so that a loop over frames ends).
        Unprocessable
            If it is damaged, or has another size than the others.
        """
        number = as_index(index)
        if not 0 <= number < len(self):
            raise IndexError(f"frame {number} is not one of the frames 0 to {len(self) - 1}")
        with self._lock:
            self._prepare()  # reads by itself, which must not come between what is read below
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found
            for n, raw in self._source.read(number, self.keep):
                self._keep(n, self._shown(n, raw))
            return self._kept[number]

    def raw(self, index: int) -> np.ndarray:
        """Frame `index` with the values that are stored, (W, H) or (W, H, 3); it is not kept."""
        with self._lock:
            found = {n: raw for n, raw in self._source.read(index, 1) if n == index}[index]
        self._check(index, found)
        return found

    @property
    def path(self) -> Path:
        return self.about.path

    @property
    def kind(self) -> VideoKind:
        return self.about.kind

    @property
    def is_rgb(self) -> bool:
        return self.about.is_rgb

    @property
    def volume(self) -> Volume | None:
        """The volume whose slices the frames are; None where there is none in memory."""
        return getattr(self._source, "volume", None)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.about.warnings

    @property
    def shape3(self) -> tuple[int, int, int]:
        """(W, H, frames): the video as a volume along time."""
        return *self.about.size, len(self)

    @property
    def times(self) -> np.ndarray:
        """Seconds of each frame since the first one, float64 (N,)."""
        return self.about.times

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        length = float(self.times[-1] - self.times[0])
        return (len(self) - 1) / length if length > 0 else FPS

    @property
    def window(self) -> Window:
        """What becomes black and white, chosen once: from the tags, or from frames all over the video."""
        with self._lock:
            self._prepare()
            assert self._window is not None
            return self._window

    def one(self, index: int) -> Volume:
        """A frame by itself, as it is shown: a flat image (W, H, 1) or (W, H, 1, 3)."""
        return Volume(
            voxels=self[index][:, :, np.newaxis],
            affine=self.about.affine,
            slice_axis=2,
            modality=self.about.modality,
            window=None,
            path=self.path,
            kind="raster",
        )

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, index: int, frame: np.ndarray) -> None:
        frame.flags.writeable = False
        self._kept[index] = frame
        self._kept.move_to_end(index)
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)

    def _prepare(self) -> None:
        """Choose the window, once."""
        if self._window is None:
            first = self.raw(0)
            self._window = self._choose_window(first)
            self._keep(0, self._shown(0, first))

    def _shown(self, index: int, raw: np.ndarray) -> np.ndarray:
        self._check(index, raw)
        window = self._window
        assert window is not None  # it is chosen before the first frame is shown
        if raw.ndim == 3 and raw.dtype == np.uint8:
            return raw
        if raw.dtype == np.uint8 and (window.low, window.high) == (0, 255):
            return raw
        return to_uint8(raw, window)

    def _check(self, index: int, raw: np.ndarray) -> None:
        """Refuse a frame that is not like the first one: no mask could go on from one to the other."""
        if raw.shape[:2] != self.about.size:
            (w, h), (width, height) = raw.shape[:2], self.about.size
            raise Unprocessable(
                f"video '{self.path.name}' changes its size: frame {index} has {w} x {h} pixels, "
                f"the frames before {width} x {height}."
            )
        if (raw.ndim == 3) != self.is_rgb:
            kinds = ("gray", "in colour") if raw.ndim == 3 else ("in colour", "gray")
            raise Unprocessable(
                f"video '{self.path.name}' changes from {kinds[0]} to {kinds[1]} at frame {index}."
            )

    def _choose_window(self, first: np.ndarray) -> Window:
        about = self.about
        if about.window is None and self._asked is None and first.dtype != np.uint8:
            some = np.unique(np.linspace(0, len(self) - 1, SAMPLE).round().astype(int))
            voxels = np.stack([self.raw(int(n)) for n in some], axis=2)
        else:
            voxels = first[:, :, np.newaxis]
        kind = "dicom" if about.kind == "dicom" else "raster"
        sample = Volume(voxels, about.affine, 2, about.modality, about.window, about.path, kind)  # type: ignore[arg-type]
        return choose_window(sample, self._asked)
