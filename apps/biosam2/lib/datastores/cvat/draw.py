"""What CVAT says is drawn on a frame -> a label map on the picture's grid.

CVAT's coordinates are continuous, with (0, 0) the upper left corner of the picture: the centre of pixel
(0, 0) is at (0.5, 0.5). A pixel belongs to a polygon or an ellipse if its centre lies in it. This is the one
file of the datastores that knows these coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from lib.errors import Unprocessable

BACKGROUND = "background"  # a label of this name is none: it uncovers
HIGHEST = (1 << 16) - 1


def draw(
    drawn: Mapping[str, Any], width: int, height: int, value_of: Callable[[str], int], what: str
) -> np.ndarray:
    """Draw the shapes of a frame, the later and those of higher `z_order` on top.

    Parameters
    ----------
    drawn : mapping
        As `lib.datastores.cvat.book.Book.drawn` gives it.
    width, height : int
        Of the picture, in pixels.
    value_of : callable
        Name of a label -> its value.
    what : str
        Which frame it is, for the sentences of errors.

    Returns
    -------
    ndarray uint16 (width, height)
        [x, y], as pictures are loaded everywhere here.

    Raises
    ------
    Unprocessable
        If the frame has another size in CVAT than the picture, or a shape makes no sense.
    """
    size = width, height
    try:
        if (int(drawn["width"]), int(drawn["height"])) != size:
            raise ValueError(f"it is {drawn['width']} x {drawn['height']}, the picture {width} x {height}")
        labels = np.zeros(size, np.uint16)
        for shape in sorted(drawn["shapes"], key=lambda shape: int(shape.get("z_order", 0))):
            name = shape["label"]
            value = 0 if name.strip().lower() == BACKGROUND else value_of(name)
            if value > HIGHEST:
                raise ValueError(f"there are more than {HIGHEST} labels")
            window, mask = SHAPES[shape["kind"]](shape, size)
            labels[window][mask] = value
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise Unprocessable(f"what CVAT has of {what} cannot be drawn: {error}.") from None
    return labels


Window = tuple[slice, slice]


def _mask(shape: Mapping[str, str], size: tuple[int, int]) -> tuple[Window, np.ndarray]:
    """Runs, the first one of pixels outside, row by row over a box: exact."""
    left, top, width, height = (int(shape[key]) for key in ("left", "top", "width", "height"))
    if not (0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]):
        raise ValueError(f"a mask of {width} x {height} at {left}, {top} does not lie in it")
    runs = np.array([int(run) for run in shape["rle"].split(",")])
    if runs.min() < 0 or runs.max() > width * height or runs.sum() != width * height:
        raise ValueError(f"the runs of a mask of {width} x {height} do not cover it")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return (slice(left, left + width), slice(top, top + height)), inside.T


def _polygon(shape: Mapping[str, str], size: tuple[int, int]) -> tuple[Window, np.ndarray]:
    points = np.array([[float(part) for part in pair.split(",")] for pair in shape["points"].split(";")])
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("a polygon has a corner that is no point")
    window = _window(points.min(0), points.max(0), size)
    origin = np.array([part.start for part in window])
    # skimage takes the centre of a pixel for its coordinates
    return window, polygon2mask(tuple(part.stop - part.start for part in window), points - 0.5 - origin)


def _ellipse(shape: Mapping[str, str], size: tuple[int, int]) -> tuple[Window, np.ndarray]:
    cx, cy, rx, ry = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
    turned = math.radians(float(shape.get("rotation", 0)))  # from x to y, which is clockwise on the screen
    if not all(math.isfinite(number) for number in (cx, cy, rx, ry, turned)) or rx <= 0 or ry <= 0:
        raise ValueError("an ellipse has no extent")
    centre, reach = np.array([cx, cy]), max(rx, ry)
    window = _window(centre - reach, centre + reach, size)
    x, y = np.ogrid[window]
    dx, dy = x + 0.5 - cx, y + 0.5 - cy
    along, across = (
        dx * math.cos(turned) + dy * math.sin(turned),
        dy * math.cos(turned) - dx * math.sin(turned),
    )
    return window, (along / rx) ** 2 + (across / ry) ** 2 <= 1


def _window(least: np.ndarray, most: np.ndarray, size: tuple[int, int]) -> Window:
    """The pixels that a shape may cover; none of them, if it lies beside the picture."""
    begin = np.clip(np.floor(least), 0, size).astype(int)
    end = np.maximum(begin, np.clip(np.ceil(most), 0, size).astype(int))
    return slice(begin[0], end[0]), slice(begin[1], end[1])


SHAPES = {"mask": _mask, "polygon": _polygon, "ellipse": _ellipse}
