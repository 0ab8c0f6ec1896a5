"""Fixtures: the phantom's series in a real Orthanc, the server on top of it, and OHIF in Chromium."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from clients.ohif import phantoms
from clients.ohif.browser import CHROMIUM, SIZE, Ohif, chromium
from clients.ohif.phantoms import Series
from clients.ohif.running import DICOMWEB, ORTHANC, monai_label, orthanc
from playwright.sync_api import Browser

PICTURES = Path(os.environ.get("BIOSAM2_PICTURES", Path(__file__).resolve().parents[3] / ".pictures"))


@dataclass(frozen=True)
class Hospital:
    """What runs: the archive's address, the server's, its datastore and log, and the series by name."""

    archive: str
    server: str
    datastore: Path
    log: Path
    series: dict[str, Series]


@pytest.fixture(scope="session")
def programs() -> None:
    """Debian's packages that `scripts/test` installs: without them these tests fail, and say so."""
    found = {"chromium": CHROMIUM, "orthanc": ORTHANC, "orthanc-dicomweb": DICOMWEB}
    missing = " ".join(name for name, program in found.items() if not program)
    if missing:
        pytest.fail(f"not installed: {missing} (on Debian and Ubuntu: apt-get install {missing})")


@pytest.fixture(scope="session")
def hospital(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """An archive with the phantom in every series of `phantoms.KINDS`, and the server on top of it."""
    work = tmp_path_factory.mktemp("hospital")
    with orthanc(work / "orthanc") as archive:
        series = {}
        for name in phantoms.KINDS:
            series[name], files = phantoms.write(name, work / name)
            for file in files:
                requests.post(f"{archive}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
        conf = ["--conf", "labels", "liver,tumour"]
        with monai_label(f"{archive}/dicom-web", work / "server", conf) as server:
            home = work / "server"
            yield Hospital(archive, server, home / ".cache", home / "server.log", series)


@pytest.fixture(scope="session")
def browser(programs: None) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def viewer(browser: Browser, hospital: Hospital) -> Iterator[Ohif]:
    """A new browser profile, with no study open yet."""
    context = browser.new_context(viewport=SIZE)
    opened = Ohif(context.new_page(), hospital.server)
    yield opened
    context.close()
    assert not opened.errors


@pytest.fixture
def keep(viewer: Ohif) -> Callable[[str], None]:
    """Keep a picture of the page as it is, under a name."""
    return lambda name: viewer.keep(PICTURES / f"ohif_{name}.png")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    used = getattr(item, "funcargs", {})
    if report.failed and isinstance(used.get("hospital"), Hospital):
        report.sections.append(("server log", used["hospital"].log.read_text(errors="replace")[-4000:]))
    if report.failed and report.when == "call" and isinstance(used.get("viewer"), Ohif):
        used["viewer"].keep(PICTURES / "failed" / f"{item.name}.png")
    return report
