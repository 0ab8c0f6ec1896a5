"""A store of what clients come back for: bounded in bytes and in number, and what nobody uses expires."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class _Entry(Generic[T]):
    value: T
    nbytes: int
    used: float


class Store(Generic[T]):
    """Values by name; the least recently used goes first. Thread-safe.

    A single value over the bound is kept, alone.

    Parameters
    ----------
    max_bytes : int
    max_count : int
    seconds : float
        For so long a value stays that nobody asks for.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self, max_bytes: int, max_count: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes, self.max_count, self.seconds = max_bytes, max_count, seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()  # the least recently used first
        self._nbytes = 0

    def get(self, name: str) -> T | None:
        """The value, which is then the most recently used; None if it has expired or never was."""
        with self._lock:
            self._expire()
            entry = self._entries.get(name)
            if entry is None:
                return None
            entry.used = self._clock()
            self._entries.move_to_end(name)
            return entry.value

    def put(self, name: str, value: T, nbytes: int) -> None:
        """Keep a value, also in place of another one of the same name."""
        with self._lock:
            self._drop(name)
            self._entries[name] = _Entry(value, nbytes, self._clock())
            self._nbytes += nbytes
            self._make_room()

    def resize(self, name: str, nbytes: int) -> None:
        """Say how large a value has become; nothing happens if it is gone."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return
            self._nbytes += nbytes - entry.nbytes
            entry.nbytes, entry.used = nbytes, self._clock()
            self._entries.move_to_end(name)
            self._make_room()

    def remove(self, name: str) -> bool:
        """Let go of a value; whether there was one."""
        with self._lock:
            self._expire()
            return self._drop(name)

    @property
    def nbytes(self) -> int:
        """Of all values that are kept now."""
        with self._lock:
            self._expire()
            return self._nbytes

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._entries)

    def _expire(self) -> None:
        before = self._clock() - self.seconds
        while self._entries and next(iter(self._entries.values())).used < before:
            self._drop(next(iter(self._entries)))

    def _make_room(self) -> None:
        self._expire()
        while len(self._entries) > 1 and (
            self._nbytes > self.max_bytes or len(self._entries) > self.max_count
        ):
            self._drop(next(iter(self._entries)))

    def _drop(self, name: str) -> bool:
        entry = self._entries.pop(name, None)
        self._nbytes -= entry.nbytes if entry else 0
        return entry is not None
