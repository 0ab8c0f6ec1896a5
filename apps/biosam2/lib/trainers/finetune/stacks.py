"""The files in which the slices of a labelled case lie, and how they are begun."""

from __future__ import annotations

from typing import IO

import numpy as np

AROUND = 16  # slices kept beyond the first and the last one with a label: clips run on beyond the end
ABOUT, PIXELS, LABELS, ON_THE_GRID = "about.json", "pixels.npy", "labels.npy", "label.nii.gz"
IMAGE = "image.nii.gz"
"""Of a video only: the frames that were kept, on the grid of `ON_THE_GRID`."""


def begin_stack(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """The beginning of a .npy file."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def numbered(plane: np.ndarray, values: list[int], dtype: np.dtype) -> bytes:
    """A plane of a label with 1, 2, … for its values, as bytes for a stack."""
    found = np.where(plane > 0, np.searchsorted(values, plane) + 1, 0)
    return found.astype(dtype).tobytes()
