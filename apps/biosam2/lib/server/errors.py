"""Errors a person can cause, as 4xx answers with one plain sentence, where MONAI Label has a bare 500."""

from __future__ import annotations

import json

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)

from lib.errors import UserError


def install(app: FastAPI) -> None:
    """Hook the handlers onto MONAI Label's app.

    MONAI Label makes its app instance when the server has already built its stack of middleware, so the stack
    is built once more; no request has come in by then.
    """

    @app.exception_handler(UserError)
    def user_error(_: Request, error: UserError) -> JSONResponse:
        return plain(error.status, str(error))

    @app.exception_handler(ImageNotFoundException)
    @app.exception_handler(LabelNotFoundException)
    def not_found(_: Request, error: MONAILabelException) -> JSONResponse:
        return plain(404, error.msg)

    @app.exception_handler(MONAILabelException)
    def monai_label_error(_: Request, error: MONAILabelException) -> JSONResponse:
        return plain(400 if error.error.name == "INVALID_INPUT" else 500, error.msg)

    @app.exception_handler(json.JSONDecodeError)
    def not_json(_: Request, error: json.JSONDecodeError) -> JSONResponse:
        return plain(400, f"params is not JSON ({error.msg} at character {error.pos}).")

    @app.exception_handler(RequestValidationError)
    def not_as_declared(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        given = "" if first["type"] == "missing" else f", not {str(first.get('input'))[:80]!r}"
        return plain(422, f"{field}: {first['msg']}{given}.")

    app.middleware_stack = app.build_middleware_stack()


def plain(status: int, sentence: str) -> JSONResponse:
    """An error as every client of this server gets it."""
    return JSONResponse({"detail": sentence}, status_code=status)
