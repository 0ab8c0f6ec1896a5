"""The BioSAM-2 server's HTTP routes for pictures and tracked objects, as calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from biosam2_cvat import runs
from biosam2_cvat.errors import BadRequest, BioSAM2Error, Expired, Unreachable
from biosam2_cvat.pictures import Picture
from biosam2_cvat.runs import Mask

ADDRESS, TOKEN, TIMEOUT = "BIOSAM2_SERVER", "BIOSAM2_TOKEN", "BIOSAM2_TIMEOUT"  # environment
DEFAULT_ADDRESS = "http://localhost:8000"
DEFAULT_TIMEOUT = 110.0  # s for an answer: CVAT itself waits 120 s for a function
CONNECT_SECONDS = 10.0
NOT_FOUND, UNAUTHORISED, CONFLICT, LONGEST_SENTENCE = 404, 401, 409, 500
NO_SUCH_PATH = "Not Found"  # what a server says that has not this route at all


@dataclass(frozen=True)
class Answer:
    """A mask, bool (H, W), and how sure the server is of it, 0 to 1."""

    mask: Mask
    score: float


@dataclass(frozen=True)
class Found(Answer):
    """A mask of a structure that was found without prompts."""

    label: str


@dataclass(frozen=True)
class Step:
    """Where a tracked object is on a picture: bool (H, W), or None where it was not found."""

    track: str
    mask: Mask | None
    score: float


class Server:
    """A BioSAM-2 server.

    Parameters
    ----------
    address : str
        `http://host:port`, with a path where it is behind one.
    token : str
        Sent as a bearer token, where the server wants one.
    timeout : float
        Seconds to wait for an answer.

    Raises
    ------
    BadRequest
        If the address or the timeout cannot be one.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, token: str = "", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadRequest(f'"{address}" is not the address of a server, such as {DEFAULT_ADDRESS}.')
        if timeout <= 0:
            raise BadRequest(f"the timeout of {timeout} s is not above zero.")
        self.address = address.rstrip("/")
        self._timeout = (CONNECT_SECONDS, timeout)
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def from_environment(cls, address: str = "", token: str = "", timeout: float = 0.0) -> Server:
        """What is not given is taken from BIOSAM2_SERVER, BIOSAM2_TOKEN and BIOSAM2_TIMEOUT."""
        given = os.environ.get(TIMEOUT) or DEFAULT_TIMEOUT
        try:
            seconds = timeout or float(given)
        except ValueError:
            raise BadRequest(f'{TIMEOUT} "{given}" is not a number of seconds.') from None
        return cls(
            address or os.environ.get(ADDRESS) or DEFAULT_ADDRESS,
            token or os.environ.get(TOKEN) or "",
            seconds,
        )

    def send(self, picture: Picture) -> None:
        """Have the server keep a picture for a while."""
        self._post("/biosam2/pictures", files={"image": ("picture", picture.content)})

    def mask(self, picture: Picture, prompts: Mapping[str, Any]) -> Answer:
        """The mask that prompts on a picture mean; the picture is sent only where the server has it not.

        Parameters
        ----------
        picture : Picture
        prompts : mapping
            `foreground` and `background`, lists of [x, y]; `box`, [x0, y0, x1, y1] or None: in pixel indices.
        """
        answer = self._about(picture, "mask", prompts)
        return Answer(runs.decode(answer["mask"]), float(answer["score"]))

    def detect(
        self, picture: Picture, labels: Sequence[str] | None = None, threshold: float | None = None
    ) -> list[Found]:
        """The structures on a picture that the server has learned from labels."""
        wanted = {"labels": list(labels) if labels else None, "threshold": threshold}
        found = self._about(picture, "detect", wanted)["found"]
        return [Found(runs.decode(one["mask"]), float(one["score"]), str(one["label"])) for one in found]

    def start_tracks(self, picture: Picture, objects: Sequence[Mapping[str, Any]]) -> list[Step]:
        """Have the server remember objects on a picture, all of them or none."""
        self.send(picture)
        body = {"picture": picture.id, "objects": list(objects)}
        return self._steps(self._post("/biosam2/tracks", json=body))

    def step_tracks(self, picture: Picture, tracks: Sequence[str]) -> list[Step]:
        """Where remembered objects are on the next picture, in the order of `tracks`; they remember it too.

        Raises
        ------
        Expired
            If the server no longer remembers one of them; the others are then as they were.
        """
        self.send(picture)
        answer = self._post("/biosam2/tracks/step", json={"picture": picture.id, "tracks": list(tracks)})
        return self._steps(answer)

    def labels(self) -> list[str]:
        """The structures that `detect` may find.

        Raises
        ------
        BioSAM2Error
            If there is none yet.
        """
        named = self._request("GET", "/biosam2/pictures/labels")["labels"]
        if not named:
            raise BioSAM2Error(
                f"the BioSAM-2 server at {self.address} has not been shown a label yet.", CONFLICT
            )
        return [str(name) for name in named]

    def _about(self, picture: Picture, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/biosam2/pictures/{picture.id}/{what}"
        try:
            return self._post(path, json=body)
        except Expired:
            self.send(picture)
            return self._post(path, json=body)

    @staticmethod
    def _steps(answer: Mapping[str, Any]) -> list[Step]:
        return [
            Step(str(one["track"]), runs.decode(one["mask"]) if one["mask"] else None, float(one["score"]))
            for one in answer["tracks"]
        ]

    def _post(self, path: str, **what: Any) -> dict[str, Any]:
        return self._request("POST", path, **what)

    def _request(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        where = f"the BioSAM-2 server at {self.address}"
        try:
            answer = self._session.request(method, f"{self.address}{path}", timeout=self._timeout, **what)
        except requests.Timeout:
            raise Unreachable(f"{where} did not answer in time.") from None
        except requests.RequestException:
            raise Unreachable(f"{where} cannot be reached.") from None
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.ok and isinstance(content, dict):
            return content
        raise _error(answer.status_code, content, where)


def _error(status: int, content: Any, where: str) -> BioSAM2Error:
    detail = content.get("detail") if isinstance(content, dict) else None
    sentence = detail[:LONGEST_SENTENCE] if isinstance(detail, str) and detail else None
    if status == UNAUTHORISED:
        return BioSAM2Error(f"{where} does not accept the token in {TOKEN}.", status)
    if status == NOT_FOUND and sentence and sentence != NO_SUCH_PATH:
        return Expired(sentence)
    if sentence and status != NOT_FOUND:
        return BioSAM2Error(sentence, status)
    return BioSAM2Error(
        f"{where} answered with status {status}, as no BioSAM-2 server of this version does.", 502
    )
