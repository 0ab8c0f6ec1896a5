"""The programs that tests run: each is ready when its `with` begins, and has ended at the end of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import requests

REPOSITORY = Path(__file__).resolve().parents[1]
APP = REPOSITORY / "apps" / "biosam2"
START_SECONDS = 300  # importing torch and MONAI takes most of a start, more on a busy machine
STOP_SECONDS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A program that answers HTTP requests.

    Parameters
    ----------
    command : sequence of str
    port : int
        Where it listens.
    probe : str
        Path that it answers once it is ready.
    log : Path
        What it prints is added to this file.
    folder : Path
        Its working directory.
    environment : mapping, optional
        Variables besides those of this process.

    Attributes
    ----------
    address : str
    log : Path
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        probe: str,
        log: Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.log = log
        self._command, self._folder, self._probe = list(command), folder, f"{self.address}{probe}"
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises
        ------
        RuntimeError
            If it ends instead, or does not answer within `START_SECONDS`.
        """
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, env=self._environment
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_SECONDS
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to this machine
            while not self._answers(session):
                status = process.poll()
                if status is not None or time.monotonic() > end:
                    how = "does not answer" if status is None else f"ended with status {status}"
                    raise RuntimeError(f"{self._command[0]} {how}:\n{self.said()}")
                time.sleep(0.3)

    def _answers(self, session: requests.Session) -> bool:
        try:
            return session.get(self._probe, timeout=10).ok
        except requests.RequestException:
            return False


class MonaiLabel(Program):
    """MONAI Label with an app, as `scripts/start` runs it.

    Parameters
    ----------
    studies : str or Path
        A folder, or the address of a DICOMweb archive.
    work : Path
        An existing folder for its log, its sessions and what it has of an archive.
    conf : mapping, optional
        Settings of the app.
    environment : mapping, optional
    app : Path
    program : sequence of str
        What Python runs.

    Attributes
    ----------
    cache : Path
        What it has of an archive.
    """

    def __init__(
        self,
        studies: str | Path,
        work: Path,
        conf: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        app: Path = APP,
        program: Sequence[str] = ("-m", "monailabel.main"),
    ) -> None:
        self.cache = work / "cache"
        port = free_port()
        command = [sys.executable, *program, "start_server", "--app", str(app), "--studies", str(studies)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        quiet = {"scoring": "off"} if app == APP else {}  # nothing is computed that a test has not asked for
        for key, value in {**quiet, **(conf or {})}.items():
            command += ["--conf", key, str(value)]
        folders = {
            "MONAI_LABEL_SESSION_PATH": str(work / "sessions"),
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(self.cache),
        }
        variables = {**folders, **(environment or {})}
        super().__init__(command, port, "/info/", work / "server.log", REPOSITORY, variables)

    def get(self, path: str, **query: str) -> requests.Response:
        return requests.get(f"{self.address}{path}", params=query, timeout=120)
