"""`/biosam2/tracks`: objects that are followed over pictures, which a client sends one by one."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.concurrency import run_in_threadpool
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.server.app import ready_app
from lib.server.waiting import answer
from lib.work import Work

router = APIRouter(prefix="/biosam2/tracks", tags=["BioSAM-2"])
asker = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
fields_of_body = Body(default=None)


@router.post("", summary="Begin to follow objects")
async def api_begin(http: Request, fields: Any = fields_of_body, user: User = asker) -> Any:
    """See `lib.infers.track_task.TrackTask.begin` for fields, answer and errors."""
    instance = await run_in_threadpool(ready_app)
    return await answer(http, _work(fields, user), lambda: instance.tracks.begin(user.username, fields))


@router.post("/step", summary="Follow objects to the next picture")
async def api_step(http: Request, fields: Any = fields_of_body, user: User = asker) -> Any:
    """See `lib.infers.track_task.TrackTask.step` for fields, answer and errors."""
    instance = await run_in_threadpool(ready_app)
    return await answer(http, _work(fields, user), lambda: instance.tracks.step(user.username, fields))


@router.delete("/{track}", summary="Follow an object no further")
def api_end(track: str, user: User = asker) -> dict[str, str]:
    """Let go of a track, and say which.

    Raises
    ------
    NotFound
        If it has expired or never was.
    """
    ready_app().tracks.end(user.username, track)
    return {"track": track}


def _work(fields: Any, user: User) -> Work:
    """A person waits for the picture in front of them: not behind a propagation through a whole volume.

    On the device it gives way to clicks all the same, see `lib.sam.stream`.
    """
    picture = fields.get("picture") if isinstance(fields, dict) else None
    return Work(uuid.uuid4().hex, "biosam2_video", str(picture)[:64], user.username, long=False)
