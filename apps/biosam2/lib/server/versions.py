"""`/biosam2/versions`: the versions of the checkpoint, which one is served, and a way to serve another."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from lib.server.app import ready_app

router = APIRouter(prefix="/biosam2/versions", tags=["BioSAM-2"])
user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


# Not async: each reads and writes files, and a checkpoint is read in whole before it is served.
@router.get("", summary="Versions of the checkpoint")
def api_list(_: Any = user) -> dict[str, Any]:
    """All versions by number, and which one is served; 0 is the base checkpoint.

    Returns
    -------
    dict
        `served`: int; `versions`: what each version's version.json says.
    """
    versions = ready_app().versions
    return {"served": versions.served_number(), "versions": [version.about for version in versions.all()]}


@router.post("/rollback", summary="Serve the version that the served one was trained from")
def api_rollback(_: Any = admin) -> dict[str, Any]:
    """The same answer as the list, afterwards.

    Raises
    ------
    UserError
        If the base checkpoint is served, or as `api_serve` does.
    """
    ready_app().versions.rollback()
    return _changed()


@router.post("/{number}/serve", summary="Serve a version")
def api_serve(number: int, _: Any = admin) -> dict[str, Any]:
    """The same answer as the list, afterwards.

    Raises
    ------
    NotFound
        If there is no such version.
    UserError
        If its checkpoint was pruned or is damaged.
    """
    ready_app().versions.serve(number)
    return _changed()


def _changed() -> dict[str, Any]:
    """Let the registry know, which does not hold up the answer."""
    sync = getattr(ready_app(), "sync_registry", None)
    if sync:
        sync()
    return api_list()
