"""The programs that the story needs, as a hospital runs them: Orthanc, and MONAI Label with this app."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 300  # importing torch and MONAI takes most of a start, more on a busy machine
ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
DICOMWEB = next(
    (
        path
        for folder in ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc")
        for path in Path(folder).glob("libOrthancDicomWeb.so*")
    ),
    None,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """A new, empty Orthanc on this machine alone; its address."""
    port = free_port()
    settings = {
        "Name": "BioSAM-2 tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        # Orthanc listens on every address of the machine and has no setting for it: others are refused.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{port}"
    with _running([str(ORTHANC), "orthanc.json"], folder, folder / "orthanc.log", f"{address}/system"):
        yield address


@contextmanager
def monai_label(studies: str, folder: Path, conf: Sequence[str] = (), port: int = 0) -> Iterator[str]:
    """MONAI Label with this app, as `scripts/start` runs it; its address."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", "apps/biosam2"]
    command += ["--studies", studies, "--host", "127.0.0.1", "--port", str(port), *conf]
    environment = {
        **os.environ,
        "HOME": str(folder),  # where MONAI Label keeps what it has fetched from the archive
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _running(command, REPOSITORY, folder / "server.log", f"{address}/info/", environment):
        yield address


@contextmanager
def _running(
    command: list[str], work: Path, log: Path, probe: str, environment: dict[str, str] | None = None
) -> Iterator[None]:
    with open(log, "ab") as sink:
        process = subprocess.Popen(command, cwd=work, stdout=sink, stderr=sink, env=environment)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(probe):
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{command[0]} did not start (exit status {process.poll()}):\n{said}")
            time.sleep(0.3)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(probe: str) -> bool:
    try:
        return requests.get(probe, timeout=10).ok
    except requests.RequestException:
        return False
