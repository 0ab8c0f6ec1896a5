"""`POST /train` and `DELETE /train` in front of MONAI Label's own: checked first."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Depends
from monailabel.config import settings
from monailabel.endpoints import train
from monailabel.endpoints.user.auth import RBAC
from monailabel.utils.async_tasks.utils import tasks

from lib.errors import Conflict, NotFound, UserError
from lib.server.app import ready_app
from lib.trainers.finetune.progress import is_training
from lib.trainers.finetune.settings import TrainSettings
from lib.trainers.retrain.monai_label import is_open

router = APIRouter(prefix="/train")
admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))
Params = Body(default=None)
STOP_SECONDS = 20.0  # until the system has ended a process and all that it has started
_asking = threading.Lock()  # of two who ask at the same time, one comes first


# Not in the schema: MONAI Label's routes describe the same requests there.
@router.post("/{model}", include_in_schema=False)
def api_train(
    model: str,
    params: dict[str, Any] | None = Params,
    run_sync: bool = False,
    enqueue: bool = False,
    _: Any = admin,
) -> dict[str, Any]:
    """MONAI Label's own answer, after checking what was asked for.

    Raises
    ------
    NotFound
        If there is no such train task.
    UserError
        If a setting is wrong (see `TrainSettings`).
    Conflict
        If a training runs, and this one is not to wait for its end.
    """
    trainers = ready_app()._trainers
    if model not in trainers:
        raise NotFound(f'model "{model[:80]}" is not a train task: there is {", ".join(trainers) or "none"}.')
    asked = {**(params or {})}
    if asked.pop("model", model) != model:
        raise UserError(f"model in the parameters must be {model} as in the address.")
    TrainSettings.of(asked)
    with _asking:
        if not enqueue and _one_is_open():
            raise Conflict("A training runs already: wait for its end, or cancel it (DELETE /train).")
        if not run_sync:
            return train.run_model(model, asked, run_sync, enqueue)
    return train.run_model(model, asked, run_sync, enqueue)


@router.post("/", include_in_schema=False)
def api_train_all(
    params: dict[str, Any] | None = Params, run_sync: bool = False, _: Any = admin
) -> dict[str, Any]:
    """The same for all train tasks, each with its own part of the parameters."""
    given = params or {}
    return {model: api_train(model, given.get(model) or {}, run_sync) for model in ready_app()._trainers}


@router.delete("/", include_in_schema=False)
def api_stop(_: Any = admin) -> dict[str, Any]:
    """Stop the training and forget how far it was: who cancels does not want it to be gone on with.

    Raises
    ------
    NotFound
        If none runs.
    """
    stopped = train.stop()
    if stopped is None:
        raise NotFound("No training runs on this server.")
    end = time.monotonic() + STOP_SECONDS
    while is_training(_runs()) and time.monotonic() < end:
        time.sleep(0.05)
    shutil.rmtree(_runs() / "current", ignore_errors=True)
    return {**stopped, "details": list(stopped.get("details", ()))}


def _one_is_open() -> bool:
    """Whether a training of this server runs or waits for its process, or another program's runs."""
    return any(map(is_open, tasks("train"))) or is_training(_runs())


def _runs() -> Path:
    return ready_app().versions.folder / "runs"
