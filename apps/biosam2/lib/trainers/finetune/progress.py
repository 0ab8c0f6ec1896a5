"""How far a training is, in a file that the server and the status page read; and that there is only one."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lib.errors import Conflict

logger = logging.getLogger(__name__)

PROGRESS, LOCK = "progress.json", "lock"
EVERY = 1.0  # s between two writes
PATIENCE = 1.0  # s: for a moment the lock is also held by who looks whether it is
RUNNING, EVALUATING, DONE, FAILED, CANCELLED = "running", "evaluating", "done", "failed", "cancelled"


class Progress:
    """Writes `progress.json`; each write replaces the file as a whole.

    Parameters
    ----------
    folder : Path
    run : str
        Id of the training.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.path = folder / PROGRESS
        self._said: dict[str, Any] = {"run": run, "pid": os.getpid(), "started": _now()}
        self._written = 0.0

    def say(self, state: str, message: str = "", **more: Any) -> None:
        """Write it now; `more` are `step`, `steps` and `loss`, or another `run` that is gone on with."""
        # JSON has no word for what is not a finite number
        told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in more.items()}
        self._said |= {"state": state, "message": message, "updated": _now(), **told}
        part = self.path.with_suffix(".part")
        try:
            part.write_text(json.dumps(self._said))
            os.replace(part, self.path)
        except OSError as error:  # a full disk: what is said of a training must not end it
            logger.warning("%s cannot be written: %s", self.path.name, error)
        self._written = time.monotonic()

    def say_now_and_then(self, state: str, message: str = "", **more: Any) -> None:
        """Write it unless the last time was just now."""
        if time.monotonic() - self._written >= EVERY:
            self.say(state, message, **more)


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the last training said; None if there never was one.

    One that says it runs, and does not, was killed: its state is then ``cancelled``.
    """
    try:
        found = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    if found.get("state") in (RUNNING, EVALUATING) and not is_training(folder):
        found |= {"state": CANCELLED, "message": "It was stopped before its end."}
    return found


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the one training of this folder, on this machine or another that shares it.

    The system takes the lock back from a process that is killed.

    Raises
    ------
    Conflict
        If another one runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "ab") as file:
        end = time.monotonic() + PATIENCE
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise Conflict("A training runs already: wait for its end, or cancel it.")
            time.sleep(0.02)
        yield


def is_training(folder: Path) -> bool:
    """Whether somebody holds `only_one`."""
    try:
        with open(folder / LOCK, "rb") as file:
            # shared, so that several can look at the same time
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
