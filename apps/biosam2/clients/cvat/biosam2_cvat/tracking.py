"""CVAT's tracking requests: shapes and states in, shapes and states out, one per object, same order.

A state is what CVAT gives back at the next picture, JSON that it signs and keeps: the server's name for the
object's memory, and the kind of shape it was begun with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biosam2_cvat import shapes
from biosam2_cvat.coordinates import numbers
from biosam2_cvat.errors import BadRequest
from biosam2_cvat.pictures import Picture
from biosam2_cvat.server import Server, Step
from biosam2_cvat.shapes import RECTANGLE, TOLERANCE

KEEP, NONE = "keep", "none"  # what becomes of a rectangle whose object was lost

State = dict[str, Any]


def follow(
    server: Server, request: Mapping[str, Any], tolerance: float = TOLERANCE, lost: str = KEEP
) -> dict[str, list[Any]]:
    """One request to a tracker.

    An object with a state is looked for on the picture, one without is begun with its shape. Shapes come as
    `{"type", "points"}`, or, from an older CVAT, as the points of rectangles; they are answered alike. Beside
    a state CVAT sends None or, when older, the last shape: the state alone counts.

    An object that is lost becomes None, and may be found again later by the same state. CVAT's rectangle
    tool cannot read a None, and then loses the other objects of that picture, too: so a lost *rectangle*
    stays where it was last seen (`lost="keep"`).

    Parameters
    ----------
    server : Server
    request : mapping
        `image` (base64), `shapes`, `states`.
    tolerance : float
        Of polygons, as in `shapes.polygons`.
    lost : {"keep", "none"}

    Raises
    ------
    BioSAM2Error
        Then no object has moved on.
    """
    given, states = _list(request, "shapes"), _list(request, "states")
    count = max(len(given), len(states))
    given = [*given, *[None] * (count - len(given))]
    states = [*states, *[None] * (count - len(states))]
    new = [at for at in range(count) if states[at] is None]
    known = [at for at in range(count) if states[at] is not None]
    if not count:
        return {"shapes": [], "states": []}
    picture = Picture.from_base64(request.get("image"))
    fresh = [_begin(given[at], picture) for at in new]  # before anything is asked of the server
    names = [_track(states[at]) for at in known]
    answer: dict[str, list[Any]] = {"shapes": list(given), "states": list(states)}
    if new:
        steps = server.start_tracks(picture, [asked for asked, _ in fresh])
        for at, step, (_, state) in zip(new, steps, fresh, strict=True):
            answer["states"][at] = {**state, "track": step.track}
    if known:
        for at, step in zip(known, server.step_tracks(picture, names), strict=True):
            answer["shapes"][at], answer["states"][at] = _moved(step, states[at], tolerance, lost)
    return answer


def _list(request: Mapping[str, Any], name: str) -> list[Any]:
    value = request.get(name) or []
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadRequest(f"{name} is not a list.")
    return list(value)


def _begin(given: Any, picture: Picture) -> tuple[dict[str, Any], State]:
    """What the server is asked to remember, and the state but for the server's name for it."""
    if given is None:
        raise BadRequest("an object has neither a shape nor a state.")
    bare = not isinstance(given, Mapping)
    kind, points = (RECTANGLE, given) if bare else (given.get("type"), given.get("points"))
    asked = shapes.tracked_object(kind, points, picture.size)
    state: State = {"type": kind, "bare": bare}
    if kind == RECTANGLE:
        state["last"] = numbers(points, "rectangle").ravel().tolist()
    return asked, state


def _track(state: Any) -> str:
    track = state.get("track") if isinstance(state, Mapping) else None
    if not isinstance(track, str) or not track or state.get("type") not in shapes.TRACKED:
        raise BadRequest("a state is not one of this tracker: begin the tracking of that object again.")
    return track


def _moved(step: Step, state: Mapping[str, Any], tolerance: float, lost: str) -> tuple[Any, State]:
    """The shape that CVAT gets, and the state that it gives back next time."""
    kind, after = state["type"], dict(state)
    shape = None if step.mask is None else shapes.shape(kind, step.mask, tolerance)
    if shape is None and kind == RECTANGLE and lost == KEEP and state.get("last"):
        shape = {"type": kind, "points": state["last"]}
    if shape is not None and kind == RECTANGLE:
        after["last"] = shape["points"]
    return (shape["points"] if shape and state.get("bare") else shape), after
