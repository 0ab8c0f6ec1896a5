"""CVAT's interactor: clicks and a box on a picture to the mask of what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biosam2_cvat import gateway, shapes
from biosam2_cvat.pictures import Picture
from biosam2_cvat.prompts import read_prompts
from biosam2_cvat.server import Server


def init_context(context: Any) -> None:
    gateway.prepare(context)
    context.user_data.tolerance = gateway.number_setting("BIOSAM2_TOLERANCE", shapes.TOLERANCE)


def handler(context: Any, event: Any) -> Any:
    tolerance = context.user_data.tolerance
    return gateway.reply(context, event, lambda server, request: interact(server, request, tolerance))


def interact(server: Server, request: Mapping[str, Any], tolerance: float) -> dict[str, Any]:
    """The mask of the whole picture, rows of 0 and 1, and the outline of its largest piece.

    CVAT takes the outline where the person wants a polygon, and would draw one through whole pixels itself.
    """
    picture = Picture.from_base64(request.get("image"))
    clicks = request.get("pos_points"), request.get("neg_points")
    mask = server.mask(picture, read_prompts(*clicks, request.get("obj_bbox"))).mask
    outline = next(iter(shapes.polygons(mask, tolerance)), [])
    corners = [outline[at : at + 2] for at in range(0, len(outline), 2)]
    return {"mask": mask.astype(int).tolist(), "points": corners}
