"""Masks as the shapes that CVAT keeps, and CVAT's shapes as objects that the server tracks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biosam2_cvat import coordinates, runs
from biosam2_cvat.coordinates import Size
from biosam2_cvat.errors import BadRequest
from biosam2_cvat.runs import Mask

TOLERANCE = 0.5  # pixels between a mask's outline and its polygon
RECTANGLE, POLYGON, MASK = "rectangle", "polygon", "mask"
TRACKED = (RECTANGLE, POLYGON, MASK)


def flat_mask(mask: Mask) -> list[int]:
    """As nuclio detectors give masks: each pixel of its box, then x0, y0, x1, y1 of the box, x1 and y1 in it.

    CVAT knows no empty mask: a mask (H, W) without a pixel becomes one pixel that is off.
    """
    x0, y0, x1, y1 = runs.box_of(mask) or (0, 0, 1, 1)
    return [*mask[y0:y1, x0:x1].ravel().astype(int).tolist(), x0, y0, x1 - 1, y1 - 1]


def run_mask(mask: Mask) -> list[int]:
    """As CVAT keeps masks, with run lengths instead of the pixels; otherwise like `flat_mask`."""
    x0, y0, x1, y1 = runs.box_of(mask) or (0, 0, 1, 1)
    return [*runs.encode_runs(mask[y0:y1, x0:x1].ravel()), x0, y0, x1 - 1, y1 - 1]


def from_run_mask(points: Sequence[float], size: Size) -> Mask:
    """A mask that CVAT keeps to one (H, W) of a picture of `size` (W, H).

    Raises
    ------
    BadRequest
        If it is none, or does not fit the picture.
    """
    values = coordinates.numbers(points, "mask").ravel()
    if values.size < 5 or (values % 1).any():
        raise BadRequest("mask is not a list of run lengths followed by a box.")
    x0, y0, x1, y1 = values[-4:].astype(int).tolist()
    width, height = size
    if not (0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height):
        raise BadRequest(f"mask's box {[x0, y0, x1, y1]} is not inside the picture of {width} x {height}.")
    mask = np.zeros((height, width), dtype=bool)
    box = mask[y0 : y1 + 1, x0 : x1 + 1]
    box[...] = runs.decode_runs(values[:-4].astype(int).tolist(), box.size).reshape(box.shape)
    return mask


def rectangle(mask: Mask) -> list[float] | None:
    """The box around it in CVAT's coordinates: x0, y0, x1, y1; None for a mask without a pixel."""
    box = runs.box_of(mask)
    return None if box is None else [float(edge) for edge in box]


def polygons(mask: Mask, tolerance: float = TOLERANCE) -> list[list[float]]:
    """The outlines of its pieces in CVAT's coordinates, x and y in turn, the largest piece first.

    Outlines run half way between the pixels in it and those beside it. Polygons have no holes in CVAT: those
    of the mask are filled.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
    tolerance : float
        How far, in pixels, a polygon may be from the outline, so that it has fewer corners; 0 keeps all of
        them: then the pixels whose centres it holds are those of the mask, and its holes.
    """
    from skimage.measure import approximate_polygon, find_contours  # takes a second, and masks need it not

    box = runs.box_of(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.float32)
    found = []
    for contour in find_contours(padded, 0.5, fully_connected="high"):
        area = _signed_area(contour)
        if area <= 0:  # a hole runs the other way round
            continue
        simple = approximate_polygon(contour, tolerance) if tolerance > 0 else contour
        corners = (simple if len(simple) > 3 else contour)[:-1, ::-1] + (x0 - 1, y0 - 1)
        found.append((area, coordinates.to_cvat(corners)))
    return [outline for _, outline in sorted(found, key=lambda one: -one[0])]


def _signed_area(contour: NDArray[np.float64]) -> float:
    """Of a closed contour in (row, column); positive for those around pixels that are on."""
    rows, columns = contour[:, 0], contour[:, 1]
    return float(np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1]) / 2)


def shape(kind: str, mask: Mask, tolerance: float = TOLERANCE) -> dict[str, Any] | None:
    """The mask as one shape of CVAT's, `{"type": kind, "points": [...]}`; None for a mask without a pixel.

    A polygon is that of the largest piece.

    Raises
    ------
    BadRequest
        If `kind` is not one of `TRACKED`.
    """
    check_kind(kind)
    if not mask.any():
        return None
    points: Sequence[float] | None
    if kind == RECTANGLE:
        points = rectangle(mask)
    elif kind == POLYGON:
        points = polygons(mask, tolerance)[0]
    else:
        points = run_mask(mask)
    return {"type": kind, "points": points}


def tracked_object(kind: str, points: Any, size: Size) -> dict[str, Any]:
    """A shape of CVAT's as an object that the server can track.

    Parameters
    ----------
    kind : str
        One of `TRACKED`.
    points : sequence of float
        As CVAT keeps them.
    size : (W, H) of the picture

    Raises
    ------
    BadRequest
    """
    check_kind(kind)
    if kind == RECTANGLE:
        return {"box": coordinates.box(points, "rectangle")}
    if kind == POLYGON:
        return {"polygon": coordinates.polygon(points)}
    mask = from_run_mask(points, size)
    if not mask.any():
        raise BadRequest("mask is empty: there is nothing to track.")
    return {"mask": runs.encode(mask)}


def check_kind(kind: Any) -> None:
    if kind not in TRACKED:
        raise BadRequest(
            f'shape of type "{str(kind)[:40]}" cannot be tracked: only {", ".join(TRACKED)} can.'
        )
