"""A path -> the frames of the video there, whatever it is stored in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from lib.errors import NotFound
from lib.imaging.readers.dicom import is_dicom_file
from lib.imaging.readers.dicom_note import NIFTI, read_note
from lib.imaging.store import load_cached, signature
from lib.imaging.video.along import Along
from lib.imaging.video.container import CONTAINERS, Container, index_container
from lib.imaging.video.dicom import DicomVideo, frames_of, index_dicom
from lib.imaging.video.frames import KEEP_BYTES, Frames
from lib.imaging.video.pictures import ARCHIVE, FOLDER, Pictures, index_pictures
from lib.imaging.video.source import Source
from lib.imaging.volume import OVER_TIME

VIDEO = (*CONTAINERS, FOLDER, ARCHIVE)
"""Endings of what is a video and nothing else."""

DICOM = (".dcm", ".dicom")
MOST_INDEXES = 16


def is_video(path: Path) -> bool:
    """Whether a path can only be a video, by its name: DICOM and volumes are images as well."""
    return path.name.lower().endswith(VIDEO)


def open_video(path: Path, window: object = None, keep_bytes: int = KEEP_BYTES) -> Frames:
    """Open a video; close it when done.

    Parameters
    ----------
    path : Path
        MP4, M4V, MOV, AVI, MKV or WebM; a multi-frame DICOM file; a folder of pictures (``NAME.frames``) or
        a ZIP of them (``NAME.frames.zip``); or any other image, whose slices are then the frames. An image
        that was made of one multi-frame file of an archive is read from that file, if it is still beside it.
    window : object, optional
        As for `choose_window`.
    keep_bytes : int
        See `Frames`.

    Raises
    ------
    NotFound
        If there is nothing at `path`.
    Unprocessable
        If it is damaged or empty, has no video in it, or frames of different sizes.
    """
    if not path.exists():
        raise NotFound(f"video '{path.name}' does not exist")
    return Frames(_source(path), window, keep_bytes)


def is_over_time(path: Path) -> bool:
    """Whether an image is to be read frame by frame: a video, or DICOM frames that follow in time."""
    if is_video(path):
        return True
    try:
        file = _multi_frame_file(path)
        if file is None:
            return False
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"], force=True)
    except (InvalidDicomError, OSError):
        return False
    return str(header.get("Modality") or "").strip().upper() in OVER_TIME


def is_multi_frame(path: Path) -> bool:
    """Whether a file is a DICOM image, and no segmentation, of several frames."""
    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["NumberOfFrames", "Modality", "Rows"], force=True
        )
    except (InvalidDicomError, OSError, EOFError, ValueError, TypeError, NotImplementedError):
        return False
    return "Rows" in header and header.get("Modality") != "SEG" and frames_of(header) > 1


def _source(path: Path) -> Source:
    name = path.name.lower()
    if name.endswith(CONTAINERS):
        return Container(path, _indexes.get(path, index_container))
    if name.endswith((FOLDER, ARCHIVE)):
        return Pictures(path, _indexes.get(path, index_pictures))
    file = _multi_frame_file(path)
    if file is not None:
        return DicomVideo(file, _indexes.get(file, index_dicom))
    return Along(load_cached(path))


def _multi_frame_file(path: Path) -> Path | None:
    """The multi-frame file that a path is, or that holds the frames of a NIfTI file made of it."""
    name = path.name.lower()
    if path.is_dir():
        return _only_file(path)
    if name.endswith(NIFTI):
        ending = next(ending for ending in NIFTI if name.endswith(ending))
        series = path.with_name(path.name[: -len(ending)])
        note = read_note(path)
        return _only_file(series) if note is not None and note.instances == 1 and series.is_dir() else None
    if name.endswith(DICOM) or is_dicom_file(path):
        return path if is_multi_frame(path) else None
    return None


def _only_file(folder: Path) -> Path | None:
    files = [file for file in folder.iterdir() if file.is_file()]
    return files[0] if len(files) == 1 and is_multi_frame(files[0]) else None


class _Indexes:
    """What was found out about the last few videos, so that a second request need not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, find: Callable[[Path], Any]) -> Any:
        key = (path.resolve(), signature(path))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = find(path)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


_indexes = _Indexes(MOST_INDEXES)
