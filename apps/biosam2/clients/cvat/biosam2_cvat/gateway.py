"""One request to a nuclio function: its body read, its answer or error written as CVAT reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from biosam2_cvat.errors import BadRequest, BioSAM2Error
from biosam2_cvat.server import Server

Work = Callable[[Server, Mapping[str, Any]], Any]


def prepare(context: Any) -> None:
    """What a function does once, when its worker starts.

    Raises
    ------
    BadRequest
        If the environment names no usable server; the function then does not start.
    """
    context.user_data.server = Server.from_environment()
    context.logger.info(f"BioSAM-2 is asked at {context.user_data.server.address}")


def reply(context: Any, event: Any, work: Work) -> Any:
    """Do the work that an event asks for.

    CVAT shows of an error the status and its words ("503 Server Error: Service Unavailable") and leaves out
    the body; the sentence is in the body all the same, and in the function's log, where an operator looks.

    Parameters
    ----------
    context : nuclio_sdk.Context
        As `prepare` left it.
    event : nuclio_sdk.Event
    work : callable
        From the server and the request to something that JSON can hold.

    Returns
    -------
    nuclio_sdk.Response
    """
    try:
        answer, status = work(context.user_data.server, _body(event)), 200
    except BioSAM2Error as error:
        context.logger.error(str(error))
        answer, status = {"message": str(error)}, error.status
    # nuclio's own encoder is pure Python, and takes seconds for the mask of a large picture
    content = json.dumps(answer, separators=(",", ":"))
    return context.Response(body=content, headers={}, content_type="application/json", status_code=status)


def _body(event: Any) -> Mapping[str, Any]:
    """The request, which nuclio has parsed only if it came as JSON by name."""
    body = event.body
    if isinstance(body, (bytes, str)):
        try:
            body = json.loads(body)
        except ValueError:
            raise BadRequest("the request is not JSON.") from None
    if not isinstance(body, Mapping):
        raise BadRequest("the request is no JSON object.")
    return body


def setting(name: str, default: str, allowed: tuple[str, ...] = ()) -> str:
    """A variable of the function's environment.

    Raises
    ------
    BadRequest
        If it has a value that is not allowed.
    """
    value = os.environ.get(name) or default
    if allowed and value not in allowed:
        raise BadRequest(f'{name} "{value}" is not one of {", ".join(allowed)}.')
    return value


def number_setting(name: str, default: float) -> float:
    """A variable of the function's environment that is a number, not below zero.

    Raises
    ------
    BadRequest
        If it is none.
    """
    value = os.environ.get(name)
    try:
        number = float(value) if value else default
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise BadRequest(f'{name} "{value}" is not a number from 0 on.')
    return number
