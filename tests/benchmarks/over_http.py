"""The app's real server, and the click over HTTP: asked as OHIF asks it."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from measures import say
from plan import Plan
from programs import APP, MonaiLabel

CLICKS = 20
# MONAI Label's OHIF plugin asks for uint16
DTYPES = ("uint8", "uint16")


def measure(plan: Plan, environment: dict[str, str], work: Path) -> dict[str, Any]:
    """Milliseconds of warm clicks on one slice: median and 95th percentile for each type of answer.

    Raises
    ------
    RuntimeError
        If the server does not start, or refuses a click.
    """
    with serving(plan, environment, work, ["clicks.nii.gz"], plan.image_size) as (session, address):
        return {dtype: _clicks(plan, session, address, dtype) for dtype in DTYPES}


@contextmanager
def serving(
    plan: Plan, environment: dict[str, str], work: Path, volumes: list[str], image_size: int, app: Path = APP
) -> Iterator[tuple[requests.Session, str]]:
    """MONAI Label's server with an app and some of the plan's volumes: a session, and the address.

    Raises
    ------
    RuntimeError
        If the server does not start, or does not answer.
    """
    studies = work / "studies"
    studies.mkdir()
    for volume in volumes:
        shutil.copy(plan.path(volume), studies / volume)
    conf = {
        "checkpoint": plan.checkpoint,
        "device": plan.device,
        "image_size": image_size,
        "cache_gb": plan.cache_gb,
    }
    environment = {**environment, "OMP_NUM_THREADS": str(plan.threads)}
    with MonaiLabel(studies, work, conf, environment, app) as server, requests.Session() as session:
        session.trust_env = False  # no proxy on the way to this machine
        try:
            yield session, server.address
        except requests.RequestException as error:
            raise RuntimeError(f"the server did not answer: {error}") from error


def _clicks(plan: Plan, session: requests.Session, address: str, dtype: str) -> dict[str, float]:
    k = plan.depth // 2
    first = plan.point(0, k)
    url = f"{address}/infer/biosam2_2d?image=clicks&output=all"

    def click(points: list[list[int]]) -> tuple[float, int]:
        params = {"foreground": points, "background": [], "restore_label_idx": False}
        params |= {"result_extension": ".nrrd", "result_dtype": dtype, "result_compress": False}
        # as a browser does: the form is multipart
        form = {"params": (None, json.dumps(params))}
        begin = time.perf_counter()
        answer = session.post(url, files=form, timeout=600)
        if not answer.ok:
            raise RuntimeError(f"the server answered {answer.status_code}: {answer.text[:200]}")
        return 1000 * (time.perf_counter() - begin), len(answer.content)

    click([first])
    click([first, plan.point(1, k)])
    # every click is a new second one, so that none is answered from memory alone
    start = 2 + CLICKS * DTYPES.index(dtype)
    answers = [click([first, plan.point(start + number, k)]) for number in range(CLICKS)]
    times, sizes = zip(*answers, strict=True)
    ordered = sorted(times)
    result = {
        "median": statistics.median(times),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "bytes": sizes[-1],
    }
    say(f"{dtype}: median {result['median']:.0f} ms, 95% within {result['p95']:.0f} ms")
    return result
