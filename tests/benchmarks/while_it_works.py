"""How long others wait while somebody's volume is propagated: for `GET /info`, for a click on another image.

The peer is MONAI Label's server as it is, with the same tasks and weights (see `stock_app`): there they wait
to the end.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import over_http
import requests
from measures import say
from plan import CHEAPEST_ANSWER, Plan
from programs import APP

STOCK = Path(__file__).with_name("stock_app")
IDLE = 20  # of each, before the propagation
PAUSE = 0.05  # s between two requests of the same person
LEAD = 0.3  # s that the propagation is ahead of the others


def measure(plan: Plan, environment: dict[str, str], work: Path, side: str) -> dict[str, Any]:
    """Seconds that the others wait, before and during a propagation.

    Returns
    -------
    dict
        "idle info", "busy info", "idle click", "busy click": each `p50`, `p99` and `count`; and the `seconds`
        of the propagation.

    Raises
    ------
    RuntimeError
        If the server does not start, or refuses a request.
    """
    app = STOCK if side == "peer" else APP
    volumes = ["clicks.nii.gz", "busy.nii.gz"]
    with over_http.serving(plan, environment, work, volumes, plan.memory_size, app) as (session, address):
        people = _People(plan, session, address)
        people.click()
        people.info()
        result: dict[str, Any] = {
            "idle info": _figures(_repeat(people.info, IDLE)),
            "idle click": _figures(_repeat(people.click, IDLE)),
        }
        ended = threading.Event()
        propagation = _Thread(lambda: people.propagate(ended))
        time.sleep(LEAD)
        others = [_Thread(lambda ask=ask: _repeat(ask, None, ended)) for ask in (people.info, people.click)]
        result["busy info"], result["busy click"] = (_figures(other.result()) for other in others)
        result["seconds"] = propagation.result()
    for name, figures in result.items():
        say(f"{name}: {figures}")
    return result


class _People:
    """Requests that are timed; each returns its seconds."""

    def __init__(self, plan: Plan, session: requests.Session, address: str) -> None:
        self.plan, self.session, self.address = plan, session, address
        self.clicks = 0

    def info(self) -> float:
        return self._timed(lambda: self.session.get(f"{self.address}/info/", timeout=3600))

    def click(self) -> float:
        """The first point of a slice, and every time another second one."""
        self.clicks += 1
        k = self.plan.depth // 2
        return self._infer("biosam2_2d", "clicks", [self.plan.point(0, k), self.plan.point(self.clicks, k)])

    def propagate(self, ended: threading.Event) -> float:
        try:
            k = self.plan.busy_slices // 2
            return self._infer("biosam2_3d", "busy", [self.plan.point(0, k)])
        finally:
            ended.set()

    def _infer(self, model: str, image: str, points: list[list[int]]) -> float:
        form = {"params": (None, json.dumps({"foreground": points, "background": [], **CHEAPEST_ANSWER}))}
        url = f"{self.address}/infer/{model}?image={image}&output=image"
        return self._timed(lambda: self.session.post(url, files=form, timeout=3600))

    def _timed(self, ask: Callable[[], requests.Response]) -> float:
        begin = time.perf_counter()
        answer = ask()
        if not answer.ok:
            raise RuntimeError(f"the server answered {answer.status_code}: {answer.text[:200]}")
        return time.perf_counter() - begin


class _Thread(threading.Thread):
    """A thread whose result, or error, is asked for at the end."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call, self._found, self._error = call, None, None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._call()
        except Exception as error:
            self._error = error

    def result(self) -> Any:
        self.join()
        if self._error is not None:
            raise RuntimeError(f"a request failed: {self._error}") from self._error
        return self._found


def _repeat(ask: Callable[[], float], times: int | None, until: threading.Event | None = None) -> list[float]:
    """Ask so many times, or until something has happened, and once at least."""
    seconds = [ask()]
    while len(seconds) != times and not (until is not None and until.is_set()):
        time.sleep(PAUSE)
        seconds.append(ask())
    return seconds


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {f"p{share}": ordered[math.ceil(share / 100 * len(ordered)) - 1] for share in (50, 99)}
    return {**at, "count": len(ordered)}
