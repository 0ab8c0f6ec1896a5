"""Typed readers of JSON values: a value of the right kind, or one sentence naming the field and the value."""

from __future__ import annotations

import json
import math
import numbers
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.errors import UserError
from lib.imaging.geometry import voxels_of_roi
from lib.prompts.geometry import Box, Index, Point, Shape, check_inside, in_plane_axes

MAX_POINTS = 1000
"""Points, or boxes, in one list. A person clicks tens; a longer list is a mistake or an attack."""

MAX_LABEL = 100
"""Characters in a structure's name."""

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 70


def shown(value: Any) -> str:
    """A value as messages show it, on one line of at most 80 characters."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def unpacked(value: Any, field: str) -> Any:
    """The value itself, or what it holds if it is a list or object in JSON text, as forms send them.

    Raises
    ------
    UserError
        If it is text that looks like JSON and is not.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise UserError(f"{field} is not valid JSON: {shown(value)}.") from None
    return value


def number(value: Any, field: str) -> float:
    """A finite number; text, booleans, NaN and infinities are refused with a `UserError`."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found):
            return found
    raise UserError(f"{field} must be a finite number, not {shown(value)}.")


def whole(value: Any, field: str) -> int:
    """A whole number (5 or 5.0); anything else is refused with a `UserError`."""
    found = number(value, field)
    if found != int(found):
        raise UserError(f"{field} must be a whole number, not {shown(value)}.")
    return int(found)


def items(value: Any, field: str, limit: int = MAX_POINTS) -> list[Any]:
    """A list (also as JSON text); nothing sent, null and "" are an empty one.

    Raises
    ------
    UserError
        If it is something else, or has more than `limit` entries.
    """
    value = unpacked(value, field)
    if value is None or value == "":
        return []
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{field} must be a list, not {shown(value)}.")
    if len(value) > limit:
        raise UserError(f"{field} has {len(value)} entries, more than the {limit} allowed.")
    return list(value)


def name(value: Any, field: str, default: str) -> str:
    """A structure's name without surrounding blanks; nothing sent, null and "" give `default`.

    Raises
    ------
    UserError
        If it is not text, has control characters, or more than `MAX_LABEL` characters.
    """
    if value is None or value == "":
        return default
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_LABEL:
        raise UserError(f"{field} must be a name of at most {MAX_LABEL} characters, not {shown(value)}.")
    return value.strip()


@dataclass(frozen=True)
class Grid:
    """The voxels that a request's numbers refer to.

    Attributes
    ----------
    shape
        Voxels along (i, j, k).
    slice_axis
        The axis (0, 1 or 2) that slices are taken along.
    slice
        The slice that coordinates without one are on, or None if the request named none.
    affine
        4x4, voxel index to mm; None where patient and voxel axes are taken to be the same.
    is_video
        Whether the voxels are too many to make a mask of that size.
    """

    shape: Shape
    slice_axis: int
    slice: int | None
    affine: np.ndarray | None = None
    is_video: bool = False

    def corner(self, values: Sequence[Any], field: str) -> Index:
        """Three voxel indices from [i, j, k], or from [x, y] on the slice that the request is about.

        Raises
        ------
        UserError
            If these are not two or three finite numbers, or two where nothing tells the slice.
        """
        found = [number(value, field) for value in values]
        if len(found) == 2:
            found.insert(self.slice_axis, float(self._flat_slice(values, field)))
        if len(found) != 3:
            raise UserError(f"{field} must be [i, j, k] or, on one slice, [x, y], not {shown(list(values))}.")
        return found[0], found[1], found[2]

    def _flat_slice(self, values: Sequence[Any], field: str) -> int:
        if self.shape[self.slice_axis] == 1:
            return 0
        if self.slice is None:
            raise UserError(
                f"{field} {shown(list(values))} has no slice: send 3 numbers per corner or point, or slice."
            )
        return self.slice

    def points(self, value: Any, field: str, positive: bool) -> list[Point]:
        """Points from a list of [i, j, k] or [x, y], in its order, each checked to be inside the volume."""
        what = f"{field} point"
        return [
            self._point(items(entry, f"{field}[{n}]", limit=3), f"{field}[{n}]", what, positive)
            for n, entry in enumerate(items(value, field))
        ]

    def signed_points(self, value: Any, field: str) -> list[Point]:
        """Points from a list of [i, j, k, sign] or [x, y, sign]: sign 1 is on the object, 0 beside it."""
        found = []
        for n, entry in enumerate(items(value, field)):
            here = f"{field}[{n}]"
            given = items(entry, here, limit=4)
            sign = given[-1] if given else None
            if len(given) not in (3, 4) or not isinstance(sign, (bool, int, float)) or sign not in (0, 1):
                raise UserError(f"{here} must be [i, j, k, 1 or 0] or [x, y, 1 or 0], not {shown(entry)}.")
            found.append(self._point(given[:-1], here, field, positive=bool(sign)))
        return found

    def _point(self, values: list[Any], field: str, what: str, positive: bool) -> Point:
        index = self.corner(values, field)
        check_inside(index, self.shape, what)
        return Point(index, positive)

    def roi(self, value: Any, field: str) -> list[Box]:
        """No box or one, from MONAI Label's `roi`.

        Slicer sends [i0, i1, j0, j1, k0, k1] with each pair unsorted: two opposite corners of a box along
        the patient's axes. CVAT sends [x0, y0, x1, y1] on a flat image: only the length tells them apart.
        """
        values = items(value, field)
        if not values:
            return []
        if len(values) == 6:
            return [self._box(values[0::2], values[1::2], field, self.affine)]
        if len(values) == 4:
            return [self._box(values[:2], values[2:], field)]
        raise UserError(f"{field} must be [i0, i1, j0, j1, k0, k1] or [x0, y0, x1, y1], not {shown(values)}.")

    def boxes(self, value: Any, field: str) -> list[Box]:
        """Boxes from a list of [i0, j0, k0, i1, j1, k1], [x0, y0, x1, y1] or {"low": […], "high": […]}."""
        return [self._any_box(entry, f"{field}[{n}]") for n, entry in enumerate(items(value, field))]

    def _any_box(self, entry: Any, field: str) -> Box:
        if isinstance(entry, Mapping):
            if set(entry) != {"low", "high"}:
                raise UserError(f"{field} must have low and high and nothing else, not {shown(entry)}.")
            low = items(entry["low"], f"{field}.low", limit=3)
            return self._box(low, items(entry["high"], f"{field}.high", limit=3), field)
        values = items(entry, field)
        if len(values) not in (4, 6):
            what = "[i0, j0, k0, i1, j1, k1] or [x0, y0, x1, y1]"
            raise UserError(f"{field} must be {what}, not {shown(values)}.")
        half = len(values) // 2
        return self._box(values[:half], values[half:], field)

    def _box(
        self,
        corner: Sequence[Any],
        opposite: Sequence[Any],
        field: str,
        affine: np.ndarray | None = None,
    ) -> Box:
        ends = self.corner(corner, field), self.corner(opposite, field)
        box = Box.between(*(ends if affine is None else voxels_of_roi(*ends, affine)))
        box = box.within(self.shape, field)
        a, b = in_plane_axes(self.slice_axis)
        if box.low[a] == box.high[a] or box.low[b] == box.high[b]:
            raise UserError(f"{field} {shown([*corner, *opposite])} has no area on a slice of the volume.")
        return box
