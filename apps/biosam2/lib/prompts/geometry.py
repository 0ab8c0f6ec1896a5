"""Points and boxes in a volume, in voxel indices, and the checks that keep them inside it.

Everywhere: voxel indices (i, j, k) in the array order that nibabel gives, 0-based, centre of the voxel,
so that a volume of n voxels along an axis reaches from -0.5 to n - 0.5 along it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.errors import UserError
from lib.prompts.frame_masks import FrameMasks

Index = tuple[float, float, float]
Shape = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]


def nearest_slice(coordinate: float, count: int) -> int:
    """Index of the slice that a coordinate lies in.

    Parameters
    ----------
    coordinate
        Voxel coordinate along the slice axis, in ``[-0.5, count - 0.5]``.
    count
        Number of slices along that axis.

    Returns
    -------
    int
        The coordinate rounded half up. Only the far face of the last voxel, exactly ``count - 0.5``,
        belongs to the slice before it: there is no slice after it.

    Raises
    ------
    ValueError
        If the coordinate is outside the volume.
    """
    if not -0.5 <= coordinate <= count - 0.5:
        raise ValueError(f"coordinate {coordinate} is outside {count} slices")
    return min(math.floor(coordinate + 0.5), count - 1)


def in_plane_axes(slice_axis: int) -> tuple[int, int]:
    """The two axes of a slice, in increasing order, for slices along `slice_axis` (0, 1 or 2)."""
    first, second = (axis for axis in range(3) if axis != slice_axis)
    return first, second


def mask_slices(mask: Mask | FrameMasks, slice_axis: int) -> list[int]:
    """Indices, sorted, of the slices along `slice_axis` where a bool mask (I, J, K) has a voxel."""
    if isinstance(mask, FrameMasks):
        return mask.slices()
    return [int(index) for index in np.flatnonzero(mask.any(axis=in_plane_axes(slice_axis)))]


def mask_plane(mask: Mask | FrameMasks, index: int, slice_axis: int) -> Mask:
    """Slice `index` along `slice_axis` of a bool mask (I, J, K): bool (A, B)."""
    return mask.plane(index) if isinstance(mask, FrameMasks) else np.take(mask, index, axis=slice_axis)


def describe_shape(shape: Shape) -> str:
    """The size of a volume in words, such as ``512 x 512 x 100 voxels``."""
    return f"{shape[0]} x {shape[1]} x {shape[2]} voxels"


def describe_index(index: Sequence[float]) -> str:
    """A voxel index as a person would type it: ``[600, 10.5, 3]``, without needless decimals."""
    return "[" + ", ".join(str(int(x)) if math.isfinite(x) and x == int(x) else str(x) for x in index) + "]"


def check_inside(index: Index, shape: Shape, what: str) -> None:
    """Refuse an index that is not three finite numbers inside the volume.

    Parameters
    ----------
    index
        Voxel indices (i, j, k); fractions are allowed.
    shape
        Voxels along (i, j, k).
    what
        What the message calls it, such as ``foreground point``.

    Raises
    ------
    UserError
        If a number is NaN or infinite, or the index is outside the volume. A click is never moved: it
        says where something is, and one voxel further may be something else.
    """
    if len(index) != 3 or not all(math.isfinite(x) for x in index):
        raise UserError(f"{what} {describe_index(index)} must be 3 finite numbers.")
    if not all(-0.5 <= x <= n - 0.5 for x, n in zip(index, shape, strict=True)):
        raise UserError(f"{what} {describe_index(index)} is outside the volume of {describe_shape(shape)}.")


@dataclass(frozen=True)
class Point:
    """One click.

    Attributes
    ----------
    index
        Voxel indices (i, j, k), 0-based, centre of the voxel; fractions are allowed.
    positive
        True for a click on the object, False for one beside it.
    """

    index: Index
    positive: bool


@dataclass(frozen=True)
class Box:
    """A box along the voxel axes, by its two inclusive corners; it may span several slices.

    Attributes
    ----------
    low, high
        Voxel indices (i, j, k), with ``low <= high`` along each axis (`between` sorts them).

    Raises
    ------
    UserError
        If a corner is not three finite numbers, or the corners are not sorted.
    """

    low: Index
    high: Index

    def __post_init__(self) -> None:
        for corner in (self.low, self.high):
            if len(corner) != 3 or not all(math.isfinite(x) for x in corner):
                raise UserError(f"box corner {describe_index(corner)} must be 3 finite numbers.")
        if any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise UserError(f"{self} must have its low corner first.")

    def __str__(self) -> str:
        return f"box from {describe_index(self.low)} to {describe_index(self.high)}"

    @classmethod
    def between(cls, corner: Index, opposite: Index) -> Box:
        """The box between two opposite corners (i, j, k), which may come in any order along each axis."""
        pairs = list(zip(corner, opposite, strict=True))
        (i0, i1), (j0, j1), (k0, k1) = ((min(pair), max(pair)) for pair in pairs)
        return cls((i0, j0, k0), (i1, j1, k1))

    def within(self, shape: Shape, what: str = "box") -> Box:
        """The part of the box that lies in a volume of `shape` voxels.

        A person who draws a box around something at the edge of an image draws over that edge, and
        Slicer's ROI handles make it hard not to. What they meant is the part with voxels in it, and
        cutting the rest off changes no voxel they chose. That is unlike a click, which is never moved.

        Raises
        ------
        UserError
            If no part of the box lies in the volume; the message calls the box `what`.
        """
        low = tuple(max(x, -0.5) for x in self.low)
        high = tuple(min(x, n - 0.5) for x, n in zip(self.high, shape, strict=True))
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise UserError(
                f"{what} from {describe_index(self.low)} to {describe_index(self.high)} is outside "
                f"the volume of {describe_shape(shape)}."
            )
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def slices(self, shape: Shape, slice_axis: int) -> tuple[int, int]:
        """First and last slice (inclusive) that the box covers along `slice_axis`; it must be inside."""
        count = shape[slice_axis]
        return nearest_slice(self.low[slice_axis], count), nearest_slice(self.high[slice_axis], count)

    def on_slice(self, index: int, slice_axis: int) -> Box:
        """The same box, one slice thick, on slice `index` along `slice_axis`."""
        low, high = list(self.low), list(self.high)
        low[slice_axis] = high[slice_axis] = float(index)
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
