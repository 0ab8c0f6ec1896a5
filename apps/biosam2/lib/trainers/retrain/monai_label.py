"""What MONAI Label's server knows of labels and trainings, as `retraining` asks for it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes, tasks

from lib.datastores.cvat.datastore import CvatDatastore
from lib.datastores.dicomweb import PacsDatastore
from lib.trainers.finetune.progress import CANCELLED, DONE, EVALUATING, RUNNING, read_progress
from lib.trainers.retrain.retraining import SECOND, Training

FINAL = DefaultLabelTag.FINAL.value
START_WITHIN = 60.0  # s after which a task that no process was made for never will have one
LONGEST = 300  # characters of a message

GOING_ON = (RUNNING, EVALUATING)

End = Literal["done", "failed", "cancelled"]
ENDS: dict[str, End] = {"DONE": "done", "ERROR": "failed", "STOPPED": "cancelled"}


class FinalLabels:
    """The fingerprints of the final labels; called, it counts them anew.

    Parameters
    ----------
    datastore : callable
        The app's datastore.
    """

    def __init__(self, datastore: Callable[[], Datastore]) -> None:
        self._datastore = datastore
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}

    def __call__(self) -> dict[str, str]:
        """Image -> fingerprint of its final label.

        Raises
        ------
        Unavailable
            If the labels are in an archive that does not answer.
        """
        datastore = self._datastore()
        if isinstance(datastore, CvatDatastore | PacsDatastore):
            return datastore.final_labels()
        images = datastore.get_labeled_images()
        if isinstance(datastore, LocalDatastore):
            hashed = {image: self._hash(Path(datastore.get_label_uri(image, FINAL))) for image in images}
            return {image: digest for image, digest in hashed.items() if digest}
        return {image: str(datastore.get_label_info(image, FINAL).get("ts", "")) for image in images}

    def _hash(self, path: Path) -> str:
        """Of the file's content, which is read when its time or size has changed; "" if it has gone."""
        try:
            stat = path.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            known = self._hashes.get(path)
            if known is None or known[0] != stamp:
                with path.open("rb") as stream:
                    known = stamp, hashlib.file_digest(stream, "sha256").hexdigest()[:12]
                self._hashes[path] = known
            return known[1]
        except OSError:
            return ""


class Trainings:
    """The server's trainings: its own child processes, and one that an earlier server has left running.

    Parameters
    ----------
    runs : Path
        The folder in which a training says how far it is.
    model : str
        The train task.
    """

    def __init__(self, runs: Path, model: str = "biosam2") -> None:
        self._runs, self._model = runs, model

    def start(self) -> str | None:
        """Ask for a training as `POST /train/biosam2` does; its id, or None if one waits or runs."""
        newest = self.newest()
        if newest and newest.state == "running":
            return None
        task, _ = AsyncTask.run("train", {"model": self._model})
        return None if task is None else task["id"]

    def newest(self) -> Training | None:
        """The training that waits or runs, or the one that has ended last."""
        told = self._told()
        asked = list(tasks("train"))
        known = next((task for task in asked if is_open(task)), asked[-1] if asked else None)
        if known is None:
            return None if told is None else _of_progress(told)
        if is_open(known):
            return Training(known["id"], "running", _started(known))
        # one that was not started by this server
        ended = _time(known.get("end_ts", known["start_ts"]))
        if told and (told["state"] in GOING_ON or told["started"] > ended + SECOND):
            return _of_progress(told)
        return _ended(known, told)

    def _told(self) -> dict[str, Any] | None:
        """What the last training has said, with its start as a time; None if there is none to be used."""
        told = read_progress(self._runs)
        try:
            return (
                None
                if told is None
                else {**told, "state": told["state"], "started": _moment(told["started"])}
            )
        except (ValueError, KeyError, TypeError):
            return None


def is_open(task: dict[str, Any]) -> bool:
    """Whether it waits for its process, or that runs."""
    if task["status"] == "SUBMITTED" and not processes("train"):
        return time.time() - _started(task).timestamp() < START_WITHIN
    return task["status"] in ("SUBMITTED", "RUNNING")


def _started(task: dict[str, Any]) -> datetime:
    return _time(task["start_ts"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def _time(text: str) -> datetime:
    """A time as MONAI Label writes it: to the second, without a zone."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").astimezone()


def _ended(task: dict[str, Any], told: dict[str, Any] | None) -> Training:
    state = ENDS.get(task["status"], "failed")
    lines = [line for line in task.get("details", ()) if line.strip()]
    message = lines[-1] if lines and state == "failed" else ""
    if told and told["started"] >= _started(task):
        message = str(told.get("message") or message)
        if state == "done" and told.get("state") in ("failed", "cancelled"):
            state = told["state"]
    return Training(task["id"], state, _started(task), message[:LONGEST])


def _of_progress(told: dict[str, Any]) -> Training:
    id, message = str(told.get("run", "")), str(told.get("message") or "")[:LONGEST]
    if told["state"] in GOING_ON:
        return Training(id, "running", told["started"], message)
    if told["state"] in (DONE, CANCELLED):
        return Training(id, told["state"], told["started"], message)
    return Training(id, "failed", told["started"], message)
