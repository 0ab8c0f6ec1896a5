"""`POST /activelearning/{strategy}` in front of MONAI Label's own, and a way to give a case back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Body, Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.activelearning.claims import Annotator
from lib.activelearning.scores import INFO
from lib.errors import UserError
from lib.server.app import ready_app

router = APIRouter(prefix="/activelearning", tags=["ActiveLearning"])
user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
Params = Body(default=None)

LONGEST_NAME = 200  # characters
MOST_LABELS = 1000


# Not in the schema: MONAI Label's route describes the same request there. Not async: see lib.server.threads.
@router.post("/", include_in_schema=False)
@router.post("/{strategy}", include_in_schema=False)
def api_next(
    http: Request, strategy: str = "", params: dict[str, Any] | None = Params, person: User = user
) -> dict[str, Any]:
    """The next case; without a strategy, the app's default chooses.

    MONAI Label's own also makes the whole of `/info` for every request, and enters into the datastore who was
    given what, by writing all of its file; here the claim says that.

    Returns
    -------
    dict
        `id`, `path`, `claimed_until` and the datastore's info of the image, without what the strategies know
        of it. If there is no case, only `message`.

    Raises
    ------
    NotFound
        If there is no such strategy.
    UserError
        If a parameter is not what it should be, or as `NextCase.answer` does.
    """
    asked = _checked(strategy, params or {})
    instance = ready_app()
    found = instance.next_sample({**asked, **_who(http, person, asked.get("client_id"))})
    if "id" not in found:
        return found
    info = instance.datastore().get_image_info(found["id"])
    return {**found, **{key: value for key, value in info.items() if key != INFO}}


@router.delete("/claims/{image:path}", summary="Give a case back that was got as the next one")
def api_give_back(
    http: Request, image: str, client_id: str | None = None, person: User = user
) -> dict[str, Any]:
    """The case is free for others at once.

    Raises
    ------
    NotFound
        If nobody has the image.
    Conflict
        If somebody else has it.
    """
    annotator = Annotator.of(_who(http, person, _checked_client(client_id)))
    ready_app().next_case.claims.give_back(image, annotator)
    return {}


def _who(http: Request, person: User, client_id: str | None) -> dict[str, str]:
    """As `Annotator.of` reads it. Without access control, everybody has the same user name."""
    return {
        "user": person.username if settings.MONAI_LABEL_AUTH_ENABLE else "",
        "client_id": client_id or "",
        "address": http.client.host if http.client else "",
    }


def _checked(strategy: str, params: dict[str, Any]) -> dict[str, Any]:
    if strategy and params.get("strategy", strategy) != strategy:
        raise UserError(f'strategy in the parameters must be "{strategy[:80]}" as in the address.')
    _checked_client(params.get("client_id"))
    tag, labels = params.get("label_tag"), params.get("labels")
    if tag is not None and (not isinstance(tag, str) or len(tag) > LONGEST_NAME):
        raise UserError(f'label_tag must be a name such as "final", not {str(tag)[:80]!r}.')
    if labels is not None and not _are_names(labels):
        raise UserError(f'labels must be a list of names such as ["liver"], not {str(labels)[:80]!r}.')
    return {**params, "strategy": strategy or params.get("strategy")}


def _checked_client(name: Any) -> str | None:
    if name is not None and (not isinstance(name, str) or len(name) > LONGEST_NAME):
        raise UserError(
            f"client_id must be a name of up to {LONGEST_NAME} characters, not {str(name)[:80]!r}."
        )
    return name


def _are_names(labels: Any) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) <= MOST_LABELS
        and all(isinstance(label, str) for label in labels)
    )
