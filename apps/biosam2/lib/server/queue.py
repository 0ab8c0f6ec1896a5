"""The inferences that run, those that wait for a thread, and the last ones that have ended."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from lib import work
from lib.errors import Busy, Cancelled, Conflict, NotFound
from lib.work import State, Work

logger = logging.getLogger(__name__)

SHORT_AT_ONCE = 8
LONG_AT_ONCE = 2
WAITING = 32
REMEMBERED = 200

T = TypeVar("T")


class WorkQueue:
    """Runs inferences in threads, each kind of work in the order in which it was asked for.

    Short work has threads of its own, so that a click never waits for a thread that a propagation has. Who of
    those that run has the device is another question: see `lib.sam.turns`.

    Parameters
    ----------
    short_at_once, long_at_once : int
        Threads for short and for long work.
    waiting : int
        How many of each kind may wait for a thread.
    remembered : int
        How many that have ended can still be asked about.
    """

    def __init__(
        self,
        short_at_once: int = SHORT_AT_ONCE,
        long_at_once: int = LONG_AT_ONCE,
        waiting: int = WAITING,
        remembered: int = REMEMBERED,
    ) -> None:
        self._waiting, self._remembered = waiting, remembered
        self._at_once = {False: short_at_once, True: long_at_once}
        self._threads = {
            long: ThreadPoolExecutor(count, thread_name_prefix="long" if long else "short")
            for long, count in self._at_once.items()
        }
        self._lock = threading.Lock()
        self._used = time.monotonic()
        self._open: OrderedDict[str, tuple[Work, Future[Any]]] = OrderedDict()
        self._ended: OrderedDict[str, Work] = OrderedDict()

    def submit(self, asked: Work, call: Callable[[], T]) -> Future[T]:
        """Have `call` run in a thread; inside of it `asked` is the current work.

        Returns
        -------
        Future
            Of what `call` returns. Cancelled if the work was cancelled before it began.

        Raises
        ------
        Conflict
            If other work of this id waits or runs.
        Busy
            If too much work of its kind waits already.
        """
        with self._lock:
            if asked.id in self._open:
                raise Conflict(f'request_id "{asked.id}" is in use by a request that has not ended.')
            same = sum(other.long == asked.long for other, _ in self._open.values())
            if same >= self._at_once[asked.long] + self._waiting:
                raise Busy(f"The server is busy: {self._waiting} requests wait already. Try again later.")
            future = self._threads[asked.long].submit(self._run, asked, call)
            self._open[asked.id] = asked, future
        # not under the lock: what has ended by now calls back at once
        future.add_done_callback(lambda ended: self._end(asked, ended))
        return future

    def cancel(self, id: str) -> Future[Any] | None:
        """Stop work before its next slice, or take it out of the queue if it has not begun.

        Returns
        -------
        Future or None
            What to wait for until it has stopped; None if it has ended before.

        Raises
        ------
        NotFound
        """
        self.find(id)
        with self._lock:
            asked, future = self._open.get(id, (None, None))
        if asked is None or future is None:
            return None
        asked.cancel()
        future.cancel()
        return future

    def find(self, id: str) -> Work:
        """Work that waits, runs or has ended lately.

        Raises
        ------
        NotFound
        """
        with self._lock:
            asked = self._open[id][0] if id in self._open else self._ended.get(id)
        if asked is None:
            raise NotFound(unknown(id))
        return asked

    def unfinished(self) -> list[Work]:
        """What waits or runs, in the order in which it was asked for."""
        with self._lock:
            return [asked for asked, _ in self._open.values()]

    def idle_seconds(self) -> float:
        """Since the last inference ended, or since the start if there was none; 0 while one waits or runs."""
        with self._lock:
            return 0.0 if self._open else time.monotonic() - self._used

    def position(self, asked: Work) -> int:
        """The place among the work of its kind that waits, from 1; 0 when it does not wait."""
        with self._lock:
            waiting = [w for w, _ in self._open.values() if w.long == asked.long and w.state == State.QUEUED]
        return waiting.index(asked) + 1 if asked in waiting else 0

    def _run(self, asked: Work, call: Callable[[], T]) -> T:
        asked.state = State.RUNNING
        with work.working_on(asked):
            return call()

    def _end(self, asked: Work, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, Cancelled):
            state = State.CANCELLED
        else:
            state = State.DONE if error is None else State.FAILED
        with self._lock:
            self._used = time.monotonic()
            asked.end(state)
            del self._open[asked.id]
            self._ended.pop(asked.id, None)
            self._ended[asked.id] = asked
            while len(self._ended) > self._remembered:
                self._ended.popitem(last=False)
        logger.info("%s %s after %.1f s: %s on %s", asked.id, state, asked.seconds, asked.model, asked.image)


def unknown(id: str) -> str:
    """What is said of an id without work."""
    return f'request_id "{id[:80]}" is not known here: it never was, or ended long ago.'
