"""What a model of one slice gets from prompts that may lie on many: those of the slice in question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.errors import UserError
from lib.prompts.dialects.fields import Grid
from lib.prompts.frame_masks import FrameMasks
from lib.prompts.geometry import Mask, mask_slices, nearest_slice
from lib.prompts.prompts import ObjectPrompts


def keep_one_slice(objects: Sequence[ObjectPrompts], grid: Grid) -> list[ObjectPrompts]:
    """The prompts of `objects` on one slice.

    Slicer sends every point of the volume together with the `slice` the person looks at, so objects
    without a prompt there are left out. OHIF names no slice but sends the points of one; from a client
    that names none and sends several, the slice of the last foreground point is what the person did
    last. A box that reaches through the slice is a box on it.

    Parameters
    ----------
    objects
        Prompts inside the volume.
    grid
        The image's voxels, with the slice that the request named, if any.

    Returns
    -------
    list of ObjectPrompts
        Objects with at least one prompt, all on one slice.

    Raises
    ------
    UserError
        If nothing lies on the slice named, or the slice was found by its last point and an object has no
        prompt there, or only a mask over several slices was sent.
    """
    index = grid.slice if grid.slice is not None else _last_touched(objects, grid)
    on_slice = [_restricted(obj, index, grid) for obj in objects]
    # An object that came empty is no matter of slices: it is left for Prompts to refuse.
    kept = [part for obj, part in zip(objects, on_slice, strict=True) if obj.is_empty or not part.is_empty]
    if all(part.is_empty for part in on_slice):
        raise UserError(f"No prompt is on slice {index}: click on it, or send the slice of the prompts.")
    if len(kept) < len(on_slice) and grid.slice is None:
        label = next(part.label for part in on_slice if part not in kept)
        raise UserError(f'Object "{label}" has no prompt on slice {index}, where the last prompt is.')
    return kept


def _last_touched(objects: Sequence[ObjectPrompts], grid: Grid) -> int:
    axis, count = grid.slice_axis, grid.shape[grid.slice_axis]
    points = [point for obj in objects for point in obj.points]
    clicked = [point for point in points if point.positive] or points
    boxes = [box for obj in objects for box in obj.boxes]
    if boxes and not any(point.positive for point in points):
        first, last = boxes[-1].slices(grid.shape, axis)
        return (first + last) // 2
    if clicked:
        return nearest_slice(clicked[-1].index[axis], count)
    masks = [obj.mask for obj in objects if obj.mask is not None]
    slices = {index for mask in masks for index in mask_slices(mask, axis)}
    if len(slices) > 1:
        raise UserError(f"mask covers {len(slices)} slices: send slice, the one to segment.")
    return slices.pop()


def _restricted(obj: ObjectPrompts, index: int, grid: Grid) -> ObjectPrompts:
    axis, count = grid.slice_axis, grid.shape[grid.slice_axis]
    reaching = [box for box in obj.boxes if _reaches(box.slices(grid.shape, axis), index)]
    return ObjectPrompts(
        label=obj.label,
        points=tuple(point for point in obj.points if nearest_slice(point.index[axis], count) == index),
        boxes=tuple(box.on_slice(index, axis) for box in reaching),
        mask=None if obj.mask is None else _only_slice(obj.mask, index, axis),
    )


def _reaches(span: tuple[int, int], index: int) -> bool:
    return span[0] <= index <= span[1]


def _only_slice(mask: Mask | FrameMasks, index: int, axis: int) -> Mask | FrameMasks:
    if isinstance(mask, FrameMasks):
        return mask.only(index)
    at: list[slice | int] = [slice(None)] * 3
    at[axis] = index
    kept = np.zeros_like(mask)
    kept[tuple(at)] = mask[tuple(at)]
    return kept
