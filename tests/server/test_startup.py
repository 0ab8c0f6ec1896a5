"""A start that cannot work ends at once, and the last thing it says is what to do about it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from programs import REPOSITORY, free_port

from lib.sam.checkpoints import save_checkpoint
from lib.sam.network import NANO, build

START_SECONDS = 180  # of which importing takes most, more on a busy machine

# what is wrong: the key and value of --conf ({folder} is where the files below lie), words of the sentence
BAD_STARTS = {
    "a checkpoint that does not exist": ("checkpoint", "{folder}/missing.pt", "missing.pt", "biosam2_nano"),
    "a corrupt checkpoint": ("checkpoint", "{folder}/corrupt.safetensors", "corrupt.safetensors", "damaged"),
    "a truncated checkpoint": ("checkpoint", "{folder}/truncated.pt", "truncated.pt", "damaged"),
    "an unknown setting": ("colour", "blue", "--conf colour", "checkpoint, device"),
    "a device that is not there": ("device", "cuda:99", "cuda:99", "not available"),
}


@dataclass(frozen=True)
class Ended:
    """How a start ended: its exit status and everything it printed."""

    status: int
    output: str


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All the bad starts, two at a time: most of each is importing torch and MONAI."""
    folder = tmp_path_factory.mktemp("starts")
    weights = build(NANO).state_dict()
    save_checkpoint(folder / "whole.safetensors", weights, NANO)
    content = bytearray((folder / "whole.safetensors").read_bytes())
    content[8:2000] = bytes(1992)
    (folder / "corrupt.safetensors").write_bytes(content)
    torch.save({"model": weights}, folder / "whole.pt")
    content = (folder / "whole.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(content[: len(content) // 2])
    (folder / "studies").mkdir()

    def start(what: str) -> Ended:
        key, value, *_ = BAD_STARTS[what]
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", "apps/biosam2"]
        command += ["--studies", str(folder / "studies"), "--host", "127.0.0.1", "--port", str(free_port())]
        command += ["--conf", key, value.format(folder=folder)]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
        )
        return Ended(done.returncode, done.stdout)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BAD_STARTS, pool.map(start, BAD_STARTS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("what", BAD_STARTS)
def test_a_bad_start_ends_with_a_sentence_and_without_a_trace(starts, what):
    _, _, *words = BAD_STARTS[what]
    ended = starts[what]
    assert ended.status not in (0, None)
    assert "Traceback" not in ended.output
    assert 'File "' not in ended.output
    lines = [line for line in ended.output.splitlines() if line.strip()]
    assert "startup failed" in lines[-1]
    for word in words:
        assert word in lines[-2]
    assert lines[-2].endswith(".")
