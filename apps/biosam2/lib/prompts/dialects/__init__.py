"""The JSON of Slicer, OHIF, CVAT and plain clients -> Prompts: the only package that knows it.

========== =============================================================================================
client     what it sends
========== =============================================================================================
Slicer     ``foreground``, ``background``: [[i, j, k], …] of the whole volume; ``roi`` [i0, i1, j0, j1,
           k0, k1], two opposite corners of a box along the patient's axes, so each pair unsorted;
           ``label``; ``slice`` for models of one slice; always ``client_id``
OHIF       ``foreground``, ``background`` on one slice for models of one; for deepedit models
           ``"<label>": [[i, j, k], …]`` and ``background``
CVAT       ``foreground``, ``background``: [[x, y], …]; ``roi`` [x0, y0, x1, y1]
plain      ``objects``: [{``label``, ``foreground``, ``background``, ``points`` [[i, j, k, 1|0], …],
           ``roi``, ``boxes``, ``mask``}, …], and ``slice_range``, ``direction``
========== =============================================================================================

All may be mixed, and any list may come as JSON text, as form fields do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lib.errors import UserError
from lib.prompts.dialects.fields import Grid, items, name, shown, unpacked, whole
from lib.prompts.dialects.masks import ReadMask, mask, runs
from lib.prompts.dialects.one_slice import keep_one_slice
from lib.prompts.geometry import Point, Shape
from lib.prompts.prompts import NO_PROMPT, Direction, ObjectPrompts, Prompts

__all__ = ["DEFAULT_LABEL", "MAX_OBJECTS", "ReadMask", "counts_structures", "parse", "runs"]

DEFAULT_LABEL = "object"
MAX_OBJECTS = 100

_PROMPT_FIELDS = ("foreground", "background", "points", "roi", "boxes", "mask")
_OBJECT_FIELDS = ("label", *_PROMPT_FIELDS)
# Fields that mean something else than points of a structure, even if a structure has that name: OHIF
# advertises "background" itself.
_NOT_LABELS = frozenset(
    (*_OBJECT_FIELDS, "objects", "slice", "slice_range", "direction", "model", "image", "device", "session")
)


def parse(
    request: Mapping[str, Any],
    shape: Shape,
    slice_axis: int,
    dimension: Literal[2, 3],
    read_mask: ReadMask | None = None,
    labels: Sequence[str] = (),
    affine: np.ndarray | None = None,
    is_video: bool = False,
) -> Prompts:
    """The prompts in a request, whichever client sent it.

    Parameters
    ----------
    request
        The request's JSON; fields that have nothing to do with prompts are left alone. ``label`` is
        always the structure's name: MONAI Label puts the path of an uploaded label file there, and the
        infer task must move that to ``mask``.
    shape
        The image's voxels along (i, j, k); a flat image has one slice.
    slice_axis
        The axis (0, 1 or 2) that slices are taken along; ``slice`` and ``slice_range`` count along it.
    dimension
        2 keeps the prompts of one slice (see `keep_one_slice`); 3 keeps all, and ``slice`` then only
        says where coordinates without a slice are.
    read_mask
        Turns a ``mask`` that is text into an array (I, J, K), or raises a `UserError`.
    labels
        Known structures: a field of that name holds foreground points of it (deepedit models).
        ``background`` is then beside each of them.
    affine
        4x4, voxel index to mm: a ``roi`` of six numbers is a box along the patient's axes. Without it these
        are taken to be the volume's.
    is_video
        Keep of masks the frames that have one only: whole, they may be larger than the memory.

    Returns
    -------
    Prompts
        Objects in the order: known labels, top-level prompts (called ``label``, or "object"), ``objects``.

    Raises
    ------
    UserError
        If a field is not what it should be, or the prompts do not make sense (see `Prompts`).
    """
    grid = Grid(shape, slice_axis, _slice(request.get("slice"), shape[slice_axis]), affine, is_video)
    found = _labelled(request, grid, labels)
    if any(_sent(request.get(field)) for field in _PROMPT_FIELDS if field != "background" or not found):
        found.append(_object(request, "", grid, read_mask))
    for n, entry in enumerate(items(request.get("objects"), "objects", limit=MAX_OBJECTS)):
        found.append(_listed_object(entry, f"objects[{n}]", grid, read_mask))
    if all(obj.is_empty for obj in found):
        raise UserError(NO_PROMPT)
    if dimension == 2:
        found = keep_one_slice(found, grid)
    return Prompts(
        objects=tuple(found),
        shape=shape,
        slice_axis=slice_axis,
        slice_range=_slice_range(request.get("slice_range")),
        direction=_direction(request.get("direction")),
    )


def counts_structures(request: Mapping[str, Any]) -> bool:
    """Whether the client takes the n-th structure of an answer without prompts for the value n.

    Slicer's plugin sorts ``label_names`` by their indexes and does not look at these any more. It is known by
    ``client_id``, which MONAI Label's client library always sends; and it loads the labels that a batch has
    kept (``save_label``).
    """
    return "client_id" in request or bool(request.get("save_label"))


def _sent(value: Any) -> bool:
    """False for what clients send when there is nothing: no field, null, "" and empty lists, also as text."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "null")
    return value is not None and not (isinstance(value, (list, tuple)) and len(value) == 0)


