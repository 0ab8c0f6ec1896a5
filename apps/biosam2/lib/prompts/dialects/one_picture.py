"""Prompts for one object on one picture, as `/biosam2/pictures` and `/biosam2/tracks` take them.

Coordinates are pixel indices (x, y), 0-based, centre of the pixel, with fractions: the picture reaches from
-0.5 to W - 0.5 and from -0.5 to H - 0.5. That goes for the corners of a box as well, which are its borders:
the box around the pixels 10 to 19 is from 9.5 to 19.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage.draw import polygon as filled

from lib.errors import UserError
from lib.imaging import runs
from lib.prompts.dialects.fields import items, number, shown
from lib.prompts.geometry import Mask, describe_index
from lib.prompts.prompts import SlicePrompts

FIELDS = ("foreground", "background", "box", "mask", "polygon")
MAX_CORNERS = 100_000

Size = tuple[int, int]


def parse(entry: Any, size: Size, prefix: str = "") -> SlicePrompts:
    """The prompts of one object.

    Parameters
    ----------
    entry : mapping
        Some of ``foreground`` and ``background`` [[x, y], …], ``box`` [x0, y0, x1, y1] between any two
        opposite corners, ``mask`` (see `lib.imaging.runs`) or ``polygon`` [[x, y], …], the outline of a mask.
    size : (W, H)
        Of the picture, pixels.
    prefix : str
        What stands before the names of fields in messages, such as ``objects[0].``

    Raises
    ------
    UserError
        If a field is not what it should be, a point is outside of the picture, a box or a polygon has nothing
        in it, or nothing says where the object is.
    """
    where = prefix.removesuffix(".") or "The request"
    if not isinstance(entry, Mapping):
        example = '{"foreground": [[10, 20]]}'
        raise UserError(f"{where} must be an object such as {example}, not {shown(entry)}.")
    for key in entry:
        if key not in FIELDS:
            raise UserError(f"{where} has the unknown field {shown(key)}; it may have {', '.join(FIELDS)}.")
    foreground = _points(entry.get("foreground"), f"{prefix}foreground", size)
    background = _points(entry.get("background"), f"{prefix}background", size)
    mask = _mask(entry, size, prefix)
    box = _box(entry.get("box"), f"{prefix}box", size)
    if not foreground and box is None and mask is None:
        raise UserError(f"{where} has no prompt that says where the object is: send foreground, box or mask.")
    points = np.array([*foreground, *background], np.float64).reshape(-1, 2)
    positive = np.arange(len(points)) < len(foreground)
    return SlicePrompts(points, positive, box, mask)


def _points(value: Any, field: str, size: Size) -> list[tuple[float, float]]:
    found = [_point(entry, f"{field}[{n}]") for n, entry in enumerate(items(value, field))]
    for n, point in enumerate(found):
        if not all(-0.5 <= x <= count - 0.5 for x, count in zip(point, size, strict=True)):
            raise UserError(
                f"{field}[{n}] {describe_index(point)} is outside the picture of {_described(size)}."
            )
    return found


def _point(value: Any, field: str) -> tuple[float, float]:
    values = items(value, field, limit=3)
    if len(values) != 2:
        raise UserError(f"{field} must be [x, y], not {shown(value)}.")
    return number(values[0], field), number(values[1], field)


def _box(value: Any, field: str, size: Size) -> tuple[float, float, float, float] | None:
    """The part of a box that lies in the picture, by the centres of its outermost pixels, as `SlicePrompts`.

    A person who draws a box around something at the edge draws over that edge.
    """
    values = items(value, field, limit=5)
    if not values:
        return None
    if len(values) != 4:
        raise UserError(f"{field} must be [x0, y0, x1, y1], not {shown(value)}.")
    corners = np.array([number(x, field) for x in values]).reshape(2, 2)
    if (corners[0] == corners[1]).any():
        raise UserError(f"{field} {shown(values)} has no area.")
    low, high = corners.min(0), corners.max(0)
    low, high = np.maximum(low, -0.5), np.minimum(high, np.array(size) - 0.5)
    if (low >= high).any():
        raise UserError(f"{field} {shown(values)} is outside the picture of {_described(size)}.")
    return float(low[0]) + 0.5, float(low[1]) + 0.5, float(high[0]) - 0.5, float(high[1]) - 0.5


def _mask(entry: Mapping[str, Any], size: Size, prefix: str) -> Mask | None:
    """That of `mask` or of `polygon`; an empty mask says nothing."""
    corners = items(entry.get("polygon"), f"{prefix}polygon", limit=MAX_CORNERS)
    given = entry.get("mask")
    if given is None:
        return _inside(corners, f"{prefix}polygon", size) if corners else None
    if corners:
        raise UserError(f"{prefix}mask and {prefix}polygon are both given: send one of them.")
    mask = runs.decode(given, size, f"{prefix}mask")
    return mask if mask.any() else None


def _inside(corners: list[Any], field: str, size: Size) -> Mask:
    points = np.array([_point(corner, f"{field}[{n}]") for n, corner in enumerate(corners)])
    if len(points) < 3:
        raise UserError(f"{field} must have three corners at least, not {len(points)}.")
    mask = np.zeros(size, np.bool_)
    mask[filled(points[:, 0], points[:, 1], size)] = True
    if not mask.any():
        raise UserError(f"{field} has no pixel of the picture of {_described(size)} in it.")
    return mask


def _described(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels"
