"""The real server on a folder of images, started, killed and started again by a simulation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import requests

from lib.errors import Unavailable

APP = Path(__file__).resolve().parents[2]
START_SECONDS = 300  # importing torch and MONAI takes most of a start, more on a busy machine
STOP_SECONDS = 20


class LocalServer:
    """MONAI Label with this app, as `scripts/start` runs it; runs inside of a `with`.

    Parameters
    ----------
    studies : Path
        Folder of images.
    work : Path
        An existing folder for its log and its sessions.
    conf : mapping of str to str
        Settings of the app.

    Attributes
    ----------
    address : str
        The same after a new start.
    log : Path
    """

    def __init__(self, studies: Path, work: Path, conf: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", work / "server.log"
        self._command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP)]
        self._command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
        for key, value in conf.items():
            self._command += ["--conf", key, value]
        sessions = str(work / "sessions")
        self._environment = {**os.environ, "PYTHONPATH": "", "MONAI_LABEL_SESSION_PATH": sessions}
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises
        ------
        Unavailable
            If it ends instead, or does not answer within `START_SECONDS`.
        """
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._work, stdout=log, stderr=log, env=self._environment
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise Unavailable(f"The server did not start: see {self.log}.")
            time.sleep(0.5)

    def kill(self) -> None:
        """End it as a power cut does: it cannot write anything down any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Have it end."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/info/", timeout=60).ok
        except requests.RequestException:
            return False
