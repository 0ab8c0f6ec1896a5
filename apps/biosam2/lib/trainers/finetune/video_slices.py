"""Frames of a labelled video on disk, without the whole of it in memory: some of those with a label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.datastores.labels import HIGHEST
from lib.errors import UserError
from lib.imaging.convert import RGB
from lib.imaging.video.frames import Frames
from lib.imaging.video.labels import LabelFrames, is_nifti, write_label_frames
from lib.imaging.video.open import is_over_time, open_video
from lib.imaging.volume import load_volume
from lib.trainers.finetune.stacks import (
    AROUND,
    IMAGE,
    LABELS,
    ON_THE_GRID,
    PIXELS,
    begin_stack,
    numbered,
)

MOST_FRAMES, MOST_BYTES = 300, 1_000_000_000
"""Kept of a video, at even distances: one frame is much like the next."""

__all__ = ["is_over_time", "write_video_slices"]


@dataclass(frozen=True)
class _Labelled:
    """What a label holds: its values, and the first and the last frame with one."""

    values: list[int]
    first: int
    last: int


def write_video_slices(image: Path, label: Path, name: str, folder: Path) -> list[int]:
    """Write the frames around the label and the label on them.

    Parameters
    ----------
    image, label : Path
        A video and its label (x, y, frame).
    name : str
        What messages call the image.
    folder : Path
        Gets `pixels.npy`, `labels.npy`, `label.nii.gz` and `image.nii.gz`.

    Returns
    -------
    list of int
        The values in the label, rising.

    Raises
    ------
    UserError
        If one of them cannot be read, the label is for a video of another size or length, or empty.
    """
    with open_video(image) as frames:
        found = _look_through(label, frames, name)
        frame = np.prod(frames.about.size) * (3 if frames.is_rgb else 1)
        first, last = max(0, found.first - AROUND), min(len(frames) - 1, found.last + AROUND)
        most = max(1, min(MOST_FRAMES, int(MOST_BYTES // frame)))
        kept = range(first, last + 1, max(1, -(-(last + 1 - first) // most)))
        _write(frames, label, found.values, kept, folder)
    return found.values


def _look_through(label: Path, frames: Frames, name: str) -> _Labelled:
    values: set[int] = set()
    seen: list[int] = []
    for index, plane in enumerate(_planes(label, frames, name)):
        if plane.any():
            here = np.unique(plane)
            if here.min() < 0 or here.max() > HIGHEST or not np.array_equal(here, np.rint(here)):
                raise UserError(f"the label of image {name} must hold whole numbers from 0 to {HIGHEST}.")
            values.update(int(value) for value in here if value)
            seen = [*seen[:1], index]
    if not seen:
        raise UserError(f"the label of image {name} is empty.")
    return _Labelled(sorted(values), seen[0], seen[-1])


def _planes(label: Path, frames: Frames, name: str) -> Iterator[np.ndarray]:
    """The frames of a label, one after the other."""
    with ExitStack() as opened:
        planes: Iterator[np.ndarray]
        if is_nifti(label):
            stream = opened.enter_context(LabelFrames(label))
            shape, planes = stream.shape, iter(stream)
        else:
            volume = load_volume(label)
            shape, planes = volume.shape3, (volume.voxels[:, :, k] for k in range(volume.shape3[2]))
        if shape != frames.shape3:
            raise UserError(
                f"the label of image {name} has {shape} voxels, and the video {frames.shape3}: "
                "it must have its width, height and frames."
            )
        yield from planes


def _write(frames: Frames, label: Path, values: list[int], kept: range, folder: Path) -> None:
    width, height = frames.about.size
    number = np.dtype(np.uint8 if len(values) < 256 else np.uint16)
    stack = (len(kept), width, height)
    # written, not mapped into memory: there, a full disk ends the process without a word
    with open(folder / PIXELS, "wb") as pixels, open(folder / LABELS, "wb") as labels:
        begin_stack(pixels, np.dtype(np.uint8), (*stack, 3) if frames.is_rgb else stack)
        begin_stack(labels, number, stack)
        for index in kept:
            pixels.write(frames[index].tobytes())
        for index, plane in enumerate(_planes(label, frames, "")):
            if index in kept:
                labels.write(numbered(plane, values, number))
            if index >= kept[-1]:
                break
    shape, affine = (width, height, len(kept)), frames.about.affine
    seen = (frames[index] for index in kept)
    if frames.is_rgb:
        seen = (np.ascontiguousarray(frame).view(RGB)[..., 0] for frame in seen)
    value = np.dtype(np.uint8 if max(values) < 256 else np.uint16)
    on_kept = (plane for index, plane in enumerate(_planes(label, frames, "")) if index in kept)
    with open(folder / IMAGE, "wb") as image:
        write_label_frames(image, seen, shape, affine, RGB if frames.is_rgb else np.dtype(np.uint8), True)
    with open(folder / ON_THE_GRID, "wb") as on_grid:
        write_label_frames(on_grid, on_kept, shape, affine, value, True)
