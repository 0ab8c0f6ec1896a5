"""A label map that another client submits -> masks on a frame of a CVAT task."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lib.datastores.cvat.catalogue import Task
from lib.datastores.cvat.client import CvatClient, Refused, decoded, readable
from lib.errors import Conflict, Unavailable, UserError
from lib.imaging.seg.segments import Segment

logger = logging.getLogger(__name__)


def upload(
    client: CvatClient, task: Task, number: int, labels: np.ndarray, segments: Iterable[Segment]
) -> None:
    """Put a mask for each structure on a frame on which nothing is drawn.

    Parameters
    ----------
    client : CvatClient
    task : Task
    number : int
        Of the frame.
    labels : ndarray (width, height)
        [x, y], values as in `segments`.
    segments : iterable of Segment

    Raises
    ------
    Conflict
        If something is drawn there: replacing what a person made in CVAT is for a person in CVAT.
    UserError
        If the task has no label of a structure's name.
    Unavailable
        If CVAT does not answer or refuses.
    """
    what = f"the annotations of task {task.id}"
    known = client.pages("/api/labels", f"the labels of task {task.id}", task_id=task.id)
    with readable(what):
        numbers = {str(label["name"]): int(label["id"]) for label in known if not label.get("has_parent")}
    shapes = []
    for segment in segments:
        mask = labels == segment.value
        if not mask.any():
            continue
        if segment.name not in numbers:
            raise UserError(
                f'task {task.id} of CVAT has no label "{segment.name}": '
                f"add it there, or take one of {', '.join(sorted(numbers)) or 'none'}."
            )
        shapes.append(_shape(mask, number, numbers[segment.name]))
    current = client.json(f"/api/tasks/{task.id}/annotations/", what)
    with readable(what):
        if _is_drawn(current, number):
            raise Conflict(
                f"on frame {number} of task {task.id} something is drawn in CVAT: change it there."
            )
    if not shapes:
        return
    content = {"version": 0, "tags": [], "shapes": shapes, "tracks": []}
    try:
        with client.ask(
            "PATCH", f"/api/tasks/{task.id}/annotations/", what, params={"action": "create"}, json=content
        ) as response:
            decoded(response, what)
    except Refused as error:
        raise Unavailable(
            f"CVAT refused the label of frame {number} of task {task.id} (status {error.code})."
        ) from None
    logger.info("%d masks put on frame %d of task %d of CVAT", len(shapes), number, task.id)


def _is_drawn(annotations: dict[str, Any], number: int) -> bool:
    if any(int(shape["frame"]) == number for shape in annotations["shapes"]):
        return True
    return any(_is_seen(track["shapes"], number) for track in annotations["tracks"])


def _is_seen(keys: Sequence[dict[str, Any]], number: int) -> bool:
    """Whether a track is there on a frame: what its last key frame up to then says."""
    before = [key for key in keys if int(key["frame"]) <= number]
    return bool(before) and not max(before, key=lambda key: int(key["frame"])).get("outside", False)


def _shape(mask: np.ndarray, number: int, label: int) -> dict[str, Any]:
    """A mask as CVAT takes it: runs, the first of pixels outside, row by row over its box, and the box."""
    x, y = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = mask[x[0] : x[-1] + 1, y[0] : y[-1] + 1].T.ravel()
    ends = np.flatnonzero(np.diff(box, prepend=False)).tolist()
    runs = np.diff([0, *ends, box.size]).tolist()
    corners = [int(x[0]), int(y[0]), int(x[-1]), int(y[-1])]  # the last pixels are in it
    return {
        "type": "mask",
        "frame": number,
        "label_id": label,
        "points": [*runs, *corners],
        "occluded": False,
        "outside": False,
        "z_order": 0,
        "rotation": 0.0,
        "group": 0,
        "source": "semi-auto",
        "attributes": [],
        "elements": [],
    }
