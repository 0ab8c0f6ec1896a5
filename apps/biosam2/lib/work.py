"""The request that a thread works on: how far it is, and whether anybody still wants it.

The server room makes a `Work` for every inference it runs, and the tasks speak of it through the functions
below. Where there is none (batch inference, a task called by itself) these do nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path

from lib.errors import Cancelled


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Work:
    """One inference, from the moment it is asked for.

    Parameters
    ----------
    id : str
        Chosen by the client or made by the server; see `lib.server.queue` for what is unique.
    model, image : str
        As named in the request.
    owner : str
        Name of the user who asked.
    long : bool
        Whether it may take longer than a person waits for a click: it does not hold up work that is short.

    Attributes
    ----------
    state : State
    progress : tuple of int
        Slices done and in all, (0, 0) until that is known.
    files : list of Path
        Files to remove once it is answered, whatever the answer is.
    """

    def __init__(self, id: str, model: str, image: str, owner: str, long: bool) -> None:
        self.id, self.model, self.image, self.owner, self.long = id, model, image, owner, long
        self.state = State.QUEUED
        self.progress = (0, 0)
        self.files: list[Path] = []
        self._cancelled = threading.Event()
        self._begin = time.monotonic()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Since it was asked for, until now or until it ended."""
        return (self._end or time.monotonic()) - self._begin

    @property
    def ended(self) -> bool:
        return self._end is not None

    def end(self, state: State) -> None:
        self._end, self.state = time.monotonic(), state

    def cancel(self) -> None:
        """Ask it to stop; it does so before its next slice."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()


_current: ContextVar[Work | None] = ContextVar("current work", default=None)


@contextmanager
def working_on(work: Work) -> Iterator[None]:
    """Make `work` the one that this thread works on."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Work | None:
    """The work that this thread is doing, if the server room has given it one."""
    return _current.get()


def report(done: int, total: int) -> None:
    """Say how many slices are done, of how many."""
    work = current()
    if work:
        work.progress = (done, total)


def is_cancelled() -> bool:
    """Whether nobody wants the answer any more."""
    work = current()
    return work is not None and work.is_cancelled


def stop_if_cancelled() -> None:
    """Leave off here when nobody wants the answer any more.

    Raises
    ------
    Cancelled
    """
    if is_cancelled():
        raise Cancelled()


def remove_afterwards(path: Path) -> None:
    """Have a file removed once the request is answered, whatever becomes of it."""
    work = current()
    if work:
        work.files.append(path)
