"""`/biosam2/work`: how far each inference is, and a way to cancel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.errors import NotFound
from lib.server.queue import WorkQueue, unknown
from lib.work import Work

router = APIRouter(prefix="/biosam2/work", tags=["BioSAM-2"])

LOOK_EVERY = 0.2  # s between two looks at work that is watched
REPEAT_AFTER = 10.0  # s without news until what is known is sent again: proxies close silent connections
STOP_WITHIN = 30.0  # s that a cancelled slice may take before the answer to DELETE no longer waits for it

_asker = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))


@router.get("", summary="Inferences that wait or run")
async def api_list(http: Request, user: User = _asker) -> list[dict[str, Any]]:
    """Those that the asker may see, in the order in which they came."""
    queue = _queue(http)
    return [_described(work, queue) for work in queue.unfinished() if _may_see(user, work)]


@router.get("/{id}", summary="How far an inference is")
async def api_one(http: Request, id: str, user: User = _asker) -> dict[str, Any]:
    """One inference, also for a while after it has ended.

    Raises
    ------
    NotFound
    """
    return _described(_find(http, id, user), _queue(http))


@router.get("/{id}/events", summary="How far an inference is, as server-sent events")
async def api_events(http: Request, id: str, user: User = _asker) -> StreamingResponse:
    """The same whenever something has changed, until the inference has ended.

    Raises
    ------
    NotFound
    """
    events = _events(_find(http, id, user), _queue(http))
    # the second header keeps nginx from collecting events before it passes them on
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@router.delete("/{id}", summary="Cancel an inference")
async def api_cancel(http: Request, id: str, user: User = _asker) -> dict[str, Any]:
    """Cancel it, wait until it has stopped, and say in which state it has ended; "done" when it was too late.

    Raises
    ------
    NotFound
    """
    work, queue = _find(http, id, user), _queue(http)
    future = queue.cancel(id)
    if future is not None:
        stopped = asyncio.wrap_future(future)
        await asyncio.wait({stopped}, timeout=STOP_WITHIN)
        # how it ended is told to whoever asked for it
        stopped.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return _described(work, queue)


async def _events(work: Work, queue: WorkQueue) -> AsyncIterator[str]:
    told, silent = None, 0.0
    while True:
        ended = work.ended  # before the description, which must be the last one when it is true
        described = _described(work, queue)
        news = {key: value for key, value in described.items() if key != "seconds"}
        if news != told or silent >= REPEAT_AFTER:
            yield f"data: {json.dumps(described)}\n\n"
            told, silent = news, 0.0
        if ended:
            return
        await asyncio.sleep(LOOK_EVERY)
        silent += LOOK_EVERY


def _described(work: Work, queue: WorkQueue) -> dict[str, Any]:
    done, total = work.progress
    return {
        "id": work.id,
        "model": work.model,
        "image": work.image,
        "state": str(work.state),
        "position": queue.position(work),
        "done": done,
        "total": total,
        "seconds": round(work.seconds, 3),
    }


def _queue(http: Request) -> WorkQueue:
    return http.app.state.work_queue


def _find(http: Request, id: str, user: User) -> Work:
    """Work of that id, if the asker may see it: otherwise it is as if there were none."""
    work = _queue(http).find(id)
    if not _may_see(user, work):
        raise NotFound(unknown(id))
    return work


def _may_see(user: User, work: Work) -> bool:
    """One's own, and for administrators everybody's. Without access control everybody is one."""
    return user.username == work.owner or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles
