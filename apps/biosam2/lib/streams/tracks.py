"""What is followed over pictures that clients send one by one: whose it is, and one request at a time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from lib import work
from lib.errors import NotFound
from lib.streams.store import Store

MOST = 1000
LOOK_EVERY = 0.1  # s between two looks at whether somebody still waits for a track that others have


class Followed(Protocol):
    """What a track holds: `lib.sam.stream.Stream`, of which nothing else is known here."""

    @property
    def nbytes(self) -> int: ...


F = TypeVar("F", bound=Followed)


@dataclass(eq=False)
class Track(Generic[F]):
    """One object on its way.

    Attributes
    ----------
    id : str
        Unguessable.
    owner : str
        Name of the user who began it; for others it is not there.
    stream
        What follows it.
    picture : str
        Id of the last picture. The same one again, as when an answer got lost, is no further step.
    """

    id: str
    owner: str
    stream: F
    picture: str
    lock: threading.Lock = field(default_factory=threading.Lock)


class Tracks(Generic[F]):
    """The tracks of all users.

    Parameters
    ----------
    max_bytes : int
        Of all of them together; the one that was used least recently goes first.
    minutes : float
        For so long a track stays that nobody asks for.
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, max_bytes: int, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.store: Store[Track[F]] = Store(max_bytes, MOST, 60 * minutes, clock)

    def add(self, owner: str, stream: F, picture: str) -> Track[F]:
        """Keep what has begun on a picture."""
        track = Track(secrets.token_urlsafe(18), owner, stream, picture)
        self.store.put(track.id, track, stream.nbytes)
        return track

    def get(self, id: object, owner: str) -> Track[F]:
        """One's own track.

        Raises
        ------
        NotFound
            If it has expired or never was.
        """
        found = self.store.get(id) if isinstance(id, str) else None
        if found is None or found.owner != owner:
            raise NotFound(f'track "{str(id)[:80]}" has expired or never was: begin again.')
        return found

    def remove(self, id: object, owner: str) -> None:
        """Let go of one's own track.

        Raises
        ------
        NotFound
        """
        self.store.remove(self.get(id, owner).id)

    @contextmanager
    def held(self, tracks: Sequence[Track[F]]) -> Iterator[None]:
        """Have tracks for oneself: a second request for one of them waits.

        Raises
        ------
        Cancelled
            If nobody wants the answer any more.
        """
        with ExitStack() as stack:
            # all in the same order, whatever that of the request is: no two wait for each other
            for track in sorted(set(tracks), key=lambda track: track.id):
                while not track.lock.acquire(timeout=LOOK_EVERY):
                    work.stop_if_cancelled()
                stack.callback(self._let_go, track)
            work.stop_if_cancelled()
            yield

    def _let_go(self, track: Track[F]) -> None:
        self.store.resize(track.id, track.stream.nbytes)
        track.lock.release()
