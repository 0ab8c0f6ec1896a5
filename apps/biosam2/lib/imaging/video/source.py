"""What a reader of one format tells of a video, and how it gives frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lib.imaging.geometry import LPS_FLIP

VideoKind = Literal["container", "dicom", "pictures", "volume"]
FPS = 25.0  # frames a second where nothing says it


@dataclass(frozen=True, eq=False)
class About:
    """What is known of a video before a frame is decoded.

    Attributes
    ----------
    path : Path
        The file or folder.
    kind : str
        ``"container"`` (MP4, AVI, …), ``"dicom"``, ``"pictures"`` (a folder or ZIP of them), ``"volume"``.
    size : (W, H)
        Pixels of a frame.
    is_rgb : bool
        Whether frames are in colour.
    times : ndarray float64 (N,)
        Seconds of each frame since the first one.
    modality : str
        DICOM Modality (0008,0060), "" where there is none.
    window : tuple of float or None
        (level, width) from DICOM's tags.
    affine : ndarray
        4x4, (x, y, frame) to RAS+ mm, for labels of the video; what has no place in a patient lies where ITK,
        and Slicer with it, puts a picture.
    header : object or None
        The NIfTI header of a video that is a volume.
    warnings : tuple of str
        Sentences for the person.
    """

    path: Path
    kind: VideoKind
    size: tuple[int, int]
    is_rgb: bool
    times: np.ndarray
    modality: str = ""
    window: tuple[float, float] | None = None
    affine: np.ndarray = field(default_factory=LPS_FLIP.copy)
    header: object | None = None
    warnings: tuple[str, ...] = ()


class Source(ABC):
    """An open video; used by one thread at a time (`lib.imaging.video.frames.Frames` sees to that)."""

    about: About

    @abstractmethod
    def read(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        """Decode a frame.

        Parameters
        ----------
        index : int
            0-based, inside the video.
        keep : int
            How many frames are kept. Those that had to be decoded on the way to `index` may be given too.

        Yields
        ------
        int, ndarray
            Frames (W, H) or (W, H, 3) in the type that is stored, `index` the last one of them.

        Raises
        ------
        Unprocessable
            If the frame is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files."""


def even_times(count: int, fps: float | None) -> np.ndarray:
    """Times of frames in even steps, float64 (N,)."""
    return np.arange(count) / (fps if fps and np.isfinite(fps) and fps > 0 else FPS)
