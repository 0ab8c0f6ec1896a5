"""`POST /infer/{model}` in front of MONAI Label's own: what it takes for granted is checked here first."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, UploadFile
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance

from lib.errors import NotFound, UserError

router = APIRouter()

# Both become names of folders on the server.
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


# Not in the schema: MONAI Label's route describes the same request there.
@router.post("/infer/{model}", include_in_schema=False)
async def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile | None = File(None),  # noqa: B008 - how FastAPI declares a form
    label: UploadFile | None = File(None),  # noqa: B008
    output: ResultType | None = None,
    _: Any = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> Any:
    """Answer one request, or say what is wrong with it.

    Raises
    ------
    UserError
        If `params` is no JSON object, no image is named, the session does not exist, or DICOM SEG is asked
        of a datastore without DICOM. MONAI Label answers these with status 500, or takes another image.
    """
    _check_params(params)
    instance: MONAILabelApp = app_instance()
    if session_id:
        _check_session(session_id, instance)
    elif not image and not file:
        raise UserError("image, session_id and file are all missing: send one of them.")
    if output == ResultType.dicom_seg and not isinstance(instance.datastore(), DICOMWebDatastore):
        raise UserError(
            'output "dicom_seg" needs images from a DICOMweb archive, and this server has a folder of files.'
        )
    return run_inference(background_tasks, model, image, session_id, params, file, label, output)


def _check_params(params: str) -> None:
    try:
        found = json.loads(params) if params else {}
    except json.JSONDecodeError as error:
        raise UserError(f"params is not JSON ({error.msg} at character {error.pos}).") from None
    except (RecursionError, ValueError):  # nested, or with numbers, beyond what Python reads
        raise UserError("params is JSON too deep or with numbers too long to read.") from None
    if not isinstance(found, dict):
        shown = params if len(params) <= 80 else f"{params[:77]}..."
        raise UserError(f'params must be a JSON object such as {{"foreground": [[10, 20, 3]]}}, not {shown}.')
    tag = found.get("label_tag", "original")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise UserError(f'label_tag must be a plain name such as "original", not {str(tag)[:80]!r}.')


def _check_session(session_id: str, instance: MONAILabelApp) -> None:
    sessions = instance.sessions()
    known = _SESSION.fullmatch(session_id) and sessions is not None and sessions.get_session(session_id)
    if not known:
        raise NotFound(f'session_id "{session_id[:80]}" is not a session: it has expired or never was.')
