"""Slices of a labelled case on disk, as the network sees them: windowed once, then read one by one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lib.datastores.labels import read_label
from lib.errors import UserError
from lib.imaging.answer import write_mask
from lib.imaging.volume import Volume, load_volume
from lib.imaging.window import choose_window, to_uint8
from lib.trainers.finetune.cases import LabelledCase
from lib.trainers.finetune.stacks import (
    ABOUT,
    AROUND,
    IMAGE,
    LABELS,
    ON_THE_GRID,
    PIXELS,
    begin_stack,
    numbered,
)
from lib.trainers.finetune.video_slices import is_over_time, write_video_slices
from lib.trainers.real import Scan


@dataclass(frozen=True)
class CachedCase:
    """A folder with `pixels.npy` uint8 (K, A, B[, 3]), `labels.npy` (K, A, B) and what they are.

    The labels are numbered from 1 in the order of `structures`.
    """

    folder: Path

    @cached_property
    def structures(self) -> list[str]:
        return list(json.loads((self.folder / ABOUT).read_text())["structures"])

    @cached_property
    def values(self) -> list[int]:
        """Those that the structures have in the label itself."""
        return list(json.loads((self.folder / ABOUT).read_text())["values"])

    @property
    def label(self) -> Path:
        """The label resampled onto the image's grid, with its own values."""
        return self.folder / ON_THE_GRID

    @property
    def image(self) -> Path | None:
        """Of a video: the frames that were kept, on the label's grid; None for others, kept as they are."""
        path = self.folder / IMAGE
        return path if path.exists() else None

    @property
    def slices(self) -> int:
        """How many there are."""
        return len(np.load(self.folder / LABELS, mmap_mode="r"))

    def scan(self) -> Scan:
        """Its slices; read from the disk when they are looked at."""
        pixels, labels = (np.load(self.folder / name, mmap_mode="r") for name in (PIXELS, LABELS))
        return Scan({0: (pixels, labels)})


def cache_case(case: LabelledCase, cache: Path) -> CachedCase:
    """Put a case's slices on disk, unless they are there; whole or not at all.

    The label is brought onto the image's grid, and what is not named gets its number for a name.

    Raises
    ------
    UserError
        If image or label cannot be read, the label lies beside the image, or is empty.
    OSError
        If the disk is full.
    """
    place = cache / case.sha256
    found = CachedCase(place)
    if place.exists():
        _name(found, case)
    else:
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
        try:
            values = _write_slices(case, work)
            (work / ABOUT).write_text(_about(case, values))
            os.rename(work, place)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return found


def forget_others(cache: Path, kept: Iterable[LabelledCase]) -> None:
    """Remove the slices of cases that are no longer there or have another label, and unfinished ones."""
    names = {case.sha256 for case in kept}
    for folder in list(cache.iterdir()) if cache.exists() else ():
        if folder.name not in names:
            # first another name: half a case must not be taken for a whole one
            going = cache / f".old-{folder.name}"
            shutil.rmtree(going, ignore_errors=True)
            os.rename(folder, going)
            shutil.rmtree(going, ignore_errors=True)


def _about(case: LabelledCase, values: list[int]) -> str:
    names = [case.pair.names.get(value, f"structure {value}") for value in values]
    return json.dumps({"image": case.image, "structures": names, "values": values})


def _name(cached: CachedCase, case: LabelledCase) -> None:
    """Structures may have got other names since: these are not in the files that the folder stands for."""
    path = cached.folder / ABOUT
    known = path.read_text()
    now = _about(case, json.loads(known)["values"])
    if now != known:
        part = path.with_suffix(".part")
        part.write_text(now)
        os.replace(part, path)


def _write_slices(case: LabelledCase, folder: Path) -> list[int]:
    """Write the slices of a case; returns the values in its label."""
    if is_over_time(case.pair.image):
        return write_video_slices(case.pair.image, case.pair.label, case.image, folder)
    volume = load_volume(case.pair.image)
    labels = read_label(case.pair.label, volume)
    values = [int(v) for v in np.unique(labels) if v]
    if not values:
        raise UserError(f"the label of image {case.image} is empty.")
    _write(volume, labels, values, folder)
    return values


def _write(volume: Volume, labels: np.ndarray, values: list[int], folder: Path) -> None:
    axis = volume.slice_axis
    other = tuple(a for a in range(3) if a != axis)
    on = np.flatnonzero(labels.any(other))
    kept = range(max(0, on[0] - AROUND), min(volume.n_slices, on[-1] + 1 + AROUND))
    window = choose_window(volume)
    shape = (len(kept), *(volume.shape3[a] for a in other))
    number = np.dtype(np.uint8 if len(values) < 256 else np.uint16)
    # written, not mapped into memory: there, a full disk ends the process without a word
    with open(folder / PIXELS, "wb") as pixels, open(folder / LABELS, "wb") as stack:
        begin_stack(pixels, np.dtype(np.uint8), (*shape, 3) if volume.is_rgb else shape)
        begin_stack(stack, number, shape)
        for index in kept:
            pixels.write(to_uint8(volume.plane(index), window).tobytes())
            stack.write(numbered(np.take(labels, index, axis), values, number))
    dtype = "uint8" if max(values) < 256 else "uint16"
    os.replace(write_mask(labels, volume, ".nii.gz", dtype, folder=folder), folder / ON_THE_GRID)
