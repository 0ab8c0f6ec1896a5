"""CVAT's detector: the structures on a picture that the server has learned from labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biosam2_cvat import gateway, shapes
from biosam2_cvat.coordinates import numbers
from biosam2_cvat.errors import BadRequest
from biosam2_cvat.pictures import Picture
from biosam2_cvat.server import Found, Server
from biosam2_cvat.shapes import MASK, POLYGON


def init_context(context: Any) -> None:
    gateway.prepare(context)
    data = context.user_data
    data.tolerance = gateway.number_setting("BIOSAM2_TOLERANCE", shapes.TOLERANCE)
    data.kind = gateway.setting("BIOSAM2_SHAPES", MASK, (MASK, POLYGON))
    names = gateway.setting("BIOSAM2_LABELS", "").split(",")
    data.labels = [name.strip() for name in names if name.strip()]


def handler(context: Any, event: Any) -> Any:
    data = context.user_data

    def work(server: Server, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        return detect(server, request, data.labels, data.kind, data.tolerance)

    return gateway.reply(context, event, work)


def detect(
    server: Server, request: Mapping[str, Any], labels: Sequence[str], kind: str, tolerance: float
) -> list[dict[str, Any]]:
    """What was found, as masks or, one for each piece, as polygons; nothing of structures that are not there.

    A mask comes with the outline of its largest piece, which CVAT takes where the person wants polygons.
    """
    picture = Picture.from_base64(request.get("image"))
    found = server.detect(picture, labels, _threshold(request.get("threshold")))
    return [one for structure in found for one in _annotations(structure, kind, tolerance)]


def _threshold(given: Any) -> float | None:
    if given is None:
        return None
    value = numbers(given, "threshold")
    if value.ndim or not 0 <= value <= 1:
        raise BadRequest(f"threshold {given} is not a number from 0 to 1.")
    return float(value)


def _annotations(found: Found, kind: str, tolerance: float) -> list[dict[str, Any]]:
    outlines = shapes.polygons(found.mask, tolerance)
    shared = {"label": found.label, "confidence": str(round(found.score, 4)), "type": kind}
    if kind == POLYGON:
        return [{**shared, "points": outline} for outline in outlines]
    return [{**shared, "points": outlines[0], "mask": shapes.flat_mask(found.mask)}] if outlines else []
