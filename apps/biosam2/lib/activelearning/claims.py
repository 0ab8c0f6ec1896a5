"""Who works on which image, so that no two annotators get the same one: claims that expire."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lib.errors import Conflict, NotFound

logger = logging.getLogger(__name__)

EVERYBODY = frozenset({"user-xyz"})
"""Names that tell nobody apart: what MONAI Label's plugin for Slicer sends unless a person has changed it."""

MOST = 10_000  # claims; beyond them the oldest one ends
MOST_SKIPPED = 1_000  # images that are remembered of one annotator
MOST_SKIPPING = 1_000  # annotators of whom any are
SAVE_AGAIN = 0.1  # part of a claim's time by which it is longer than in the file before the file is written


@dataclass(frozen=True)
class Annotator:
    """Who asks for a case, as far as a server can tell.

    Attributes
    ----------
    name : str
        "" if unknown; two requests without a name are taken to be of two people.
    address : str
        Where the request came from, "" if unknown. Several people may share one, so that it alone ends no
        claim as long as there are other images.
    """

    name: str = ""
    address: str = ""

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Annotator:
        """By `user` (who has signed in), `client_id` (sent by Slicer and our panel in OHIF) and `address`.

        One user with two programs is two annotators: each program has a case open.
        """
        client = str(request.get("client_id") or "").strip()
        names = [str(request.get("user") or ""), "" if client in EVERYBODY else client]
        return cls("/".join(name for name in names if name), str(request.get("address") or ""))


class Claim(BaseModel):
    """An image that an annotator has.

    Attributes
    ----------
    image, name, address : str
        See `Annotator`.
    until : float
        Seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    image: str
    name: str
    address: str
    until: float


def file_name(studies: str) -> str:
    """Of the file with the claims on the images of a folder or an archive."""
    place = studies if "://" in studies else os.path.realpath(studies)
    return f"claims-{hashlib.sha256(place.encode()).hexdigest()[:12]}.json"


class _File(BaseModel):
    claims: list[Claim] = []


class Claims:
    """The claims on a datastore's images, one at most on each; kept in a file from one start to the next.

    Each change writes the whole file: 0.5 ms for 100 claims, 15 ms for 10,000, the most there are.

    Parameters
    ----------
    file : Path
        Read when the first question is asked, not before: also processes that ask none have one of these.
    seconds : float
        For how long an image is claimed.
    clock : callable
        Seconds since 1970.
    """

    def __init__(self, file: Path, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.seconds, self._file, self._clock = seconds, file, clock
        self._lock = threading.RLock()
        self._loaded: OrderedDict[str, Claim] | None = None
        self._skipped: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()  # name -> image -> until

    def images(self) -> set[str]:
        """The images that are claimed now."""
        with self._lock:
            return set(self._live())

    def take(self, image: str, annotator: Annotator) -> Claim:
        """Claim an image, which ends any other claim on it."""
        with self._lock:
            claims = self._live()
            claim = Claim(
                image=image,
                name=annotator.name,
                address=annotator.address,
                until=self._clock() + self.seconds,
            )
            claims.pop(image, None)
            claims[image] = claim
            while len(claims) > MOST:
                claims.popitem(last=False)
            self._save()
            return claim

    def skip(self, annotator: Annotator) -> None:
        """End the claims of an annotator, and remember what they have seen.

        Of one without a name nothing is known to be theirs: their claims expire.
        """
        with self._lock:
            for claim in [claim for claim in self._live().values() if claim.name == annotator.name]:
                self._remember(claim)

    def skipped(self, annotator: Annotator) -> list[str]:
        """The images that an annotator has not wanted lately, the latest last."""
        with self._lock:
            now = self._clock()
            return [image for image, until in self._skipped.get(annotator.name, {}).items() if until > now]

    def unnamed(self, annotator: Annotator) -> list[str]:
        """The images claimed without a name from the same address, the latest last."""
        if annotator.name or not annotator.address:
            return []
        with self._lock:
            claims = self._live().values()
            return [claim.image for claim in claims if not claim.name and claim.address == annotator.address]

    def give_back(self, image: str, annotator: Annotator) -> None:
        """End a claim before its time; the annotator is not given the image again at once.

        Raises
        ------
        NotFound
            If the image is not claimed.
        Conflict
            If it is claimed by somebody else who gave a name.
        """
        with self._lock:
            claim = self._live().get(image)
            if claim is None:
                raise NotFound(f'image "{image[:80]}" is not with any annotator.')
            if claim.name and claim.name != annotator.name:
                raise Conflict(f'image "{image[:80]}" is with another annotator.')
            self._remember(claim)
            self._save()

    def end(self, image: str) -> None:
        """End the claim on an image, if there is one: it has its label, or is gone."""
        with self._lock:
            if self._live().pop(image, None):
                self._save()

    def prolong(self, image: str) -> None:
        """Begin the time of a claim anew, if there is one: somebody is at work on the image."""
        with self._lock:
            claim = self._live().get(image)
            if claim is None:
                return
            until = self._clock() + self.seconds
            if until - claim.until > SAVE_AGAIN * self.seconds:
                self._live()[image] = claim.model_copy(update={"until": until})
                self._save()

    def _remember(self, claim: Claim) -> None:
        self._live().pop(claim.image, None)
        if not claim.name:
            return
        seen = self._skipped.pop(claim.name, OrderedDict())
        self._skipped[claim.name] = seen
        seen.pop(claim.image, None)
        seen[claim.image] = self._clock() + self.seconds
        while len(seen) > MOST_SKIPPED:
            seen.popitem(last=False)
        while len(self._skipped) > MOST_SKIPPING:
            self._skipped.popitem(last=False)

    def _live(self) -> OrderedDict[str, Claim]:
        """By image, the latest last, without those whose time is over."""
        if self._loaded is None:
            self._loaded = self._load()
        now = self._clock()
        for image in [image for image, claim in self._loaded.items() if claim.until <= now]:
            del self._loaded[image]
        return self._loaded

    def _load(self) -> OrderedDict[str, Claim]:
        try:
            found = _File.model_validate_json(self._file.read_bytes()).claims
        except FileNotFoundError:
            return OrderedDict()
        except (ValidationError, OSError) as error:
            reason = str(error).splitlines()[0]
            logger.error("%s cannot be read, so that no image is claimed: %s", self._file, reason)
            return OrderedDict()
        latest = self._clock() + self.seconds  # the setting may be a shorter time now
        return OrderedDict(
            (claim.image, claim.model_copy(update={"until": min(claim.until, latest)})) for claim in found
        )

    def _save(self) -> None:
        """Replace the file at once. It outlives the server, not a power cut: nobody waits for the disk."""
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        try:
            if not self._live():
                self._file.unlink(missing_ok=True)
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(_File(claims=list(self._live().values())).model_dump_json())
            os.replace(part, self._file)
        except OSError as error:  # a full disk must not keep people from working
            logger.error("the claims could not be saved: %s", error)
