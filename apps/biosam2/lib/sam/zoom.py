"""Where on a slice the network looks: the whole of it, or a square around what the prompts point to.

A small structure is a few pixels of the network's input when the whole slice is squeezed into it. Looking at
about twice the structure's size instead gives it the resolution it needs. Views come in steps, in size and in
place, so that the next click on the same structure finds its embedding in the cache.

Everything is in the slice's own axes (a, b), in voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# A structure seen with fewer network pixels than this has under 4 of the encoder's stride-16 cells across.
TOO_SMALL = 64
# More than fourfold enlargement shows the network nothing but interpolation.
MAX_ENLARGEMENT = 4
MARGIN = 2.0  # side of the view over the extent of what is looked at

# inclusive corners (a, b) of a box, low and high, voxel indices
Corners = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class View:
    """A window of a slice: voxels `a0 <= a < a0 + na`, `b0 <= b < b0 + nb`."""

    a0: int
    b0: int
    na: int
    nb: int

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.a0, self.a0 + self.na), slice(self.b0, self.b0 + self.nb)

    @property
    def side(self) -> int:
        return max(self.na, self.nb)

    def is_whole(self, shape: tuple[int, int]) -> bool:
        return (self.na, self.nb) == shape

    def contains(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether the box from `low` to `high` (inclusive voxel indices (a, b)) lies in the view."""
        return bool(
            low[0] >= self.a0 - 0.5
            and low[1] >= self.b0 - 0.5
            and high[0] <= self.a0 + self.na - 0.5
            and high[1] <= self.b0 + self.nb - 0.5
        )


def whole(shape: tuple[int, int]) -> View:
    return View(0, 0, *shape)


def union(*boxes: Corners | None) -> Corners | None:
    """The corners around several boxes; None when there is no box."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def extent(mask: np.ndarray) -> Corners | None:
    """Inclusive corners (a, b) of a mask's bounding box; None when it is empty. `mask` is bool (A, B)."""
    a, b = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(a):
        return None
    return np.array([a[0], b[0]], float), np.array([a[-1], b[-1]], float)


def around(low: np.ndarray, high: np.ndarray, shape: tuple[int, int], size: int, least: float = 0.0) -> View:
    """The view of what lies between two corners.

    Parameters
    ----------
    low, high : ndarray (2,)
        Inclusive corners (a, b), voxel indices.
    shape : (A, B)
        Voxels of the slice.
    size : int
        Side of the network's input, pixels.
    least : float
        The view's side is at least this, voxels.

    Returns
    -------
    View
        Its side is a power of two or one and a half times one; it lies inside the slice; it is the whole
        slice when the structure fills most of it.
    """
    reach = float(max(high - low)) + 1
    side = _step_up(max(MARGIN * reach, least, size / MAX_ENLARGEMENT))
    if side >= 0.9 * max(shape):
        return whole(shape)
    grid = max(1, side // 8)
    starts, counts = [], []
    for axis in (0, 1):
        count = min(side, shape[axis])
        middle = (low[axis] + high[axis] + 1) / 2
        start = round((middle - count / 2) / grid) * grid
        starts.append(int(min(max(start, 0), shape[axis] - count)))
        counts.append(count)
    view = View(starts[0], starts[1], counts[0], counts[1])
    # a structure near the middle of nowhere on the grid must not be cut: fall back to a wider look
    return view if view.contains(low, high) else around(low, high, shape, size, least=side + 1)


def first_look(low: np.ndarray, high: np.ndarray, shape: tuple[int, int], size: int) -> View:
    """The view for clicks alone, which say where a structure is but not how big: native resolution."""
    return around(low, high, shape, size, least=float(size))


def farther(view: View, shape: tuple[int, int], size: int) -> View:
    """The next wider view around the same middle; the same one where there is none."""
    low = np.array([view.a0, view.b0], float)
    high = low + np.array([view.na - 1, view.nb - 1])
    middle = (low + high) / 2
    return view if view.is_whole(shape) else around(middle, middle, shape, size, least=1.4 * view.side)


def distances(low: np.ndarray, high: np.ndarray, shape: tuple[int, int], size: int) -> list[View]:
    """Views of what lies between two corners, from the closest that makes sense to the whole slice."""
    views = [whole(shape)]
    side = float(size) / MAX_ENLARGEMENT
    while side < 0.9 * max(shape):
        view = around(low, high, shape, size, least=side)
        if view not in views:
            views.append(view)
        side = max(2 * side, view.side + 1)
    return views


def moved(view: View, shift: np.ndarray, shape: tuple[int, int]) -> View:
    """The view moved by about `shift` (a, b) voxels, in steps, as far as the slice of `shape` lets it."""
    grid = max(1, view.side // 16)
    starts = []
    for start, count, by, end in zip((view.a0, view.b0), (view.na, view.nb), shift, shape, strict=True):
        starts.append(int(np.clip(start + round(by / grid) * grid, 0, end - count)))
    return View(starts[0], starts[1], view.na, view.nb)


def closer_look(view: View, mask: np.ndarray, size: int, keep: Corners | None = None) -> View | None:
    """A closer view when the structure found is too small in this one; None when this one will do.

    Parameters
    ----------
    mask : ndarray of bool, (A, B), the whole slice
    size : int
        Side of the network's input, pixels.
    keep : Corners, optional
        What the closer view must hold besides the structure: the prompts.
    """
    corners = extent(mask)
    if corners is None:
        return None
    seen = (float(max(corners[1] - corners[0])) + 1) * size / view.side
    if seen >= TOO_SMALL:
        return None
    low, high = union(corners, keep) or corners
    closer = around(low, high, shape_of(mask), size)
    return closer if closer.side <= view.side / 2 else None


def wider_look(view: View, mask: np.ndarray, size: int, keep: Corners | None = None) -> View | None:
    """A wider view when the mask runs into the border of this one (not of the slice); None when it does not.

    Parameters
    ----------
    mask : ndarray of bool, (A, B), the whole slice
    size : int
        Side of the network's input, pixels.
    keep : Corners, optional
        What the wider view must hold besides the mask: the prompts, or the structure on other slices.
    """
    corners = extent(mask)
    if corners is None or not touches_border(view, mask):
        return None
    low, high = union(corners, keep) or corners
    return around(low, high, shape_of(mask), size, least=1.5 * view.side)


def touches_border(view: View, mask: np.ndarray) -> bool:
    """Whether a mask, bool (A, B), reaches a border of the view that is not the slice's own."""
    corners, shape = extent(mask), shape_of(mask)
    if corners is None:
        return False
    low, high = corners
    return bool(
        (low[0] <= view.a0 and view.a0 > 0)
        or (low[1] <= view.b0 and view.b0 > 0)
        or (high[0] >= view.a0 + view.na - 1 and view.a0 + view.na < shape[0])
        or (high[1] >= view.b0 + view.nb - 1 and view.b0 + view.nb < shape[1])
    )


def shape_of(plane: np.ndarray) -> tuple[int, int]:
    """(A, B) of a slice or of a mask of one; a colour axis does not count."""
    return plane.shape[0], plane.shape[1]


def _step_up(side: float) -> int:
    """The next of 2^n and 1.5 * 2^n that is not below `side`."""
    power = 2 ** math.floor(math.log2(max(side, 1)))
    return next(int(s) for s in (power, 1.5 * power, 2 * power) if s >= side)
