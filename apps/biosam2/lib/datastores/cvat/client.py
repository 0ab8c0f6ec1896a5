"""CvatClient: requests to a CVAT, signed in, with a plain sentence for whatever goes wrong."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.exceptions import ConnectTimeout, RequestException
from urllib3.exceptions import HTTPError as Urllib3Error

from lib.datastores.pacs import TimeLimit
from lib.errors import NotFound, Unavailable

logger = logging.getLogger(__name__)

PAGE = 100  # items of a list asked for at once
CHUNK_BYTES = 1 << 20
JSON_BYTES = 256 << 20  # of one answer, at most: what a task of a million frames says of them
SHOWN = 200  # characters of what CVAT says

# Current versions know personal access tokens (Bearer), those until 2.4x the key of an account (Token).
KEY_SCHEMES = ("Bearer", "Token")


@dataclass(frozen=True)
class Account:
    """Who this server is to CVAT: a name and password, or an API key, which counts if it is there."""

    user: str = ""
    password: str = field(default="", repr=False)
    key: str = field(default="", repr=False)


class Refused(Unavailable):
    """CVAT is there and answers with an error.

    Attributes
    ----------
    code : int
        The HTTP status.
    """

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class CvatClient:
    """A CVAT server, of any version since 2.15; several threads may ask.

    Parameters
    ----------
    url : str
        Such as http://localhost:8080.
    account : Account
    seconds : float
        Without a byte after which an answer is given up.

    Every method raises `Unavailable` when CVAT cannot be reached, is too slow, does not let this server in,
    answers with an error (`Refused`) or with something that makes no sense; `NotFound` when it does not have
    what it was asked for.
    """

    def __init__(self, url: str, account: Account, seconds: float = 30.0) -> None:
        self.url = url.strip().rstrip("/").removesuffix("/api")
        self.seconds = seconds
        self._account = account
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, TimeLimit(seconds))
        self._signing = threading.Lock()
        self._signed = 0  # how often; an answer to an older sign-in asks for a new one

    def json(self, path: str, what: str, **params: Any) -> Any:
        """The answer to a GET.

        Parameters
        ----------
        path : str
            Such as /api/tasks/12.
        what : str
            What is asked for, in words for a person.
        **params
            The query.
        """
        with self.ask("GET", path, what, params=params) as response:
            return decoded(response, what)

    def pages(self, path: str, what: str, **params: Any) -> list[dict[str, Any]]:
        """All items of a list, in the order of their ids, from all its pages."""
        found: dict[int, dict[str, Any]] = {}
        page = 1
        while True:
            answer = self.json(path, what, page=page, page_size=PAGE, sort="id", **params)
            with readable(what):
                fresh = {int(item["id"]): item for item in answer["results"]}
                more = bool(answer.get("next"))
            # A page that brings nothing new is the end as well, whatever it says of a next one.
            known = len(found)
            found.update(fresh)
            if not more or len(found) == known:
                return [found[number] for number in sorted(found)]
            page += 1

    def bytes(self, path: str, what: str, most: int, **params: Any) -> bytes:
        """The content of a GET, of `most` bytes at most."""
        with self.ask("GET", path, what, params=params) as response:
            return read(response, what, most)

    def save(self, response: requests.Response, file: Path, what: str, most: int) -> None:
        """Write what an answer within `ask` contains to a file, `most` bytes at most."""
        size = 0
        with file.open("wb") as stream:
            for chunk in response.iter_content(CHUNK_BYTES):
                size += len(chunk)
                _check_size(size, what, most)
                stream.write(chunk)

    def local(self, url: str) -> str:
        """The path and query of an address that CVAT has named: it may know itself by another host."""
        parts, mine = urlsplit(url), urlsplit(self.url)
        path = parts.path.removeprefix(mine.path)
        if not path.startswith("/api/"):
            raise Unavailable(f'CVAT named "{url[:SHOWN]}" as the place of a file: that is none of its own.')
        return f"{path}?{parts.query}" if parts.query else path

    @contextmanager
    def ask(
        self, method: str, path: str, what: str, expected: tuple[int, ...] = (200,), **options: Any
    ) -> Iterator[requests.Response]:
        """Send a request; the answer, which has one of the expected statuses, is read within.

        Parameters
        ----------
        method, path, what : str
            As for `json`.
        expected : tuple of int
        **options
            `params`, `json` as `requests` takes them.
        """
        with self._asking(what):
            signed = self._sign_in()
            response = self._send(method, path, **options)
            if response.status_code in (401, 403) and self._account.user and not self._account.key:
                response.close()  # a session that has expired
                self._sign_in(signed)
                response = self._send(method, path, **options)
            with response:
                if response.status_code not in expected:
                    self._complain(response, what)
                yield response

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Origin": self.url, "Referer": f"{self.url}/"}
        for cookie in self._session.cookies:
            if cookie.name == "csrftoken" and cookie.value:
                headers["X-CSRFToken"] = cookie.value
        return self._session.request(method, f"{self.url}{path}", headers=headers, stream=True, **options)

    def _sign_in(self, again_after: int = 0) -> int:
        """Sign in, if nobody has since sign-in `again_after`; the number of the one that holds."""
        with self._signing:
            if self._signed > again_after:
                return self._signed
            account = self._account
            if account.key:
                self._try_key(account.key)
            elif account.user:
                self._session.cookies.clear()
                names = {"username": account.user, "password": account.password}
                with self._send("POST", "/api/auth/login", json=names) as response:
                    if response.status_code in (400, 401, 403):
                        raise Unavailable(
                            f'CVAT does not let "{account.user}" in: the name or the password is wrong.'
                        )
                    if response.status_code >= 300:
                        self._complain(response, "the sign-in")
                    read(response, "the sign-in", CHUNK_BYTES)
            self._signed += 1
            return self._signed

    def _try_key(self, key: str) -> None:
        for scheme in KEY_SCHEMES:
            self._session.headers["Authorization"] = f"{scheme} {key}"
            with self._send("GET", "/api/users/self") as response:
                if response.status_code == 200:
                    return
                if response.status_code not in (401, 403):
                    self._complain(response, "the account")
        raise Unavailable("CVAT does not take the API key: it is wrong, or has expired.")

    def _complain(self, response: requests.Response, what: str) -> None:
        code = response.status_code
        said = said_in(response)
        logger.warning("CVAT %s: %s: status %d %s", self.url, what, code, said)
        if code == 404:
            raise NotFound(f"CVAT does not have {what}: it was deleted, or this account may not see it.")
        if code == 401 and not (self._account.user or self._account.key):
            raise Unavailable("CVAT asks who this server is: give it a name and a password, or an API key.")
        if code in (401, 403):
            raise Refused(f"CVAT does not let this server see {what} (status {code}).", code)
        raise Refused(f"CVAT answered with status {code} when asked for {what}.", code)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RequestException, Urllib3Error) as error:
            logger.warning("CVAT %s: %s: %s", self.url, what, error)
            said = str(error).lower()
            unreached = isinstance(error, ConnectTimeout)
            if unreached or "failed to establish" in said or "failed to resolve" in said:
                raise Unavailable("CVAT cannot be reached: is it running?") from None
            if "timed out" in said:
                raise Unavailable(
                    f"CVAT is too slow: no answer for {self.seconds:g} seconds when asked for {what}."
                ) from None
            raise Unavailable(f"CVAT broke off when asked for {what}: try again.") from None


def read(response: requests.Response, what: str, most: int) -> bytes:
    """The content of an answer within `CvatClient.ask`, of `most` bytes at most."""
    parts, size = [], 0
    for chunk in response.iter_content(CHUNK_BYTES):
        size += len(chunk)
        _check_size(size, what, most)
        parts.append(chunk)
    return b"".join(parts)


def decoded(response: requests.Response, what: str) -> Any:
    """The JSON in an answer within `CvatClient.ask`."""
    content = read(response, what, JSON_BYTES)
    with readable(what):
        return json.loads(content)


def said_in(response: requests.Response) -> str:
    """The beginning of what CVAT says of an error."""
    try:
        return next(response.iter_content(4 * SHOWN), b"").decode("utf-8", "replace")[:SHOWN].strip()
    except (RequestException, Urllib3Error):
        return ""


def _check_size(size: int, what: str, most: int) -> None:
    if size > most:
        raise Unavailable(f"CVAT sent more than {most >> 20} MB when asked for {what}.")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """What goes wrong within is the fault of an answer of CVAT's."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("CVAT: %s: %r", what, error)
        raise Unavailable(f"CVAT sent an answer that cannot be read when asked for {what}.") from None
