"""Whose turn it is on the device: a fair lock that lets short work go before long work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import TypeVar

MOST_BYPASSED = 16
"""Turns of short work that go before long work which is waiting."""

T = TypeVar("T")
_long: ContextVar[bool] = ContextVar("long work", default=False)


class Turns:
    """A lock that is handed on: to short work first, among equals in the order in which they asked.

    Work is short unless it runs inside `as_long_work`. Long work gives its turn back after every step and
    asks again, so that several share the device step by step; within a step it lets short work go first
    wherever it calls `pause`. After `most_bypassed` turns of short work, long work that is waiting gets one,
    whoever else asks, and brings it to its end.

    Whoever has the turn may take it again inside of it, as with `threading.RLock`.

    Parameters
    ----------
    most_bypassed : int
    """

    def __init__(self, most_bypassed: int = MOST_BYPASSED) -> None:
        self.most_bypassed = most_bypassed
        self._guard = threading.Lock()  # of everything below; held for moments only
        self._owner: int | None = None  # the thread whose turn it is
        self._depth = 0
        self._short: deque[_Waiter] = deque()
        self._long: deque[_Waiter] = deque()
        self._bypassed = 0  # turns of short work since the last one of long work began

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and have it until the end of the `with`."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def pause(self) -> None:
        """Let short work that is waiting go first, in the middle of a turn of long work; then go on."""
        if not self._short or not _long.get() or self._owner != threading.get_ident():
            return
        with self._guard:
            if not self._short or self._bypassed >= self.most_bypassed:
                return
            depth = self._depth
            waiter = _Waiter(threading.get_ident(), resumes=True)
            self._long.appendleft(waiter)
            self._hand_on()
        try:
            waiter.called.wait()
        except BaseException:  # Ctrl-C in the main thread: the turn must be there to be given back
            waiter.called.wait()
            raise
        finally:
            self._depth = depth

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        with self._guard:
            return len(self._short) + len(self._long)

    def _take(self) -> None:
        me = threading.get_ident()
        if self._owner == me:  # nobody else could make that true or false
            self._depth += 1
            return
        with self._guard:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return
            waiter = _Waiter(me)
            queue = self._long if _long.get() else self._short
            queue.append(waiter)
        try:
            waiter.called.wait()
        except BaseException:  # Ctrl-C in the main thread
            with self._guard:
                if waiter in queue:
                    queue.remove(waiter)
                else:
                    self._hand_on()
            raise

    def _give(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            with self._guard:
                self._hand_on()

    def _hand_on(self) -> None:
        """Give the turn to the next one, who finds it taken: nobody slips in between."""
        if self._short and not (self._long and self._bypassed >= self.most_bypassed):
            waiter = self._short.popleft()
            self._bypassed += bool(self._long)
        elif self._long:
            waiter = self._long.popleft()
            if not waiter.resumes:
                self._bypassed = 0
        else:
            self._owner, self._bypassed = None, 0
            return
        self._owner, self._depth = waiter.thread, 1
        waiter.called.set()


class _Waiter:
    def __init__(self, thread: int, resumes: bool = False) -> None:
        self.thread, self.resumes, self.called = thread, resumes, threading.Event()


def as_long_work(steps: Generator[T, None, None]) -> Iterator[T]:
    """What `steps` yields, with the work between two items done as long work (see `Turns`)."""
    # the mark is set around every single step: set once, it would show in the caller between the steps
    with closing(steps):
        while True:
            token = _long.set(True)
            try:
                item = next(steps)
            except StopIteration:
                return
            finally:
                _long.reset(token)
            yield item