def _labelled(request: Mapping[str, Any], grid: Grid, labels: Sequence[str]) -> list[ObjectPrompts]:
    """One object per known label that has points of its own, each with the common background points."""
    background: list[Point] | None = None
    found = []
    for label in labels:
        if label in _NOT_LABELS or not _sent(request.get(label)):
            continue
        if background is None:
            background = grid.points(request.get("background"), "background", positive=False)
        points = grid.points(request[label], label, positive=True)
        found.append(ObjectPrompts(label, (*points, *background)))
    return found


def _listed_object(entry: Any, field: str, grid: Grid, read_mask: ReadMask | None) -> ObjectPrompts:
    entry = unpacked(entry, field)
    if not isinstance(entry, Mapping):
        raise UserError(f'{field} must be an object such as {{"label": "liver", …}}, not {shown(entry)}.')
    for key in entry:
        # A request has many fields that are not ours; an object has none, so this is a slip of the pen
        # that would otherwise lose a prompt without a word.
        if key not in _OBJECT_FIELDS:
            known = ", ".join(_OBJECT_FIELDS)
            raise UserError(f"{field} has the unknown field {shown(key)}; it may have {known}.")
    return _object(entry, f"{field}.", grid, read_mask)


def _object(entry: Mapping[str, Any], prefix: str, grid: Grid, read_mask: ReadMask | None) -> ObjectPrompts:
    points = [
        *grid.points(entry.get("foreground"), f"{prefix}foreground", positive=True),
        *grid.points(entry.get("background"), f"{prefix}background", positive=False),
        *grid.signed_points(entry.get("points"), f"{prefix}points"),
    ]
    boxes = [*grid.roi(entry.get("roi"), f"{prefix}roi"), *grid.boxes(entry.get("boxes"), f"{prefix}boxes")]
    return ObjectPrompts(
        label=name(entry.get("label"), f"{prefix}label", DEFAULT_LABEL),
        points=tuple(points),
        boxes=tuple(boxes),
        mask=mask(entry.get("mask"), f"{prefix}mask", grid, read_mask),
    )


def _slice(value: Any, count: int) -> int | None:
    if value is None:
        return None
    index = whole(value, "slice")
    if not 0 <= index < count:
        raise UserError(f"slice {shown(value)} is not one of the slices 0 to {count - 1}.")
    return index


def _slice_range(value: Any) -> tuple[int, int] | None:
    values = items(value, "slice_range")
    if not values:
        return None
    if len(values) != 2:
        raise UserError(f"slice_range must be [first, last], not {shown(values)}.")
    return whole(values[0], "slice_range"), whole(values[1], "slice_range")


def _direction(value: Any) -> Direction:
    if value is None or value == "":
        return Direction.BOTH
    try:
        return Direction(value)
    except ValueError:
        ways = ", ".join(way.value for way in Direction)
        raise UserError(f"direction must be one of {ways}, not {shown(value)}.") from None
