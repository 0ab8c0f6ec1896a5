"""What a person clicked and drew in CVAT, as the server's prompts."""

from __future__ import annotations

from typing import Any

from biosam2_cvat import coordinates
from biosam2_cvat.errors import BadRequest


def read_prompts(positive: Any, negative: Any, box: Any) -> dict[str, Any]:
    """Prompts on a picture.

    Parameters
    ----------
    positive, negative : sequence of (x, y), or None
        Clicks on the object and beside it, in CVAT's coordinates.
    box : two corners, or four numbers, or None
        CVAT sends an empty list for none, too.

    Raises
    ------
    BadRequest
    """
    has_box = box is not None and coordinates.numbers(box, "obj_bbox").size > 0
    asked = {
        "foreground": coordinates.points(positive or [], "pos_points"),
        "background": coordinates.points(negative or [], "neg_points"),
        "box": coordinates.box(box, "obj_bbox") if has_box else None,
    }
    if not asked["foreground"] and not has_box:
        raise BadRequest("neither a click on the object nor a box around it was given.")
    return asked
