"""What a person meant: the checked prompts of every object, in voxel indices, seen slice by slice.

Voxel indices (i, j, k) are in the array order that nibabel gives, 0-based, centre of the voxel. A flat
image is a volume with one slice, where [i, j] = (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from lib.errors import UserError
from lib.prompts.frame_masks import FrameMasks
from lib.prompts.geometry import (
    Box,
    Mask,
    Point,
    Shape,
    check_inside,
    in_plane_axes,
    mask_plane,
    mask_slices,
    nearest_slice,
)

__all__ = ["Box", "Direction", "ObjectPrompts", "Point", "Prompts", "SlicePrompts"]

NO_PROMPT = "No prompt was given: send foreground, background, roi, boxes or mask."


class Direction(StrEnum):
    """Which way prompts are propagated along the slice axis: to higher indices is forward."""

    BOTH = "both"
    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True, eq=False)
class ObjectPrompts:
    """Everything a person said about one object, anywhere in the volume.

    Attributes
    ----------
    label
        Name of the structure.
    points
        Clicks in the order in which they arrived.
    boxes
        Boxes inside the volume, at most one that acts on any slice.
    mask
        A starting mask, bool (I, J, K) on the image's grid; in a video the frames that have one; or None.
    """

    label: str
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    mask: Mask | FrameMasks | None = None

    @property
    def is_empty(self) -> bool:
        """True if nothing was said; a mask with no voxel in it says nothing."""
        return not self.points and not self.boxes and (self.mask is None or not self.mask.any())


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """What one object has on one slice, in the slice's own two axes.

    Attributes
    ----------
    points
        Float (N, 2): voxel coordinates (a, b) along the two in-plane axes, in increasing axis order,
        in the order in which they arrived.
    positive
        Bool (N,): True where the point is on the object.
    box
        (a0, b0, a1, b1), sorted inclusive corners along the same axes, or None.
    mask
        Bool (A, B) over the same axes, with at least one voxel set, or None.
    """

    points: npt.NDArray[np.float64]
    positive: Mask
    box: tuple[float, float, float, float] | None
    mask: Mask | None

    @property
    def is_empty(self) -> bool:
        """True if the object has no prompt on this slice."""
        return len(self.points) == 0 and self.box is None and self.mask is None


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of all objects in one volume, checked when made.

    Attributes
    ----------
    objects
        One entry per object, with different labels.
    shape
        Voxels along (i, j, k).
    slice_axis
        The axis (0, 1 or 2) that slices are taken along.
    slice_range
        First and last slice (inclusive) that may be touched, or None for all.
    direction
        Which way to propagate.

    Raises
    ------
    UserError
        If there is no prompt, an object has none or only background points, two objects share a label,
        a point or box is outside the volume or not finite, a box has no area, two boxes of an object act
        on one slice, a mask has another shape, `slice_range` is not ordered or inside the volume, or a
        point or box lies on a slice that `slice_range` or the object's own box excludes.
    ValueError
        If `shape` or `slice_axis` is not what a volume can have: an error in our code, not a person's.
    """

    objects: tuple[ObjectPrompts, ...]
    shape: Shape
    slice_axis: int
    slice_range: tuple[int, int] | None = None
    direction: Direction = Direction.BOTH
    # Slices with a voxel of the starting mask, by label. Found once: looking costs a pass over the volume.
    _mask_slices: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1 or self.slice_axis not in (0, 1, 2):
            raise ValueError(f"no volume has shape {self.shape} with slices along axis {self.slice_axis}")
        self._check_slice_range()
        if all(obj.is_empty for obj in self.objects):
            raise UserError(NO_PROMPT)
        labels: set[str] = set()
        for obj in self.objects:
            if obj.label in labels:
                raise UserError(f'Two objects have the label "{obj.label}": give each its own.')
            labels.add(obj.label)
            self._check_object(obj)

    def slice_limits(self, obj: ObjectPrompts) -> tuple[int, int]:
        """First and last slice (inclusive) that `obj` may be propagated to.

        The slices of its boxes that span several (Slicer's ROI says where the object ends as well as
        where it is; several such boxes reach from the first slice of any to the last of any), or the
        whole volume if there are none, and of those the ones in `slice_range`.
        """
        spans = [box.slices(self.shape, self.slice_axis) for box in obj.boxes]
        spans = [(first, last) for first, last in spans if first < last]
        first = min((span[0] for span in spans), default=0)
        last = max((span[1] for span in spans), default=self.shape[self.slice_axis] - 1)
        if self.slice_range is not None:
            first, last = max(first, self.slice_range[0]), min(last, self.slice_range[1])
        return first, last

    def slices(self, obj: ObjectPrompts) -> list[int]:
        """Indices of the slices on which `obj` has a prompt, sorted.

        Slices of a starting mask count only within `slice_limits`: a whole mask with a `slice_range`
        means "do these slices again".
        """
        found = {self._slice_of(point) for point in obj.points}
        found.update(self._box_slice(box) for box in obj.boxes)
        found.update(self._usable_mask_slices(obj))
        return sorted(found)

    def on_slice(self, obj: ObjectPrompts, index: int) -> SlicePrompts:
        """What `obj` has on slice `index`; empty where it has nothing.

        A box that spans several slices acts on the middle one of those it may touch.
        """
        a, b = in_plane_axes(self.slice_axis)
        points = [point for point in obj.points if self._slice_of(point) == index]
        box = next((box for box in obj.boxes if self._box_slice(box) == index), None)
        mask = None
        if obj.mask is not None and index in self._usable_mask_slices(obj):
            mask = mask_plane(obj.mask, index, self.slice_axis)
        return SlicePrompts(
            points=np.array([(p.index[a], p.index[b]) for p in points], dtype=np.float64).reshape(-1, 2),
            positive=np.array([p.positive for p in points], dtype=np.bool_),
            box=None if box is None else (box.low[a], box.low[b], box.high[a], box.high[b]),
            mask=mask,
        )

    def _slice_of(self, point: Point) -> int:
        return nearest_slice(point.index[self.slice_axis], self.shape[self.slice_axis])

    def _box_slice(self, box: Box) -> int:
        """The slice a box acts on: the middle one of its slices that are in `slice_range`."""
        first, last = box.slices(self.shape, self.slice_axis)
        if self.slice_range is not None and first < last:
            first, last = max(first, self.slice_range[0]), min(last, self.slice_range[1])
            if first > last:
                raise UserError(f"slice_range {list(self.slice_range)} has no slice of the {box}.")
        return (first + last) // 2

    def _usable_mask_slices(self, obj: ObjectPrompts) -> list[int]:
        first, last = self.slice_limits(obj)
        return [index for index in self._mask_slices.get(obj.label, ()) if first <= index <= last]

    def _check_slice_range(self) -> None:
        if self.slice_range is None:
            return
        first, last = self.slice_range
        count = self.shape[self.slice_axis]
        if not 0 <= first <= last < count:
            raise UserError(
                f"slice_range {list(self.slice_range)} must be the first and last of slices 0 to {count - 1}."
            )

    def _check_object(self, obj: ObjectPrompts) -> None:
        of = f' of object "{obj.label}"' if len(self.objects) > 1 else ""
        if obj.is_empty:
            raise UserError(f'Object "{obj.label}" has no prompt: send foreground, roi, boxes or mask.')
        for point in obj.points:
            kind = "foreground" if point.positive else "background"
            check_inside(point.index, self.shape, f"{kind} point{of}")
        for box in obj.boxes:
            self._check_box(box, of)
        if obj.mask is not None:
            self._mask_slices[obj.label] = self._check_mask(obj.mask, of)
        self._check_slices(obj, of)
        if not any(p.positive for p in obj.points) and not obj.boxes and not self._usable_mask_slices(obj):
            raise UserError(
                f'Object "{obj.label}" has only background points: add a foreground point, a box or a mask.'
            )

    def _check_box(self, box: Box, of: str) -> None:
        for corner in (box.low, box.high):
            check_inside(corner, self.shape, f"box corner{of}")
        if any(box.low[axis] == box.high[axis] for axis in in_plane_axes(self.slice_axis)):
            raise UserError(f"The {box}{of} has no area on a slice.")

    def _check_mask(self, mask: Mask | FrameMasks, of: str) -> list[int]:
        if mask.dtype != np.bool_ or mask.shape != tuple(self.shape):
            raise UserError(
                f"mask{of} of shape {list(mask.shape)} and type {mask.dtype} must be bool, on the image's "
                f"grid {list(self.shape)}."
            )
        return mask_slices(mask, self.slice_axis)

    def _check_slices(self, obj: ObjectPrompts, of: str) -> None:
        """Refuse prompts where the object may not be: one of the two is a mistake, who knows which."""
        first, last = self.slice_limits(obj)
        acting = [self._box_slice(box) for box in obj.boxes]
        for index in [*(self._slice_of(point) for point in obj.points), *acting]:
            if not first <= index <= last:
                raise UserError(
                    f"A prompt{of} is on slice {index}, but roi, boxes and slice_range leave only "
                    f"slices {first} to {last}."
                )
        for index in acting:
            if acting.count(index) > 1:
                raise UserError(f"Two boxes{of} act on slice {index}: send one box per object and slice.")
        if not self.slices(obj):
            raise UserError(f"slice_range {list(self.slice_range or ())} has no voxel of the mask{of}.")
