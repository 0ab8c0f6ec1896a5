"""Kept: an answer of another server, kept for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 5.0
# An answer that took long is kept longer, so that asking takes at most one part in twenty of the time.
SHARE = 20.0
AT_MOST = 60.0


class Kept(Generic[T]):
    """Asks once, and again when the answer is old; a failure is never kept.

    Parameters
    ----------
    ask : callable
        What to ask.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._answer: T | None = None
        self._until = 0.0

    def get(self) -> T:
        """The answer; callers at the same time wait for one question."""
        with self._lock:
            if self._answer is None or time.monotonic() >= self._until:
                self._answer = None
                begin = time.monotonic()
                self._answer = self._ask()
                end = time.monotonic()
                self._until = end + min(AT_MOST, max(SECONDS, SHARE * (end - begin)))
            return self._answer

    def peek(self) -> T | None:
        """The answer if there is one that is not old; asks nobody and waits for nobody."""
        return self._answer if time.monotonic() < self._until else None

    def drop(self) -> None:
        """Ask again the next time."""
        with self._lock:
            self._answer, self._until = None, 0.0
