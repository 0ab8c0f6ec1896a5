"""A task's annotations as CVAT exports them, by the API of current servers and by that of CVAT 2.15.

The format is "CVAT for images 1.1", of both: masks are exact in it, polygons and ellipses to 0.01 pixels, and
tracks are interpolated by CVAT itself, so that a label here is what a person sees there. (The plain JSON of
`GET /api/tasks/ID/annotations` has tracks as key frames only.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from lib.datastores.cvat.client import SHOWN, CvatClient, Refused, decoded, readable
from lib.errors import NotFound, Unavailable, Unprocessable

logger = logging.getLogger(__name__)

FORMAT = "CVAT for images 1.1"
EXPORT_SECONDS = 600.0  # for which an export is waited for
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # s between two looks at it
FILE_BYTES = 1 << 30  # of an export, at most
# What a server answers that does not know the request.
UNKNOWN = (404, 405)
# Another process of this account, such as a training, has asked for the same, and it is being made. That may
# have begun before a change: it is waited for, and the task exported once more.
BUSY = 409
# CVAT forgets an export as soon as another process of this account asks for the same.
ATTEMPTS = 4


class ExportFailed(Unprocessable):
    """CVAT cannot export a task, and says so; the others it may."""


class _Expired(Exception):
    """CVAT no longer knows the export that it was making."""


class Exports:
    """Asks for exports and waits until they are there.

    Parameters
    ----------
    client : CvatClient
    seconds : float
        For which one is waited for.
    """

    def __init__(self, client: CvatClient, seconds: float = EXPORT_SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._current: bool | None = None  # whether the server has the current API

    def fetch(self, task: int, file: Path) -> None:
        """Export a task's annotations, without images, and write the zip file.

        Raises
        ------
        NotFound
            If there is no such task.
        ExportFailed
            If CVAT fails to make it.
        Unavailable
            If CVAT does not answer, or is not done in time.
        """
        until = time.monotonic() + self._seconds
        for _ in range(ATTEMPTS):
            try:
                if self._current is not False and self._by_request(task, file, until):
                    self._current = True
                    return
                if self._current:
                    raise NotFound(f"CVAT does not have task {task}: it was deleted there.")
                self._by_action(task, file, until)
                self._current = False
                return
            except _Expired:
                logger.warning("CVAT has forgotten the export of task %d: it is asked once more", task)
        raise Unavailable(f"CVAT forgets the export of task {task} each time it is made: try again.")

    def _by_request(self, task: int, file: Path, until: float) -> bool:
        """By `/api/requests`, as current servers do; False if this one knows nothing of it."""
        client, what = self._client, f"the annotations of task {task}"
        asked = {"format": FORMAT, "save_images": "false", "location": "local"}
        path = f"/api/tasks/{task}/dataset/export"
        request = ""
        for _ in self._looks(task, until):
            with client.ask("POST", path, what, (202, BUSY, *UNKNOWN), params=asked) as response:
                if response.status_code in UNKNOWN:
                    return False
                if response.status_code != BUSY:
                    with readable(what):
                        request = str(decoded(response, what)["rq_id"])
                    break
        for _ in self._looks(task, until):
            try:
                told = client.json(f"/api/requests/{quote(request, safe='')}", what)
            except NotFound:
                raise _Expired from None
            with readable(what):
                state, message = str(told["status"]), str(told.get("message") or "")
            if state == "failed":
                raise ExportFailed(
                    f"CVAT could not export task {task}: {message[:SHOWN] or 'it says not why'}"
                )
            if state == "finished":
                with readable(what):
                    place = client.local(str(told["result_url"]))
                with client.ask("GET", place, what, (200, 400, 404)) as response:
                    if response.status_code != 200:
                        raise _Expired
                    client.save(response, file, what, FILE_BYTES)
                return True
        return False

    def _by_action(self, task: int, file: Path, until: float) -> None:
        """By `annotations?format=…`, asked until it is made (201), and `action=download`: CVAT 2.15."""
        client, what = self._client, f"the annotations of task {task}"
        asked = {"format": FORMAT, "use_default_location": "false", "location": "local"}
        path = f"/api/tasks/{task}/annotations/"
        for _ in self._looks(task, until):
            try:
                with client.ask("GET", path, what, (201, 202), params=asked) as response:
                    if response.status_code == 202:
                        continue
                with client.ask(
                    "GET", path, what, (200, 201, 202), params={**asked, "action": "download"}
                ) as response:
                    # annotations that have changed at this moment are exported once more
                    if response.status_code == 200:
                        client.save(response, file, what, FILE_BYTES)
                        return
            except Refused as error:
                if error.code in (400, 500):
                    raise ExportFailed(f"CVAT could not export task {task} (status {error.code}).") from None
                raise

    def _looks(self, task: int, until: float) -> Iterator[None]:
        wait = FIRST_WAIT
        yield
        while time.monotonic() < until:
            time.sleep(wait)
            wait = min(LONGEST_WAIT, 1.5 * wait)
            yield
        raise Unavailable(
            f"CVAT has not exported task {task} within {self._seconds:g} seconds: it may be busy, try later."
        )
