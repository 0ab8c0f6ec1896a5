"""`/batch/infer/{model}` in front of MONAI Label's own: many images without prompts, in this process.

MONAI Label's runs in another process, which loads the network again and writes the datastore's file from
what it read at its start: labels that people submit meanwhile would be lost.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Body, Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.utils.others.generic import remove_file

from lib.errors import Busy, Cancelled, Conflict, NotFound, UserError
from lib.server.app import ready_app
from lib.server.infer import TAG
from lib.server.queue import WorkQueue
from lib.work import Work

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/batch/infer")
Params = Body(default=None)
WHICH = ("all", "labeled", "unlabeled")
MOST_DETAILS = 200  # images that could not be done are named, so many of them
WAIT = 2.0  # s, where other work fills the queue


@dataclass
class Batch:
    """Images one after the other, each as long work that gives way to people's.

    What an image has already been given by the same weights and labels is not made again: a batch that was
    stopped goes on where it was when it is asked for once more.
    """

    model: str
    images: Sequence[str]
    tag: str
    user: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "RUNNING"
    done: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    start: datetime = field(default_factory=datetime.now)
    end: datetime | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    now: Work | None = None

    def as_json(self) -> dict[str, Any]:
        """As MONAI Label tells of its tasks, with how far it is."""
        shown = "%Y-%m-%d %H:%M:%S"
        return {
            "id": self.id,
            "model": self.model,
            "status": self.status,
            "start_ts": self.start.strftime(shown),
            "end_ts": self.end.strftime(shown) if self.end else "",
            "progress": {
                "done": self.done,
                "of": len(self.images),
                "were_done_before": self.skipped,
                "failed": len(self.failures),
                "image": self.now.image if self.now else None,
            },
            "details": self.failures[:MOST_DETAILS],
        }

    def run(self, instance: MONAILabelApp, queue: WorkQueue) -> None:
        """All images; in a thread of its own."""
        try:
            for image in self.images:
                if self.stopped.is_set():
                    break
                self._one(instance, queue, image)
                self.done += 1
            self.status = "STOPPED" if self.stopped.is_set() else "DONE"
        except Exception as error:  # what nobody has thought of must not leave it running for ever
            logger.exception("the batch failed")
            self.failures.append(str(error))
            self.status = "ERROR"
        finally:
            self.now, self.end = None, datetime.now()

    def _one(self, instance: MONAILabelApp, queue: WorkQueue, image: str) -> None:
        if _made_of(instance.datastore(), image, self.tag) == instance._infers[self.model].made_of():
            self.skipped += 1
            return
        request = {"model": self.model, "image": image, "save_label": True, "label_tag": self.tag}
        while not self.stopped.is_set():
            self.now = Work(uuid.uuid4().hex, self.model, image, self.user, True)
            try:
                queue.submit(self.now, lambda: instance.infer(request)).result()
                return
            except Busy:
                self.stopped.wait(WAIT)
            except (Cancelled, CancelledError):  # this image alone, or the whole
                if not self.stopped.is_set():
                    self.failures.append(f"{image}: it was cancelled.")
                return
            except (UserError, OSError) as error:
                self.failures.append(f"{image}: {error}")
                return
            finally:
                for path in self.now.files:
                    remove_file(str(path))


class Batches:
    """The batch that runs, or the last one; one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.newest: Batch | None = None

    def start(self, batch: Batch, instance: MONAILabelApp, queue: WorkQueue) -> None:
        """Run it in a thread.

        Raises
        ------
        Conflict
            If one runs.
        """
        with self._lock:
            if self.newest and self.newest.status == "RUNNING":
                raise Conflict("A batch runs already: wait for its end, or stop it (DELETE /batch/infer).")
            self.newest = batch
        threading.Thread(target=batch.run, args=(instance, queue), name="batch", daemon=True).start()

    def stop(self, queue: WorkQueue) -> Batch:
        """Stop the one that runs, in the middle of its image.

        Raises
        ------
        NotFound
            If none runs.
        """
        batch = self.newest
        if batch is None or batch.status != "RUNNING":
            raise NotFound("No batch runs on this server.")
        batch.stopped.set()
        if batch.now:
            batch.now.cancel()
        return batch


batches = Batches()


# Not in the schema: MONAI Label's routes describe the same requests there.
@router.post("/{model}", include_in_schema=False)
def api_run(
    http: Request,
    model: str,
    images: str = "all",
    params: dict[str, Any] | None = Params,
    run_sync: bool = False,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)),  # noqa: B008
) -> dict[str, Any]:
    """Have a model without prompts segment many images, and keep the answers as labels.

    Raises
    ------
    NotFound
        If there is no such model.
    UserError
        If the model needs prompts, or a parameter is wrong.
    Conflict
        If a batch runs.
    """
    instance = ready_app()
    task = instance._infers.get(model)
    if task is None:
        raise NotFound(f'model "{model[:80]}" is not one of {", ".join(instance._infers)}.')
    if task.type != InferType.SEGMENTATION:
        raise UserError(f"model {model} needs prompts, which a batch has not: take biosam2_auto.")
    asked = params or {}
    tag = asked.get("label_tag", DefaultLabelTag.ORIGINAL.value)
    if not isinstance(tag, str) or not TAG.fullmatch(tag) or tag == DefaultLabelTag.FINAL.value:
        raise UserError(
            f'label_tag must be a plain name such as "original", and not "final", not {str(tag)[:80]!r}.'
        )
    most = asked.get("max_batch_size") or 0
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise UserError(f"max_batch_size must be a whole number from 0, not {str(most)[:80]!r}.")
    listed = _listed(instance.datastore(), asked.get("images", images))
    task.ready()
    batch = Batch(model, listed[:most] if most else listed, tag, user.username)
    batches.start(batch, instance, http.app.state.work_queue)
    return batch.as_json()


@router.get("", include_in_schema=False)
@router.get("/", include_in_schema=False)
def api_status(
    check_if_running: bool = False,
    _: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> dict[str, Any]:
    """How far the batch is, or the last one was.

    Raises
    ------
    NotFound
        If there was none, or none runs and that was the question.
    """
    batch = batches.newest
    if batch is None or (check_if_running and batch.status != "RUNNING"):
        raise NotFound("No batch runs on this server.")
    return batch.as_json()


@router.delete("", include_in_schema=False)
@router.delete("/", include_in_schema=False)
def api_stop(
    http: Request,
    _: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)),  # noqa: B008
) -> dict[str, Any]:
    """Stop the batch; what it has done stays."""
    return batches.stop(http.app.state.work_queue).as_json()


def _listed(datastore: Datastore, which: Any) -> list[str]:
    """The images meant: one of `WHICH`, or a list of ids."""
    if isinstance(which, str) and which in WHICH:
        found = {
            "all": datastore.list_images,
            "labeled": datastore.get_labeled_images,
            "unlabeled": datastore.get_unlabeled_images,
        }[which]
        return sorted(found())
    known = set(datastore.list_images())
    if not isinstance(which, list) or not all(isinstance(image, str) and image in known for image in which):
        raise UserError(
            f"images must be one of {', '.join(WHICH)} or ids of the datastore, not {str(which)[:80]!r}."
        )
    return sorted(set(which))


def _made_of(datastore: Datastore, image: str, tag: str) -> dict[str, str] | None:
    """Weights and labels that an image's label was made of; None if it was made in another way."""
    params = (datastore.get_label_info(image, tag) or {}).get("params")
    return params.get("made_of") if isinstance(params, dict) else None
