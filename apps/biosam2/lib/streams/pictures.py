"""Pictures that clients have sent, by the signature of their bytes, so that each is sent and read once."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.errors import NotFound
from lib.imaging.picture import decode
from lib.streams.store import Store

MOST = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, and the sha256 (hex) of the file that it came in.

    `pixels` is uint8, (W, H) or (W, H, 3), read-only.
    """

    id: str
    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


class Pictures:
    """The pictures that were sent lately.

    Parameters
    ----------
    max_bytes : int
        Of pixels, all pictures together.
    minutes : float
        For so long a picture stays that nobody asks about.
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, max_bytes: int, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.store: Store[Picture] = Store(max_bytes, MOST, 60 * minutes, clock)

    def add(self, data: bytes) -> Picture:
        """Keep a picture; the same bytes are not read again.

        Raises
        ------
        Unprocessable
            As `lib.imaging.picture.decode` does.
        """
        id = hashlib.sha256(data).hexdigest()
        found = self.store.get(id)
        if found is None:
            found = Picture(id, decode(data))
            self.store.put(id, found, found.pixels.nbytes)
        return found

    def get(self, id: object) -> Picture:
        """A picture that was sent.

        Raises
        ------
        NotFound
            If it has expired or never was: the client sends it again.
        """
        found = self.store.get(id) if isinstance(id, str) and _SHA256.fullmatch(id) else None
        if found is None:
            raise NotFound(f'picture "{str(id)[:80]}" has expired or never was: send it again.')
        return found
