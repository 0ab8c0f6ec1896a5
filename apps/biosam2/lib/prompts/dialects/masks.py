"""Starting masks in a request: nested lists, runs, or text that names a mask; on the image's grid as bool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.errors import UserError
from lib.imaging import runs as flat_runs
from lib.prompts.dialects.fields import Grid, shown, unpacked, whole
from lib.prompts.frame_masks import FrameMasks
from lib.prompts.geometry import Mask, describe_shape, in_plane_axes

ReadMask = Callable[[str], npt.NDArray[Any] | FrameMasks]

MOST_VOXELS = 20_000_000
"""Voxels inside a mask of a video that is given as runs of the whole of it: each is looked at by itself."""


def mask(value: Any, field: str, grid: Grid, read_mask: ReadMask | None) -> Mask | FrameMasks | None:
    """The mask that a request's `mask` means.

    Parameters
    ----------
    value
        One of: nothing (None, "" or an empty list); an array or nested list, where 0 is outside and every
        other number inside; ``{"shape": [...], "rle": [start, length, ...]}``, runs of inside voxels in
        C order (last axis fastest); ``{"frames": {"12": {"size", "bbox", "counts"}, ...}}``, masks of some
        slices as `lib.imaging.runs` has them, which is how answers of videos give them; one such mask, if
        the request is about one slice; or other text, which `read_mask` turns into an array.
    field
        What messages call it.
    grid
        The image's voxels. A mask has the image's shape, or the shape (A, B) of a slice if the request
        is about one slice.
    read_mask
        Gives the array for text such as the id of an uploaded file. It decides which texts may be read.

    Returns
    -------
    numpy.ndarray, FrameMasks or None
        Bool (I, J, K); of a video, and of masks given by slices, `FrameMasks`. A mask
        without a voxel says nothing, and is None: Slicer sends the segment as it is, and it starts out
        empty.

    Raises
    ------
    UserError
        If the value is none of these, is not finite, or has another shape.
    """
    value = unpacked(value, field)
    if value is None or (isinstance(value, (str, list, tuple)) and len(value) == 0):
        return None
    if isinstance(value, str):
        if read_mask is None:
            raise UserError(f"{field} must be voxels or runs, not {shown(value)}.")
        value = read_mask(value)
    if isinstance(value, Mapping) and ("frames" in value or "counts" in value):
        value = _from_slices(value, field, grid)
    elif grid.is_video and isinstance(value, Mapping) and len(value.get("shape") or ()) == 3:
        value = _of_video(value, field, grid)
    if isinstance(value, FrameMasks):
        return value if value.any() else None
    found = _from_runs(value, field, grid) if isinstance(value, Mapping) else _from_voxels(value, field)
    return _on_grid(found, field, grid)


def runs(voxels: Mask) -> dict[str, list[int]]:
    """A mask as ``{"shape": [...], "rle": [start, length, ...]}``, the form that `mask` reads back.

    Parameters
    ----------
    voxels
        Bool, of any shape. Runs are counted in C order (last axis fastest).
    """
    edges = np.flatnonzero(np.diff(voxels.ravel().astype(np.int8), prepend=0, append=0))
    starts, ends = edges[0::2], edges[1::2]
    return {"shape": list(voxels.shape), "rle": np.stack([starts, ends - starts], axis=1).ravel().tolist()}


def _from_voxels(value: Any, field: str) -> Mask:
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged nested list
        raise UserError(f"{field} must be a full grid of numbers, not {shown(value)}.") from None
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "f" and not np.isfinite(found).all()):
        raise UserError(f"{field} must hold finite numbers only, not {shown(value)}.")
    inside: Mask = found != 0
    return inside


def _from_slices(value: Mapping[str, Any], field: str, grid: Grid) -> FrameMasks:
    """Masks by slice, each as `lib.imaging.runs` has it."""
    a, b = (grid.shape[axis] for axis in in_plane_axes(grid.slice_axis))
    count = grid.shape[grid.slice_axis]
    if "counts" in value:
        if grid.slice is None and count > 1:
            raise UserError(f'{field} has no slice: send {{"frames": {{"12": …}}}} or slice.')
        value = {"frames": {str(grid.slice or 0): value}}
    given = value["frames"]
    if set(value) != {"frames"} or not isinstance(given, Mapping):
        raise UserError(f'{field} must be {{"frames": {{"12": {{"size", "bbox", "counts"}}}}}}.')
    kept = {}
    for key, one in given.items():
        index = int(key) if str(key).isdecimal() and len(str(key)) < 10 else -1
        if not 0 <= index < count:
            raise UserError(
                f"{field}.frames has {shown(key)}, which is not one of the slices 0 to {count - 1}."
            )
        found = flat_runs.decode(one, (a, b), f"{field}.frames[{index}]")
        if found.any():
            kept[index] = flat_runs.encode(found)
    return FrameMasks(grid.shape, grid.slice_axis, kept)


def _of_video(value: Mapping[str, Any], field: str, grid: Grid) -> FrameMasks:
    """Runs of a whole video, without an array of its size."""
    shape, numbers = _checked_runs(value, field, grid)
    starts, lengths = np.array(numbers, np.int64).reshape(-1, 2).T
    size = int(np.prod(shape, dtype=np.int64))
    # first each by itself: their sum must not overflow
    if len(starts) and (starts.min() < 0 or lengths.min() < 1 or max(starts.max(), lengths.max()) > size):
        raise UserError(f"{field}.rle has a run outside its {size} voxels.")
    if len(starts) and (starts + lengths).max() > size:
        raise UserError(f"{field}.rle has a run outside its {size} voxels.")
    total = int(lengths.sum())
    if total > MOST_VOXELS:
        raise UserError(
            f"{field}.rle has {total} voxels, more than {MOST_VOXELS}: send the masks of single frames."
        )
    first = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    places = np.unravel_index(first + np.arange(total), shape)
    a, b = in_plane_axes(grid.slice_axis)
    along, kept = places[grid.slice_axis], {}
    order = np.argsort(along, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(along[order])) + 1) if total else ():
        plane = np.zeros((shape[a], shape[b]), np.bool_)
        plane[places[a][part], places[b][part]] = True
        kept[int(along[part[0]])] = flat_runs.encode(plane)
    return FrameMasks(grid.shape, grid.slice_axis, kept)


def _checked_runs(value: Mapping[str, Any], field: str, grid: Grid) -> tuple[tuple[int, ...], list[int]]:
    """The shape, and starts and lengths in turn."""
    if set(value) != {"shape", "rle"} or not all(isinstance(value[key], (list, tuple)) for key in value):
        raise UserError(f"{field} must have the lists shape and rle and nothing else, not {shown(value)}.")
    if len(value["shape"]) not in (2, 3):
        raise UserError(f"{field}.shape must have 2 or 3 numbers, not {shown(value['shape'])}.")
    shape = tuple(whole(n, f"{field}.shape") for n in value["shape"])
    _check_shape(shape, field, grid)  # before anything of that size is made
    numbers = [whole(n, f"{field}.rle") for n in value["rle"]]
    if len(numbers) % 2:
        raise UserError(f"{field}.rle must be pairs of start and length, not {len(numbers)} numbers.")
    return shape, numbers


def _from_runs(value: Mapping[str, Any], field: str, grid: Grid) -> Mask:
    shape, numbers = _checked_runs(value, field, grid)
    flat = np.zeros(shape, dtype=np.bool_).reshape(-1)
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        if start < 0 or length < 1 or start + length > flat.size:
            raise UserError(f"{field}.rle has the run [{start}, {length}], outside its {flat.size} voxels.")
        flat[start : start + length] = True
    return flat.reshape(shape)


def _check_shape(shape: tuple[int, ...], field: str, grid: Grid) -> None:
    slice_shape = tuple(grid.shape[axis] for axis in in_plane_axes(grid.slice_axis))
    flat = grid.slice is not None or grid.shape[grid.slice_axis] == 1
    if shape != tuple(grid.shape) and not (flat and shape == slice_shape):
        raise UserError(
            f"{field} of shape {shown(list(shape))} must have the image's {describe_shape(grid.shape)}."
        )


def _on_grid(found: Mask, field: str, grid: Grid) -> Mask | FrameMasks | None:
    _check_shape(found.shape, field, grid)
    if not found.any():
        return None
    if found.ndim == 3:
        return FrameMasks.of(found, grid.slice_axis) if grid.is_video else found
    if grid.is_video:
        return FrameMasks(grid.shape, grid.slice_axis, {grid.slice or 0: flat_runs.encode(found)})
    whole_grid = np.zeros(grid.shape, dtype=np.bool_)
    at: list[slice | int] = [slice(None)] * 3
    at[grid.slice_axis] = grid.slice or 0
    whole_grid[tuple(at)] = found
    return whole_grid
