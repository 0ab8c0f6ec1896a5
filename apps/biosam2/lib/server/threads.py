"""MONAI Label's own requests in threads: each is written as if no other could wait for it.

Its handlers are `async def` and do their work (reading, saving, fetching from an archive) without ever giving
the event loop back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    info,
    logs,
    model,
    ohif,
    proxy,
    scoring,
    session,
    train,
    wsi_infer,
)
from monailabel.utils.async_tasks import utils as async_tasks

from lib.server.app import ready_app

# POST /infer is ours, and logging in belongs to the identity provider
ROUTERS: list[APIRouter] = [
    module.router
    for module in (
        info,
        model,
        wsi_infer,
        batch_infer,
        train,
        activelearning,
        scoring,
        datastore,
        logs,
        ohif,
        proxy,
        session,
    )
]
ASYNC_TASKS = ("train", "batch_infer", "scoring")

# what a route is made with it keeps under the same names
_SETTINGS = [name for name in inspect.signature(APIRoute.__init__).parameters if name != "self"]


def routes() -> list[APIRoute]:
    """The same routes, to be put in front of MONAI Label's, whose handlers run in FastAPI's thread pool."""
    # made by whoever comes first, and there may now be two of them
    for method in ASYNC_TASKS:
        async_tasks.background_tasks.setdefault(method, [])
        async_tasks.background_processes.setdefault(method, {})
        async_tasks.background_executors.setdefault(method, ThreadPoolExecutor(max_workers=1))
    found = (route for router in ROUTERS for route in router.routes)
    return [_in_threads(route) for route in found if isinstance(route, APIRoute)]


def _in_threads(route: APIRoute) -> APIRoute:
    given = {name: getattr(route, name) for name in _SETTINGS if hasattr(route, name)}
    given["path"] = settings.MONAI_LABEL_API_STR + route.path
    given["endpoint"] = in_thread(route.endpoint)
    given["include_in_schema"] = False  # MONAI Label's route describes the same request there
    if _takes_request(route.endpoint):
        given["dependencies"] = [*route.dependencies, Depends(_read_body)]
    return type(route)(**given)


def in_thread(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, which FastAPI runs in a thread, that does what a handler does without awaiting.

    Raises
    ------
    RuntimeError
        When it is called, if the handler does await something: that would need the event loop.
    """

    def handle(**given: Any) -> Any:
        ready_app()
        coroutine = handler(**given)
        try:
            coroutine.send(None)
        except StopIteration as returned:
            return returned.value
        coroutine.close()
        raise RuntimeError(f"{handler.__name__} awaits something, which a thread cannot")

    handle.__signature__ = inspect.signature(handler, eval_str=True)  # type: ignore[attr-defined]
    handle.__name__, handle.__doc__ = handler.__name__, handler.__doc__
    return handle


async def _read_body(request: Request) -> None:
    """Read the body where it can be awaited; the handler then finds it read."""
    await request.body()


def _takes_request(handler: Callable[..., Any]) -> bool:
    parameters = inspect.signature(handler, eval_str=True).parameters.values()
    return any(parameter.annotation is Request for parameter in parameters)
