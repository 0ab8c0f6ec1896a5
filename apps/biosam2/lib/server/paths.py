"""Names in a request that MONAI Label makes paths of: no route may be led out of the studies folder."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.server.errors import plain

# query parameters of MONAI Label's datastore routes that end up in a file name
NAMES = ("tag", "image", "label", "id")


class NamesOnly:
    """Middleware: 400 for a datastore request in which a name is a path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/datastore"):
            query = Request(scope).query_params
            for name in NAMES:
                for value in query.getlist(name):
                    if "/" in value or "\\" in value or "\0" in value or value in (".", ".."):
                        answer = plain(400, f'{name} must be a plain name, not "{value[:80]}".')
                        await answer(scope, receive, send)
                        return
        await self.app(scope, receive, send)


def install(app: FastAPI) -> None:
    """Put the check in front of MONAI Label's routes (see `lib.server.errors.install` for when)."""
    app.middleware_stack = NamesOnly(app.middleware_stack or app.build_middleware_stack())
