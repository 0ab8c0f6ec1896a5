"""Waiting for work in the queue, as long as the client that asked for it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from fastapi import Request

from lib.errors import Cancelled
from lib.server.queue import WorkQueue
from lib.work import Work

T = TypeVar("T")


async def answer(http: Request, work: Work, call: Callable[[], T]) -> T:
    """Run `call` as work, and return what it returns.

    Raises
    ------
    UserError
        As `WorkQueue.submit` does, and what `call` raises.
    Cancelled
        If somebody has cancelled it (see `lib.server.progress`), or the client has gone away.
    """
    queue: WorkQueue = http.app.state.work_queue
    future = queue.submit(work, call)
    try:
        return await result(http, queue, work, future)
    except BaseException:  # also when this server ends, and leaves the thread to itself
        if not future.done():
            queue.cancel(work.id)
        raise


async def result(http: Request, queue: WorkQueue, work: Work, future: Future[T]) -> T:
    """What the thread returns; when the client goes away before, the work is cancelled.

    Raises
    ------
    Cancelled
    """
    done: asyncio.Future[T] = asyncio.wrap_future(future)
    gone: asyncio.Future[None] = asyncio.ensure_future(_gone(http))
    both: set[asyncio.Future] = {done, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            queue.cancel(work.id)
            await asyncio.wait({done})
    finally:
        gone.cancel()
    if done.cancelled():
        raise Cancelled()
    return done.result()


async def _gone(http: Request) -> None:
    """Wait until the client has closed the connection. What it sends meanwhile is nobody's."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
