"""`POST /infer/{model}` in front of MONAI Label's own: checked first, then run in a thread."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.encoders import jsonable_encoder
from fastapi.responses import FileResponse, JSONResponse
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.generic import remove_file
from starlette.background import BackgroundTask

from lib.errors import NotFound, UserError
from lib.server.app import ready_app
from lib.server.queue import WorkQueue
from lib.server.waiting import result
from lib.work import Work

router = APIRouter()

# Both become names of folders on the server.
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


# Not in the schema: MONAI Label's route describes the same request there.
@router.post("/infer/{model}", include_in_schema=False)
async def infer(
    http: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile | None = File(None),  # noqa: B008 - how FastAPI declares a form
    label: UploadFile | None = File(None),  # noqa: B008
    output: ResultType | None = None,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> Response:
    """Answer one request, or say what is wrong with it.

    Raises
    ------
    UserError
        If `params` is no JSON object, no image is named, the session does not exist, or DICOM SEG is asked
        of a datastore without DICOM. MONAI Label answers these with status 500, or takes another image.
        Also as `WorkQueue.submit` does.
    Cancelled
        If somebody has cancelled it (see `lib.server.progress`), or the client has gone away.
    """
    fields = _checked_params(params)
    # a model or an image in params replaces the one in the address; see MONAI Label's run_inference
    named = str(fields.get("model", model)), str(fields.get("image", image))
    instance: MONAILabelApp = await run_in_threadpool(ready_app)
    if session_id:
        await run_in_threadpool(_check_session, session_id, instance)
    elif not image and not file:
        raise UserError("image, session_id and file are all missing: send one of them.")
    if output == ResultType.dicom_seg and not isinstance(instance.datastore(), DICOMWebDatastore):
        raise UserError(
            'output "dicom_seg" needs images from a DICOMweb archive, and this server has a folder of files.'
        )

    work = Work(_request_id(fields), *named, user.username, _is_long(named[0], instance))
    cleaning = BackgroundTasks()

    def answer() -> Any:
        return run_inference(cleaning, model, image, session_id, params, file, label, output)

    def clean() -> None:
        for task in cleaning.tasks:
            task.func(*task.args, **task.kwargs)
        for path in work.files:
            remove_file(str(path))

    queue: WorkQueue = http.app.state.work_queue
    future = queue.submit(work, answer)
    try:
        response = _as_response(await result(http, queue, work, future))
    except BaseException:  # also when this server ends, and leaves the thread to itself
        if not future.done():
            queue.cancel(work.id)
        future.add_done_callback(lambda _: clean())
        raise
    if output == ResultType.dicom_seg and isinstance(response, FileResponse):
        cleaning.add_task(remove_file, str(response.path))  # which MONAI Label leaves behind
    response.background = BackgroundTask(clean)
    response.headers["X-Request-ID"] = work.id
    return response


def _as_response(answer: Any) -> Response:
    """What `run_inference` returns: a response, or what FastAPI would make JSON of."""
    return answer if isinstance(answer, Response) else JSONResponse(jsonable_encoder(answer))


def _is_long(model: str, instance: MONAILabelApp) -> bool:
    """Whether an answer takes many slices; an unknown model is refused in no time."""
    task = instance._infers.get(model)
    return task is not None and task.dimension != 2


def _request_id(fields: dict[str, Any]) -> str:
    asked = fields.get("request_id")
    if asked in (None, ""):
        return uuid.uuid4().hex
    if not isinstance(asked, str) or not _REQUEST_ID.fullmatch(asked):
        raise UserError(
            'request_id must be a name of up to 64 letters, digits, ".", "_" and "-", '
            f"not {str(asked)[:80]!r}."
        )
    return asked


def _checked_params(params: str) -> dict[str, Any]:
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
    if not isinstance(tag, str) or not TAG.fullmatch(tag):
        raise UserError(f'label_tag must be a plain name such as "original", not {str(tag)[:80]!r}.')
    return found


def _check_session(session_id: str, instance: MONAILabelApp) -> None:
    sessions = instance.sessions()
    known = _SESSION.fullmatch(session_id) and sessions is not None and sessions.get_session(session_id)
    if not known:
        raise NotFound(f'session_id "{session_id[:80]}" is not a session: it has expired or never was.')
