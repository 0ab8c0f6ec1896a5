"""Masks of one picture as run lengths in JSON, and back: exact, and no larger than the object needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.errors import UserError

Mask = npt.NDArray[np.bool_]

KEYS = ("size", "bbox", "counts")
LARGEST = 1 << 31  # pixels of a run; no sum of such overflows


def encode(mask: Mask) -> dict[str, list[int]]:
    """A mask as run lengths.

    Parameters
    ----------
    mask : ndarray of bool, (W, H)
        [x, y], as pictures are everywhere here.

    Returns
    -------
    dict
        ``size`` [W, H]; ``bbox`` [x0, y0, w, h], the least rectangle with all pixels of the mask; ``counts``,
        the lengths of alternating runs in it, the first of zeros (0 where a one comes first), row by row (y
        outer, x inner), w * h in all. An empty mask has bbox [0, 0, 0, 0] and no counts.
    """
    size = [int(n) for n in mask.shape]
    a, b = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(a):
        return {"size": size, "bbox": [0, 0, 0, 0], "counts": []}
    x0, x1, y0, y1 = int(a[0]), int(a[-1]) + 1, int(b[0]), int(b[-1]) + 1
    flat = mask[x0:x1, y0:y1].T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {"size": size, "bbox": [x0, y0, x1 - x0, y1 - y0], "counts": counts}


def decode(value: Any, size: tuple[int, int], field: str = "mask") -> Mask:
    """The mask that run lengths mean.

    Parameters
    ----------
    value
        As `encode` makes it; the rectangle may be larger than need be.
    size : (W, H)
        Of the picture.
    field : str
        What messages call it.

    Returns
    -------
    ndarray of bool, (W, H)

    Raises
    ------
    UserError
        If it is something else, is for a picture of another size, or its runs do not fill its rectangle.
    """
    if not isinstance(value, Mapping) or set(value) != set(KEYS):
        raise UserError(f"{field} must have the lists size, bbox and counts and nothing else.")
    given = _whole(value["size"], f"{field}.size", 2)
    if tuple(given) != tuple(size):
        raise UserError(f"{field}.size {given.tolist()} is not that of the picture, {list(size)}.")
    x, y, w, h = (int(n) for n in _whole(value["bbox"], f"{field}.bbox", 4))
    if x + w > size[0] or y + h > size[1]:
        raise UserError(
            f"{field}.bbox {[x, y, w, h]} is not inside the picture of {size[0]} x {size[1]} pixels."
        )
    counts = _whole(value["counts"], f"{field}.counts")
    # each of them before the sum, which must not overflow
    if (counts > w * h).any() or counts.sum() != w * h:
        raise UserError(f"{field}.counts must be {w * h} pixels in all, as {field}.bbox {[x, y, w, h]} has.")
    if (counts[1:] == 0).any():
        raise UserError(f"{field}.counts has an empty run; only the first run may be empty.")
    mask = np.zeros(size, np.bool_)
    runs = np.arange(len(counts)) % 2 == 1
    mask[x : x + w, y : y + h] = np.repeat(runs, counts).reshape(h, w).T
    return mask


def _whole(value: Any, field: str, length: int | None = None) -> npt.NDArray[np.int64]:
    """A list of whole numbers from 0 to `LARGEST`, so many if that is given."""
    # Python's own numbers one by one: numpy makes floats of those that are too large
    right = isinstance(value, list | tuple) and all(type(n) is int and 0 <= n <= LARGEST for n in value)
    if not right:
        raise UserError(f"{field} must be a list of whole numbers from 0, not {str(value)[:80]}.")
    found = np.array(value, np.int64)
    if length is not None and len(found) != length:
        raise UserError(f"{field} must be {length} numbers, not {len(found)}.")
    return found
