"""Fixtures: a made-up site, the page's routes on it in a real server, and the page in Chromium."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from clients.status.site import NOW, Site
from fastapi import FastAPI, HTTPException
from monailabel.utils.async_tasks import utils as async_tasks
from playwright.sync_api import Browser, Page, expect

from lib.server import errors, status, versions
from lib.server.status import routes

SECONDS = 30
SIZE = {"width": 1180, "height": 900}
NARROW = {"width": 390, "height": 844}
expect.set_options(timeout=SECONDS * 1000)
STRUCTURES = ("caudate", "putamen", "thalamus")


class Trainings:
    """In place of MONAI Label's routes for trainings: what was asked, and what is to be answered."""

    def __init__(self, table: list[dict[str, Any]]) -> None:
        self.table = table
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None

    def begin(self) -> dict[str, Any]:
        self.asked.append("begin")
        if self.refusal:
            raise HTTPException(*self.refusal)
        start = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        self.table.append({"id": "1", "status": "RUNNING", "request": {}, "start_ts": start, "details": []})
        return self.table[-1]

    def end(self) -> dict[str, Any] | None:
        self.asked.append("end")
        if not self.table:
            return None
        self.table[-1]["status"] = "STOPPED"
        return self.table[-1]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    table: list[dict[str, Any]] = []
    monkeypatch.setitem(async_tasks.background_tasks, "train", table)
    return Trainings(table)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Five rounds, the fourth of which was not better, and labels of nine weeks."""
    labels: list[Any] = []
    for n in range(46):
        age = timedelta(days=(n * 37 % 60) * (1 if n % 3 else 0.4))
        labels.append((f"case{n:02}", NOW - age, STRUCTURES[: 1 + n % 3]))
    labels += [(f"new{n}", None, ()) for n in range(8)]
    made = Site(tmp_path, labels)
    for before, after, published in (
        (0.612, 0.704, True),
        (0.704, 0.771, True),
        (0.771, 0.812, True),
        (0.812, 0.806, False),
        (0.812, 0.859, True),
    ):
        parts = {
            name: (before + shift, after + shift)
            for name, shift in zip(STRUCTURES, (0.05, 0, -0.05), strict=True)
        }
        last = made.round(before, after, published, parts)
    made.hold_out(
        last,
        {(f"case{n:02}", STRUCTURES[n % 3]): d for n, d in enumerate((0.41, 0.55, 0.68, 0.72, 0.8, 0.83))},
    )
    return made


@pytest.fixture
def serve(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Site], str]]:
    """Start a server of a site; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(site: Site) -> str:
        app = FastAPI()
        app.include_router(status.router)
        app.include_router(versions.router)
        app.add_api_route("/train/biosam2", trainings.begin, methods=["POST"])
        app.add_api_route("/train/", trainings.end, methods=["DELETE"])
        errors.install(app)
        for module in (routes, versions):
            monkeypatch.setattr(module, "ready_app", lambda: site)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        monkeypatch.setattr(start, "app", app, raising=False)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(SECONDS)


@pytest.fixture
def show(browser: Browser, serve: Callable[[Site], str]) -> Iterator[Callable[..., Page]]:
    """Open the page of a site in a new browser profile. No error of it goes unseen."""
    contexts, said = [], []

    def open_page(site: Site | None, address: str = "", **options: Any) -> Page:
        address = address or serve(site)  # type: ignore[arg-type]
        context = browser.new_context(
            **{"viewport": SIZE, "locale": "en-GB", "timezone_id": "UTC", **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: message.type == "error" and said.append(message.text))
        page.goto(f"{address}/biosam2/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # Chromium reports every answer of 4xx and 5xx by itself
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def keep() -> Callable[..., None]:
    """Keep a picture of the page under a name, where pictures are wanted: all of it, or what is seen."""

    def save(page: Page, name: str, whole: bool = True) -> None:
        folder = os.environ.get("BIOSAM2_PICTURES")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"status_{name}.png", full_page=whole)

    return save
