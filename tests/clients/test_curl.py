"""A terminal: the command that `scripts/start` prints, and answers without a file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def printed_command(server) -> str:
    """What `scripts/start` prints for this server's address, with its own quoting."""
    script = (REPOSITORY / "scripts" / "start").read_text()
    lines = re.search(r'^ *echo "    curl -f.*\\\\"\n *echo "      -F .*"$', script, re.MULTILINE)
    assert lines, "scripts/start prints no curl command of two lines"
    printed = subprocess.run(
        ["bash", "-c", f"address={server.url}\n{lines[0]}"], check=True, capture_output=True, text=True
    )
    return printed.stdout


@pytest.fixture(scope="module")
def ventricle(printed_command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    done = subprocess.run(["bash", "-c", printed_command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    assert file.name == "ventricle.nii.gz"
    return file


def test_the_printed_command_answers_on_the_brains_grid(server, ventricle, same_grid):
    same_grid(ventricle, server.folder / "brain_t1.nii.gz")
    voxels = np.asarray(nib.load(ventricle).dataobj)
    assert set(np.unique(voxels)) <= {0, 1}
    assert not np.delete(voxels, 92, axis=2).any()


def test_the_printed_command_finds_the_left_lateral_ventricle(ventricle):
    voxels = np.asarray(nib.load(ventricle).dataobj)
    assert voxels[92, 134, 92] == 1
    assert voxels[75, 134, 92] == 0
    # a few square centimetres of one slice, in voxels of 1 mm
    assert 50 < voxels.sum() < 1500


def test_json_alone_can_be_asked_for(server):
    answer = subprocess.run(
        [
            *("curl", "-sf", f"{server.url}/infer/biosam2_2d?image=brain_t1&output=json"),
            *("-F", 'params={"foreground": [[92,134,92]]}'),
        ],
        check=True,
        capture_output=True,
    )
    params = json.loads(answer.stdout)
    assert params["label_names"] == {"object": 1}
    assert 0 <= params["score"]["object"] <= 1
    assert params["slice"] == 92


def test_an_error_reaches_the_terminal_as_a_sentence(server):
    answer = subprocess.run(
        [
            *("curl", "-s", f"{server.url}/infer/biosam2_2d?image=brain_t1"),
            *("-F", 'params={"foreground": [[920,134,92]]}'),
        ],
        check=True,
        capture_output=True,
    )
    assert json.loads(answer.stdout) == {
        "detail": "foreground point [920, 134, 92] is outside the volume of 197 x 233 x 189 voxels."
    }
