"""The real server while it propagates: others are served, and the work can be given up."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

LONG = {"foreground": [[92, 134, 92]]}  # 189 slices of a head
SECONDS = 60


@pytest.fixture
def state(server) -> Callable[[str], dict[str, Any]]:
    """What the server says of a request; an empty dict while it knows nothing of it."""

    def ask(id: str) -> dict[str, Any]:
        answer = requests.get(f"{server.url}/biosam2/work/{id}", timeout=SECONDS)
        return answer.json() if answer.ok else {}

    return ask


def _until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_a_propagation_is_watched_and_cancelled_while_others_are_served(server, post, client, state):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, "biosam2_3d", {**LONG, "request_id": "head"}, "brain_t1")
        _until(lambda: state("head").get("done", 0) >= 2)
        assert state("head")["total"] == 189
        assert client.info()["name"] == "BioSAM-2"
        click = post("biosam2_2d", {"foreground": [[30, 30, 6]]}, "axial", output="json")
        assert click.json()["label_names"] == {"object": 1}
        before = state("head")
        assert (before["state"], before["done"] < before["total"]) == ("running", True)
        stopped = requests.delete(f"{server.url}/biosam2/work/head", timeout=SECONDS)
        assert stopped.json()["state"] == "cancelled"
        answer = asked.result(SECONDS)
    assert answer.status_code == 409
    assert answer.json() == {"detail": "The request was cancelled."}


def test_a_terminal_that_is_closed_stops_the_work(server, state):
    params = json.dumps({**LONG, "request_id": "closed"})
    curl = subprocess.Popen(
        ["curl", "-s", "-o", "-", f"{server.url}/infer/biosam2_3d?image=brain_t1", "-F", f"params={params}"],
        stdout=subprocess.DEVNULL,
    )
    _until(lambda: state("closed").get("done", 0) >= 1)
    curl.kill()
    curl.wait()
    _until(lambda: state("closed")["state"] == "cancelled")
    assert state("closed")["done"] < 189
