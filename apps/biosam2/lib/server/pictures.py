"""`/biosam2/pictures`: pictures that are sent by themselves, and what is asked about them."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Body, Depends, File, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.errors import Unprocessable
from lib.imaging.picture import MOST_BYTES
from lib.server.app import ready_app
from lib.server.waiting import answer
from lib.work import Work

router = APIRouter(prefix="/biosam2/pictures", tags=["BioSAM-2"])
asker = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
fields_of_body = Body(default=None)


@router.post("", summary="Send a picture")
async def api_add(image: UploadFile = File(...), _: User = asker) -> dict[str, Any]:  # noqa: B008
    """Keep a PNG, JPEG, WebP or BMP file for a while. The same file sent again costs next to nothing.

    Returns
    -------
    dict
        `picture`: the name it has from now on (the sha256 of the file), `width`, `height`.

    Raises
    ------
    Unprocessable
        If it is no such picture, empty or too large.
    """
    if (image.size or 0) > MOST_BYTES:  # before it is read into memory
        raise Unprocessable(f"image has {image.size} bytes, more than the {MOST_BYTES} that are read.")
    data = await image.read()
    return await run_in_threadpool(lambda: ready_app().pictures.add(data))


@router.get("/labels", summary="What may be found on pictures")
async def api_labels(_: User = asker) -> dict[str, Any]:
    """The structures of the labels that have been submitted by now.

    Returns
    -------
    dict
        `labels`: their names; none of them while there is no label.

    Raises
    ------
    NotFound
        If this server does not offer `biosam2_auto`.
    Unavailable
        If the labels are in an archive that does not answer.
    """
    return await run_in_threadpool(lambda: {"labels": ready_app().pictures.labels()})


@router.post("/{picture}/mask", summary="Segment one object on a picture")
async def api_mask(http: Request, picture: str, fields: Any = fields_of_body, user: User = asker) -> Any:
    """The mask of what is prompted.

    Parameters
    ----------
    fields
        `foreground`, `background`: [[x, y], …]; `box`: [x0, y0, x1, y1]; `mask`; in pixel indices, centre of
        the pixel (see `lib.prompts.dialects.one_picture`).

    Returns
    -------
    dict
        `mask` (see `lib.imaging.runs`), `score` (predicted IoU), `cached` (whether no picture had to be
        encoded), `checkpoint`, `latencies`.

    Raises
    ------
    NotFound
        If the picture has expired or never was: it has to be sent again.
    UserError
        If a field is wrong, or as `lib.server.waiting.answer` does.
    """
    instance = await run_in_threadpool(ready_app)
    found = instance.pictures.pictures.get(picture)
    work = Work(uuid.uuid4().hex, "biosam2_2d", found.id, user.username, long=False)
    return await answer(http, work, lambda: instance.pictures.mask(found, fields))


@router.post("/{picture}/detect", summary="Find the structures of the submitted labels on a picture")
async def api_detect(http: Request, picture: str, fields: Any = fields_of_body, user: User = asker) -> Any:
    """What `biosam2_auto` finds, without prompts.

    Parameters
    ----------
    fields
        `labels`: names of structures, all if left out; `threshold`: the least score, 0 to 1.

    Returns
    -------
    dict
        `found`: a list of `label`, `index`, `score` and `mask` (see `lib.imaging.runs`).

    Raises
    ------
    NotFound
        If the picture has expired or never was, or this server does not offer `biosam2_auto`.
    Conflict
        If no label has been submitted yet.
    UserError
        If a field is wrong, or as `lib.server.waiting.answer` does.
    """
    instance = await run_in_threadpool(ready_app)
    found = instance.pictures.pictures.get(picture)
    work = Work(uuid.uuid4().hex, "biosam2_auto", found.id, user.username, long=True)
    return await answer(http, work, lambda: instance.pictures.detect(found, fields))
