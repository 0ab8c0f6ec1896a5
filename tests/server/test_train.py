"""`POST /train`, `DELETE /train`: what is refused, and a real training as a child of a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from main import BioSAM2App
from monailabel.client import MONAILabelClient
from monailabel.utils.async_tasks import utils as async_tasks
from programs import MonaiLabel

from lib.sam import network
from lib.sam.checkpoints import save_checkpoint
from lib.trainers.finetune.progress import Progress, is_training, only_one

# in place of the child that trains: it holds the lock, as a training does, and ends when a file is there
CHILD = """
import fcntl, pathlib, sys, time
runs, say = map(pathlib.Path, sys.argv[1:])
(runs / "current").mkdir(parents=True, exist_ok=True)
(runs / "current" / "plan.json").touch()
with open(runs / "lock", "ab") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    (runs / "began").touch()
    while not say.exists():
        time.sleep(0.01)
"""


class Child:
    """In place of the training processes; `requests` is what each was asked for."""

    def __init__(self, runs: Path, say: Path) -> None:
        self.runs, self._say, self.requests = runs, say, []
        self.wait = threading.Event()
        self.wait.set()

    def popen(self, command: list[str], **given) -> subprocess.Popen:
        self.wait.wait(10)
        self.requests.append(json.loads(command[command.index("-r") + 1]))
        return subprocess.Popen([sys.executable, "-c", CHILD, str(self.runs), str(self._say)], **given)

    def end(self) -> None:
        self._say.touch()


@pytest.fixture
def child(instance: BioSAM2App, tmp_path: Path, monkeypatch, until) -> Iterator[Child]:
    monkeypatch.setattr(instance.versions, "folder", tmp_path / "versions")
    child = Child(tmp_path / "versions" / "runs", tmp_path / "end")
    fake = SimpleNamespace(Popen=child.popen, STDOUT=subprocess.STDOUT, PIPE=subprocess.PIPE)
    monkeypatch.setattr(async_tasks, "subprocess", fake)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setitem(async_tasks.background_tasks, "train", [])
    yield child
    child.wait.set()
    child.end()
    until(lambda: all(task["status"] not in ("SUBMITTED", "RUNNING") for task in async_tasks.tasks("train")))


@pytest.fixture
def post(address: str, child: Child) -> Callable[..., requests.Response]:
    def send(model: str = "biosam2", params: object = None, **query: str) -> requests.Response:
        return requests.post(f"{address}/train/{model}", json=params, params=query, timeout=60)

    return send


@pytest.fixture
def stop(address: str, child: Child) -> Callable[[], requests.Response]:
    return lambda: requests.delete(f"{address}/train/", timeout=60)


def said(answer: requests.Response) -> str:
    return answer.json()["detail"]


def test_a_model_that_does_not_train(post):
    answer = post("biosam2_3d")
    assert answer.status_code == 404
    assert said(answer) == 'model "biosam2_3d" is not a train task: there is biosam2.'


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"max_epochs": "many"}, "max_epochs must be a whole number from 1 to 1000, not 'many'."),
        ({"learning_rate": 1}, "learning_rate must be a number above 0 and at most 0.01, not '1'."),
        ({"loss": "hinge"}, "loss must be dice_bce or focal, not 'hinge'."),
        ({"name": "mine"}, "name is not a setting of a training; they are max_epochs, "),
        ({"model": "other"}, "model in the parameters must be biosam2 as in the address."),
    ],
)
def test_a_wrong_setting(post, child: Child, params: dict, sentence: str):
    answer = post(params=params)
    assert answer.status_code == 400 and said(answer).startswith(sentence)
    assert not child.requests and not async_tasks.tasks("train")


@pytest.mark.parametrize("params", [[1], "text"])
def test_no_settings(post, child: Child, params: object):
    assert post(params=params).status_code == 422
    assert not child.requests


def test_the_child_gets_what_was_asked(post, child: Child, until):
    answer = post(params={"model": "biosam2", "max_epochs": "3", "image_size": "", "multi_gpu": True})
    assert answer.status_code == 200 and answer.json()["status"] in ("SUBMITTED", "RUNNING")
    until(lambda: child.requests)
    assert child.requests[0].items() >= {"model": "biosam2", "max_epochs": "3", "image_size": ""}.items()


def test_by_the_client_of_slicer(address: str, child: Child, until):
    """Its Train button: each request says who sends it, and training is no setting of that."""
    client = MONAILabelClient(address, client_id="user-xyz")
    assert client.train_start("biosam2", {"max_epochs": 3})["status"] in ("SUBMITTED", "RUNNING")
    until(lambda: child.requests)
    assert child.requests[0]["max_epochs"] == 3


def test_all_train_tasks(address: str, child: Child, until):
    wrong = requests.post(f"{address}/train/", json={"biosam2": {"max_epochs": 0}}, timeout=60)
    assert wrong.status_code == 400
    answer = requests.post(f"{address}/train/", json={"biosam2": {"max_epochs": 2}}, timeout=60)
    assert answer.status_code == 200 and set(answer.json()) == {"biosam2"}
    until(lambda: child.requests)
    assert child.requests[0]["max_epochs"] == 2


def test_a_second_one(post, child: Child, until):
    assert post().status_code == 200
    until(lambda: (child.runs / "began").exists())
    answer = post()
    assert answer.status_code == 409
    assert said(answer) == "A training runs already: wait for its end, or cancel it (DELETE /train)."
    assert len(async_tasks.tasks("train")) == 1


def test_a_second_one_before_the_first_has_a_process(post, child: Child):
    child.wait.clear()
    assert post().status_code == 200
    assert post().status_code == 409
    assert len(async_tasks.tasks("train")) == 1


def test_many_at_once(post, child: Child, until):
    with ThreadPoolExecutor(8) as pool:
        codes = sorted(answer.status_code for answer in pool.map(lambda _: post(), range(8)))
    assert codes == [200] + 7 * [409]
    until(lambda: child.requests)


def test_one_of_another_program(post, child: Child):
    """Such as scripts/train, or one that an earlier server has left running."""
    with only_one(child.runs):
        Progress(child.runs, "other").say("running")
        assert post().status_code == 409
    assert not child.requests
    assert post().status_code == 200  # it was killed: its last word, that it runs, holds up nobody


def test_one_that_waits_for_the_first(post, child: Child, until):
    assert post().status_code == 200
    assert post(enqueue="true").status_code == 200
    assert len(async_tasks.tasks("train")) == 2
    until(lambda: (child.runs / "began").exists())
    child.end()
    until(lambda: len(child.requests) == 2)


def test_nothing_to_cancel(stop):
    answer = stop()
    assert answer.status_code == 404 and said(answer) == "No training runs on this server."


def test_cancel(post, stop, child: Child, address: str, until):
    post()
    until(lambda: (child.runs / "began").exists())
    answer = stop()
    assert answer.status_code == 200 and answer.json()["status"] == "STOPPED"
    # it is not gone on with, and the next one can begin at once
    assert not (child.runs / "current").exists() and not is_training(child.runs)
    until(lambda: async_tasks.tasks("train")[0]["status"] == "STOPPED")
    assert requests.get(f"{address}/train/", timeout=60).json()["status"] == "STOPPED"
    (child.runs / "began").unlink()
    assert post().status_code == 200
    until(lambda: (child.runs / "began").exists())


# A real one


SIZE = 64


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of studies and a small checkpoint."""
    studies = tmp_path / "studies"
    studies.mkdir()
    rng = np.random.default_rng(0)
    image = rng.normal(200, 10, (44, 36, 8)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[14:30, 10:26, 1:7] = 1
    image[labels > 0] += 500
    # sub-001 and sub-003 are learnt from (lib.trainers.finetune.cases)
    for name in ("sub-001", "sub-003"):
        nib.save(nib.Nifti1Image(image, np.diag([1, 1, 3, 1])), studies / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.diag([1, 1, 3, 1])), tmp_path / "label.nii.gz")
    architecture = replace(network.NANO, image_size=SIZE)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "small.safetensors", network.build(architecture).state_dict(), architecture)
    return studies, tmp_path / "small.safetensors"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_training_is_cancelled_and_another_makes_a_version(place, tmp_path: Path, until):
    studies, checkpoint = place
    conf = {"checkpoint": checkpoint, "versions": tmp_path / "versions", "device": "cpu"}
    runs = tmp_path / "versions" / "small" / "runs"

    def progress() -> dict:
        try:
            return json.loads((runs / "progress.json").read_text())
        except (OSError, ValueError):
            return {}

    def wait(happens: Callable[[], object], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < end, (progress(), server.said())
            time.sleep(0.1)

    with MonaiLabel(studies, tmp_path, conf, {"OMP_NUM_THREADS": "1"}) as server:
        for name in ("sub-001", "sub-003"):
            with open(tmp_path / "label.nii.gz", "rb") as file:
                params = {"label_info": [{"name": "cube", "idx": 1}]}
                answer = requests.put(
                    f"{server.address}/datastore/label",
                    params={"image": name, "tag": "final"},
                    data={"params": json.dumps(params)},
                    files={"label": ("label.nii.gz", file)},
                    timeout=60,
                )
            assert answer.status_code == 200, answer.text
        train, stop = f"{server.address}/train/biosam2", f"{server.address}/train/"
        settings = {"train_batch_size": 2, "clips": 0, "max_epochs": 200}
        assert requests.post(train, json=settings, timeout=60).status_code == 200
        assert requests.post(train, json=settings, timeout=60).status_code == 409
        wait(lambda: progress().get("step", 0) >= 1)
        assert requests.delete(stop, timeout=60).status_code == 200
        assert not is_training(runs) and not (runs / "current").exists()
        wait(lambda: requests.get(stop, timeout=60).json()["status"] == "STOPPED")
        assert requests.post(train, json=settings | {"max_epochs": 1}, timeout=60).status_code == 200
        wait(lambda: progress().get("state") == "done")
        wait(lambda: requests.get(stop, timeout=60).json()["status"] == "DONE")
        stats = server.get("/info/").json()["train_stats"]["biosam2"]
        assert stats["version"] == "small-v1" and stats["state"] == "kept"
        assert "too small to decide" in stats["reason"]
    shutil.rmtree(tmp_path / "versions")
