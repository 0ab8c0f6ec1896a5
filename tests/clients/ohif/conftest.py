"""Fixtures: the phantom's series in a real Orthanc, the server on top of it, and OHIF in Chromium."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from archive import Archive
from clients.ohif import paced_server, phantoms
from clients.ohif.browser import SIZE, Ohif
from clients.ohif.paced_server import Pace
from clients.ohif.phantoms import Series
from playwright.sync_api import Browser, Error
from programs import MonaiLabel

PICTURES = Path(os.environ.get("BIOSAM2_PICTURES", Path(__file__).resolve().parents[3] / ".pictures"))
SECONDS = 60


@dataclass(frozen=True)
class Hospital:
    """What runs: the archive, the server on top of it, how far its long work goes; the series by name."""

    archive: Archive
    server: MonaiLabel
    pace: Pace
    series: dict[str, Series]


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """An archive with a series for each of `phantoms.KINDS` and `phantoms.OTHERS`, and the server on top."""
    work = tmp_path_factory.mktemp("hospital")
    (work / "orthanc").mkdir()
    (work / "server").mkdir()
    pace = Pace(work / "pace")
    with Archive(work / "orthanc") as archive:
        series = {}
        for name, kind in {**phantoms.KINDS, **phantoms.OTHERS}.items():
            series[name], files = phantoms.write(name, kind, work / name)
            archive.add(*files)
        options = {
            "conf": {"labels": "liver,tumour"},
            "environment": {paced_server.VARIABLE: str(pace.file)},
            "program": [paced_server.__file__],
        }
        with MonaiLabel(archive.url, work / "server", **options) as server:
            yield Hospital(archive, server, pace, series)


@pytest.fixture
def pace(hospital: Hospital) -> Iterator[Pace]:
    """How far long work may go; without limit again after the test."""
    yield hospital.pace
    hospital.pace.release()


@pytest.fixture
def viewer(browser: Browser, hospital: Hospital) -> Iterator[Ohif]:
    """A new browser profile, with no study open yet."""
    context = browser.new_context(viewport=SIZE)
    opened = Ohif(context.new_page(), hospital.server.address)
    yield opened
    context.close()
    assert not opened.errors


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait until the server has noticed something."""

    def wait(happens: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not happens():
            assert time.monotonic() < end, f"it did not happen in {SECONDS} s"
            time.sleep(0.1)

    return wait


@pytest.fixture
def keep(viewer: Ohif) -> Callable[[str], None]:
    """Keep a picture of the page as it is, under a name."""
    return lambda name: viewer.keep(PICTURES / f"ohif_{name}.png")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    used = getattr(item, "funcargs", {})
    if report.failed and isinstance(used.get("hospital"), Hospital):
        report.sections.append(("server log", used["hospital"].server.said()))
    if report.failed and report.when == "call" and isinstance(used.get("viewer"), Ohif):
        with suppress(Error):  # a page that hangs has no picture
            used["viewer"].keep(PICTURES / "failed" / f"{item.name}.png")
    return report
