"""MP4, AVI, MOV, MKV: frames by number, from the key frame before them, in either direction."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from lib.errors import Unprocessable
from lib.imaging.readers.raw import reading
from lib.imaging.video.source import About, Source

logger = logging.getLogger(__name__)

CONTAINERS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
MOST_FRAMES = 2_000_000  # 18 hours at 30 a second: more is a damaged index
GRAY = ("gray", "gray10le", "gray12le", "gray16le", "monow", "monob")
# A frame after a key frame may need pictures from before it (open GOPs): so many key frames earlier at most.
EARLIER = 3


@dataclass(frozen=True, eq=False)
class Index:
    """Which frames a file has, found once without decoding them.

    Attributes
    ----------
    stamps : list of int
        Presentation time stamps of the frames in the order in which they are shown.
    place : dict of int to int
        Frame by stamp.
    keys : list of int
        Frames that can be decoded by themselves, rising.
    about : About
    """

    stamps: list[int]
    place: dict[int, int]
    keys: list[int]
    about: About


def index_container(path: Path) -> Index:
    """Read which frames a video file has.

    Raises
    ------
    Unprocessable
        If it is damaged or empty, or has no pictures in it.
    """
    with reading(path, "a video"):
        with av.open(str(path)) as container:
            stream = _video_of(container, path)
            rotation, first = _first_frame(container, stream, path)
            # AVI has no time stamps: those that are made up for frames out of order are wrong
            made_up = container.format.name == "avi" and stream.codec_context.has_b_frames
        with av.open(str(path)) as container:
            stream = _video_of(container, path)
            stamps, keys = _decoded(container, stream) if made_up else _listed(container, stream)
            unit = float(stream.time_base or 0)
        if not stamps:
            raise Unprocessable(f"video '{path.name}' has no frames.")
        if len(stamps) > MOST_FRAMES:
            raise Unprocessable(f"video '{path.name}' has {len(stamps)} frames, more than {MOST_FRAMES}.")
    place = {stamp: n for n, stamp in enumerate(stamps)}
    # without time stamps of their own, what was made up counts frames
    times = (np.array(sorted(stamps)) - min(stamps)) * unit
    warnings: tuple[str, ...] = ()
    if rotation:
        warnings = (
            f"The video says that it is to be turned by {rotation} degrees: it is shown as it was recorded.",
        )
    about = About(
        path, "container", (first.width, first.height), not _is_gray(first), times, warnings=warnings
    )
    return Index(stamps, place, sorted({0, *(place[key] for key in keys if key in place)}), about)


class Container(Source):
    """An open video file.

    Parameters
    ----------
    path : Path
    index : Index
    """

    def __init__(self, path: Path, index: Index) -> None:
        self._path, self._index = path, index
        self.about = index.about
        self._opened: Any = None
        self._coming: Iterator[Any] = iter(())
        self._next: int | None = None  # the frame that comes next, if nothing is sought

    def read(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        start = self._index.keys[bisect_right(self._index.keys, index) - 1]
        if self._next is not None and start <= self._next <= index:
            # on from where the last one ended
            for n, frame in self._until(index, keep):
                yield n, frame
                if n == index:
                    return
        at = bisect_right(self._index.keys, index) - 1
        for key in [*self._index.keys[max(0, at - EARLIER) : at + 1][::-1], 0]:
            self._seek(key)
            for n, frame in self._until(index, keep):
                yield n, frame
                if n == index:
                    return
        raise Unprocessable(
            f"video '{self._path.name}' is damaged: frame {index} of {len(self._index.stamps)} is unreadable."
        )

    def close(self) -> None:
        self._coming, self._next = iter(()), None
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _until(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        """The last frames up to `index`, which is not among them if it is damaged."""
        self._next = None  # unknown, should the decoder fail
        try:
            for frame in self._coming:
                n = self._index.place.get(frame.pts)
                if n is None:
                    continue
                if n >= index:
                    self._next = n + 1  # before it is given: whoever has it may not ask for more
                if index - keep < n <= index:
                    yield n, _pixels(frame)
                if n >= index:
                    return
        except FFmpegError as error:
            logger.info("%s, before frame %d: %s", self._path, index, error)

    def _seek(self, key: int) -> None:
        self.close()
        with reading(self._path, "a video"):
            self._opened = av.open(str(self._path))
            stream = _video_of(self._opened, self._path)
            if key:
                self._opened.seek(self._index.stamps[key], stream=stream, backward=True)
        self._coming = self._opened.decode(stream)


def _video_of(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise Unprocessable(f"video '{path.name}' has no video in it: it is damaged or holds something else.")
    stream = container.streams.video[0]
    # by slices of a picture: by whole frames, each thread would hold some of them
    stream.thread_type = "SLICE"
    return stream


def _first_frame(container: Any, stream: Any, path: Path) -> tuple[int, Any]:
    for frame in container.decode(stream):
        return int(getattr(frame, "rotation", 0) or 0), frame
    raise Unprocessable(f"video '{path.name}' has no frames.")


def _listed(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """Stamps of all frames, and of the key frames, from the packets."""
    stamps, keys = set(), []
    try:
        for packet in container.demux(stream):
            if packet.pts is None or packet.is_discard or not packet.size:
                continue
            stamps.add(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            if len(stamps) > MOST_FRAMES:
                break
    except FFmpegError as error:  # cut off: what is there before is a video
        logger.info("%s ends early: %s", container.name, error)
    return sorted(stamps), keys


def _decoded(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """The same in the order in which the decoder gives frames, where stamps cannot tell it."""
    stamps: dict[int, bool] = {}
    try:
        for frame in container.decode(stream):
            if frame.pts is not None:
                stamps.setdefault(frame.pts, bool(frame.key_frame))
            if len(stamps) > MOST_FRAMES:
                break
    except FFmpegError as error:
        logger.info("%s ends early: %s", container.name, error)
    return list(stamps), [stamp for stamp, is_key in stamps.items() if is_key]


def _is_gray(frame: Any) -> bool:
    return frame.format.name in GRAY


def _pixels(frame: Any) -> np.ndarray:
    """A decoded frame as uint8 (W, H) or (W, H, 3)."""
    if _is_gray(frame):
        pixels = frame.to_ndarray(format="gray")
    else:
        pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(pixels.swapaxes(0, 1))
