"""Masks as polygons whose corners lie between pixels, so that they can be turned back into the same mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

TOLERANCE = 0.25
"""Pixels by which corners may be moved to have fewer: no centre of a pixel changes sides."""

Ring = list[list[float]]


def polygons(mask: np.ndarray, tolerance: float = TOLERANCE) -> list[dict[str, list]]:
    """The outlines of a mask.

    Parameters
    ----------
    mask : ndarray of bool (W, H)
        [x, y].
    tolerance : float
        See `TOLERANCE`; 0 keeps every corner.

    Returns
    -------
    list of dict
        For each connected part, the largest first: `outer`, [[x, y], …] along its outline, and `holes`, a
        list of such. The centre of pixel (0, 0) is at (0, 0); the last corner is not the first one again.
    """
    numbered, _ = ndimage.label(mask)
    found: list[tuple[float, dict[str, list]]] = []
    for number, place in enumerate(ndimage.find_objects(numbered), 1):
        part = np.pad(numbered[place] == number, 1).astype(np.float32)
        corner = np.array([place[0].start, place[1].start]) - 1.0
        # parts touch over corners only: these are not connected, nor are the contours
        rings = find_contours(part, 0.5, fully_connected="low")
        rings.sort(key=_area, reverse=True)
        plain = [_ring(ring, corner, tolerance) for ring in rings]
        found.append((_area(rings[0]), {"outer": plain[0], "holes": plain[1:]}))
    return [one for _, one in sorted(found, key=lambda item: -item[0])]


def _ring(ring: np.ndarray, corner: np.ndarray, tolerance: float) -> Ring:
    fewer = approximate_polygon(ring, tolerance) if tolerance else ring
    # a ring of less than a triangle: a single pixel keeps its corners
    kept = fewer if len(fewer) > 3 else ring
    return (kept[:-1] + corner).round(2).tolist()


def _area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
