"""`/biosam2/`: the page, the files behind it, what it shows as one JSON, and its pictures."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.errors import NotFound
from lib.server.app import ready_app
from lib.server.status import job, pictures
from lib.server.status.labels import Labels
from lib.server.status.plain import iso
from lib.server.status.rounds import Rounds
from lib.versions.store import SERVED, Version, Versions

CLIENT = Path(__file__).resolve().parents[3] / "clients" / "status"
TYPES = {".js": "text/javascript", ".css": "text/css"}
TRAINER = "biosam2"

# Browsers keep the files, but ask each time whether they are still the same. Nothing in the page can make it
# run or load what is not from here, whatever a structure is called.
PAGE = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter()
_user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

_labels, _rounds = Labels(), Rounds()
_begun = time.time()


@router.get("/biosam2", include_in_schema=False)
async def redirect() -> Response:
    """To the page, whose addresses are relative to the slash; so is this one, for a proxy's prefix."""
    return RedirectResponse("biosam2/")


# The page and its files are for everybody: a browser sends no token with them, and they tell nothing.
@router.get("/biosam2/", include_in_schema=False)
async def page() -> Response:
    """The page, which then asks for its data with the token of whoever has signed in."""
    return FileResponse(CLIENT / "index.html", headers=PAGE)


@router.get("/biosam2/page/{name}", include_in_schema=False)
async def client_file(name: str) -> Response:
    """A file of the page.

    Raises
    ------
    NotFound
        If the page has no such file.
    """
    path = CLIENT / name
    if path.parent != CLIENT or path.suffix not in TYPES or not path.is_file():
        raise NotFound(f'"{name[:80]}" is not a file of the status page.')
    return FileResponse(path, media_type=TYPES[path.suffix], headers=PAGE)


# Not async, as files are read.
@router.get("/biosam2/status", summary="What the status page shows", tags=["BioSAM-2"])
def status(user: User = _user) -> Response:
    """What is served, the training that runs, all versions, the labels, the worst cases.

    Returns
    -------
    dict
        `now`; `you`: `name`, and `admin`: whether the asker may train and serve; `served`: `number`, `name`,
        `checkpoint`, `since`, `device`, `base`; `can_train`; `job` as `job.describe`; `retraining` or None;
        `versions` as `rounds.describe`, newest first, and `left_out`, how many more there are; `labels` as
        `Labels.count`; `worst`: `number` of the newest version with pictures, and `cases` as
        `pictures.worst`, or None.
    """
    instance: Any = ready_app()
    now = time.time()
    versions: Versions | None = getattr(instance, "versions", None)
    newest, described, left_out = ([], [], 0) if versions is None else _rounds.newest(versions)
    retraining = getattr(instance, "retraining", None)
    return JSONResponse(
        {
            "now": iso(now),
            "you": {"name": user.username, "admin": settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles},
            "served": _served(instance, versions),
            "can_train": TRAINER in instance._trainers,
            "job": job.describe(None if versions is None else versions.folder),
            "retraining": None if retraining is None else retraining.status(),
            "versions": described,
            "left_out": left_out,
            "labels": _labels.count(instance.datastore(), now),
            "worst": _worst(newest),
        },
        headers={"Cache-Control": "no-store"},
    )


@router.get(
    "/biosam2/versions/{number}/pictures/{name}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    summary="A picture of one of a version's worst cases",
    tags=["BioSAM-2"],
)
def picture(number: int, name: str, _: User = _user) -> Response:
    """A picture by the name that `/biosam2/status` tells.

    Raises
    ------
    NotFound
        If there is no such version or picture.
    """
    versions: Versions | None = getattr(ready_app(), "versions", None)
    if versions is None:
        raise NotFound(f"version {number} does not exist.")
    content = pictures.picture(versions.get(number), name)
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="image/png", headers=headers)


def _served(instance: Any, versions: Versions | None) -> dict[str, Any]:
    """What answers requests now, and since when: since the choice, or else since this server began."""
    checkpoint = instance.slot.get().checkpoint
    served, since, base = 0, _begun, checkpoint.name
    if versions is not None:
        served, base = versions.served_number(), versions.base.stem
        with suppress(OSError):
            since = (versions.folder / SERVED).stat().st_mtime
    return {
        "number": served,
        "name": checkpoint.name,
        "checkpoint": checkpoint.version,
        "since": iso(since),
        "device": str(instance.slot.device),
        "base": base,
    }


def _worst(newest: list[Version]) -> dict[str, Any] | None:
    cases = pictures.worst(newest[0]) if newest else []
    return {"number": newest[0].number, "cases": cases} if cases else None
