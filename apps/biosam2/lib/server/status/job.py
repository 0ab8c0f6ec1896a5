"""How far a training is: what it writes about itself, and what MONAI Label knows of its process."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from monailabel.utils.async_tasks.utils import tasks

from lib.server.status.plain import iso, number, read_object, seconds, text
from lib.trainers.finetune.progress import (
    CANCELLED,
    DONE,
    EVALUATING,
    FAILED,
    PROGRESS,
    RUNNING,
    is_training,
)

RUNS = "runs"
ACTIVE = (RUNNING, EVALUATING)
# MONAI Label's words
ENDED = {"DONE": DONE, "STOPPED": CANCELLED, "ERROR": FAILED}

# Steps take the time they have taken since the first one seen, once that is so long ago, in seconds.
PACED = 10.0

Task = dict[str, Any]


class Pace:
    """Time left, from the steps seen: one that was resumed has not done all of them since its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[object, float, float] | None = None

    def left(self, progress: dict[str, Any]) -> float | None:
        """Seconds until the last step; None while nothing can be said."""
        step, steps = number(progress.get("step")), number(progress.get("steps"))
        started, updated = seconds(progress.get("started")), seconds(progress.get("updated"))
        if not step or not steps or started is None or updated is None:
            return None
        process = progress.get("run"), progress.get("pid")
        with self._lock:
            if self._first is None or self._first[0] != process or step < self._first[1]:
                self._first = process, step, updated
            _, first, since = self._first
        if updated - since >= PACED and step > first:
            each = (updated - since) / (step - first)
        else:
            each = max(updated - started, 0.0) / step
        return round(each * max(steps - step, 0), 1)


_pace = Pace()


def describe(folder: Path | None) -> dict[str, Any]:
    """The training that runs or was the last.

    Parameters
    ----------
    folder : Path, optional
        Of the versions of the base checkpoint.

    Returns
    -------
    dict
        `state`: "idle" (there was none), "waiting", "starting", "running", "evaluating", "done", "failed",
        "cancelled" or "interrupted"; `run`, `step`, `steps`, `loss`, `started`, `updated`, `seconds_left`,
        `message`; `cancellable`: whether MONAI Label can end it; `waiting`: trainings asked for besides.
    """
    runs = None if folder is None else folder / RUNS
    progress = {} if runs is None else read_object(runs / PROGRESS)
    known = list(tasks("train"))
    task = next((one for one in known if one["status"] == "RUNNING"), None)
    waiting = [one for one in known if one["status"] == "SUBMITTED"]
    if task is None and waiting:
        task = waiting.pop(0)
    state, is_its = _state(runs, progress, task, known[-1] if known else None)
    if not is_its:
        progress = {}
    return {
        "state": state,
        "run": text(progress.get("run")),
        "step": number(progress.get("step")),
        "steps": number(progress.get("steps")),
        "loss": number(progress.get("loss")),
        "started": text(progress.get("started")) or (iso(_began(task)) if task else ""),
        "updated": text(progress.get("updated")),
        "seconds_left": _pace.left(progress) if state == RUNNING else None,
        "message": text(progress.get("message")) or _last_line(state, known),
        "cancellable": task is not None and task["status"] == "RUNNING",
        "waiting": len(waiting),
    }


def _state(
    runs: Path | None, progress: dict[str, Any], task: Task | None, last: Task | None
) -> tuple[str, bool]:
    """The state, and whether the progress that was read belongs to it."""
    told = text(progress.get("state"))
    updated = seconds(progress.get("updated")) or 0.0
    if task is not None:  # what an earlier training has left behind says nothing about this one
        if updated < _began(task) or task["status"] == "SUBMITTED" or not told:
            return ("waiting" if task["status"] == "SUBMITTED" else "starting"), False
        return told, True
    if told in ACTIVE and runs is not None and is_training(runs):  # one that this server has not started
        return told, True
    if last is not None and updated < _began(last):  # it has ended before it wrote anything
        return ENDED.get(last["status"], FAILED), False
    if told in ACTIVE:
        return ("interrupted" if last is None else ENDED.get(last["status"], FAILED)), True
    return (told, True) if told in ENDED.values() else ("idle", False)


def _began(task: Task) -> float:
    # MONAI Label's own format: local time in whole seconds
    return datetime.strptime(task["start_ts"], "%Y-%m-%d %H:%M:%S").timestamp()


def _last_line(state: str, known: list[Task]) -> str:
    """What a training that failed without a word of its own has last printed."""
    if state != FAILED or not known:
        return ""
    lines = [line for line in tuple(known[-1].get("details", ())) if line.strip()]
    return text(lines[-1].strip()) if lines else ""
