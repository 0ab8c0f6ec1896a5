"""`scripts/start --pacs`: a PACS with a demo series and the server before it, in one command."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from programs import REPOSITORY, START_SECONDS, free_port

START = REPOSITORY / "scripts" / "start"
CENTRE = [98, 116, 95]  # of the template, 197 x 233 x 189 voxels: white matter beside the midline


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(true, what: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not true():
        assert time.monotonic() < end, f"waited {START_SECONDS} s for {what}"
        time.sleep(0.5)


def test_pacs_and_studies_exclude_each_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [START, "--pacs", "--studies", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "--pacs brings its own studies" in done.stderr


@pytest.mark.timeout(2 * START_SECONDS)
def test_the_demo_series_is_served_clicked_on_and_the_pacs_ends_with_the_server(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    environment = os.environ | {"BIOSAM2_VENV": sys.prefix, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        start = subprocess.Popen(
            [START, "--pacs", "--port", str(port)], env=environment, stdout=output, stderr=output
        )
    try:
        _until(lambda: start.poll() is not None or "is ready at" in log.read_text(), "the server")
        assert start.poll() is None, log.read_text()
        pacs = int(re.search(r"studies = http://127\.0\.0\.1:(\d+)/dicom-web", log.read_text())[1])
        address = f"http://127.0.0.1:{port}"
        assert f"OHIF       {address}/ohif/" in log.read_text()
        assert requests.get(f"{address}/ohif/", timeout=30).ok
        sample = requests.post(f"{address}/activelearning/random", timeout=START_SECONDS)
        assert sample.ok, sample.text
        answer = requests.post(
            f"{address}/infer/biosam2_2d",
            params={"image": sample.json()["id"], "output": "image"},
            data={"params": json.dumps({"foreground": [CENTRE], "result_extension": ".nii.gz"})},
            timeout=START_SECONDS,
        )
        assert answer.ok, answer.text
        mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
        assert mask.shape == (197, 233, 189)
        assert np.allclose(np.linalg.norm(mask.affine[:3, :3], axis=0), 1)  # mm
        assert set(np.flatnonzero(np.asarray(mask.dataobj).any((0, 1)))) == {CENTRE[2]}
        assert _listens(pacs)
    finally:
        start.terminate()
        start.wait(60)
    _until(lambda: not _listens(pacs), "the PACS to end")
