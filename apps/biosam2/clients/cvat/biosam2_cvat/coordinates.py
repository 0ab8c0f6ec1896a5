"""CVAT's coordinates and the server's: the only place that turns one into the other.

CVAT measures from the upper left corner of the picture, x to the right, y down, in pixels: the centre of the
upper left pixel is (0.5, 0.5), and the box of pixels 10 to 19 is from 10 to 20. The server counts pixels: the
centre of the upper left one is (0, 0). Only CVAT's masks are counted in pixels, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biosam2_cvat.errors import BadRequest

CENTRE = 0.5  # of a pixel, from its upper left corner

Size = tuple[int, int]


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Finite numbers of any nesting.

    Raises
    ------
    BadRequest
        If they are none; `what` is how the sentence calls them.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadRequest(f"{what} is not made of numbers.") from None
    if not np.isfinite(array).all():
        raise BadRequest(f"{what} has a number that is not finite.")
    return array


def points(values: Any, what: str = "points") -> list[list[float]]:
    """CVAT's points, each (x, y), to the server's.

    Raises
    ------
    BadRequest
    """
    array = numbers(values, what)
    if not array.size:
        return []
    if array.ndim != 2 or array.shape[1] != 2:
        raise BadRequest(f"{what} is not a list of x and y.")
    return (array - CENTRE).tolist()


def box(values: Any, what: str = "box") -> list[float]:
    """CVAT's box, four numbers or two corners in any order, to the server's [x0, y0, x1, y1].

    Edges are moved like points: pixels 10 to 19 are from 9.5 to 19.5 in pixel indices.

    Raises
    ------
    BadRequest
    """
    array = numbers(values, what).ravel()
    if array.size != 4:
        raise BadRequest(f"{what} has {array.size} numbers instead of 4.")
    corners = array.reshape(2, 2)
    low, high = corners.min(axis=0) - CENTRE, corners.max(axis=0) - CENTRE
    if (low == high).any():
        raise BadRequest(f"{what} {array.tolist()} is empty.")
    return [*low.tolist(), *high.tolist()]


def polygon(values: Any, what: str = "polygon") -> list[list[float]]:
    """CVAT's polygon, x and y in turn, to the server's list of [x, y].

    Raises
    ------
    BadRequest
    """
    array = numbers(values, what).ravel()
    if array.size < 6 or array.size % 2:
        raise BadRequest(f"{what} has {array.size} numbers, which are not three or more corners.")
    return (array.reshape(-1, 2) - CENTRE).tolist()


def to_cvat(corners: Iterable[Sequence[float]]) -> list[float]:
    """Places in pixel indices, each (x, y), to CVAT's x and y in turn, rounded to a hundredth of a pixel."""
    array = np.asarray(list(corners), dtype=np.float64).reshape(-1, 2) + CENTRE
    return np.round(array, 2).ravel().tolist()
