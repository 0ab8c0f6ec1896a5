"""Retraining at a real server: labels saved over REST, trainings as child processes of MONAI Label's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import requests
from main import BioSAM2App
from monailabel.datastore.local import LocalDatastore
from monailabel.utils.async_tasks import utils as async_tasks

from lib.datastores.dicomweb import PacsDatastore
from lib.trainers.finetune.progress import PROGRESS, only_one
from lib.trainers.retrain.monai_label import FINAL, FinalLabels, Trainings
from lib.trainers.retrain.plan import Plan
from lib.trainers.retrain.retraining import TRAINING, Retraining

SHAPE = (40, 36, 8)
# in place of the child that trains: it ends when a file says how
CHILD = """
import pathlib, sys, time
say = pathlib.Path(sys.argv[1])
while not say.exists():
    time.sleep(0.01)
print("a last word", flush=True)
sys.exit(int(say.read_text() or 0))
"""


class Child:
    """The training processes that a test has the server start.

    Attributes
    ----------
    commands : list
        What MONAI Label would have run, one for each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.commands: list[list[str]] = []

    def popen(self, command: list[str], **given) -> subprocess.Popen:
        self.commands.append(command)
        say = self._folder / f"end-{len(self.commands)}"
        return subprocess.Popen([sys.executable, "-c", CHILD, str(say)], **given)

    def end(self, code: int = 0) -> None:
        part = self._folder / "part"
        part.write_text(str(code))
        part.rename(self._folder / f"end-{len(self.commands)}")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until) -> Iterator[Child]:
    child = Child(tmp_path)
    fake = SimpleNamespace(Popen=child.popen, STDOUT=subprocess.STDOUT, PIPE=subprocess.PIPE)
    monkeypatch.setattr(async_tasks, "subprocess", fake)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setitem(async_tasks.background_tasks, "train", [])
    yield child
    async_tasks.stop_background_task("train")
    until(lambda: not async_tasks.processes("train"))


@pytest.fixture
def trainings(address: str, child: Child, tmp_path: Path) -> Trainings:
    return Trainings(tmp_path)


def tell(trainings: Trainings, **told: object) -> None:
    """What a training writes into its file."""
    written = {"run": "20261122_030000", "state": "running", **told}
    written.setdefault("started", datetime.now().astimezone().isoformat())
    (trainings._runs / PROGRESS).write_text(json.dumps(written))


# Trainings


def test_a_training_is_asked_for_once(trainings, child, until):
    assert trainings.newest() is None
    id = trainings.start()
    assert trainings.newest().id == id
    assert trainings.start() is None
    until(lambda: child.commands)
    assert child.commands[0][-4:-1] == ["-m", "train", "-r"]
    assert json.loads(child.commands[0][-1])["model"] == "biosam2"
    assert trainings.newest().state == "running"
    child.end()
    until(lambda: trainings.newest().state == "done")
    assert trainings.newest().id == id
    assert len(child.commands) == 1


def test_one_that_a_person_has_asked_for_is_seen(trainings, child, address, until):
    task = requests.post(f"{address}/train/biosam2", json={}, timeout=20).json()
    assert trainings.newest().id == task["id"]
    assert trainings.newest().state == "running"
    assert trainings.start() is None
    until(lambda: async_tasks.processes("train"))
    requests.delete(f"{address}/train/", timeout=20)
    until(lambda: trainings.newest().state == "cancelled")


def test_the_end_is_told_in_the_words_of_the_training(trainings, child, until):
    trainings.start()
    until(lambda: child.commands)
    tell(trainings, state="failed", message="the loss is not a number")
    child.end(code=1)
    ended = until(lambda: trainings.newest().state != "running" and trainings.newest())
    assert (ended.state, ended.message) == ("failed", "the loss is not a number")


def test_without_such_words_the_last_line_of_its_log_must_do(trainings, child, until):
    tell(trainings, state="done", message="another one", started="2026-01-01T03:00:00+00:00")
    trainings.start()
    until(lambda: child.commands)
    child.end(code=1)
    ended = until(lambda: trainings.newest().state != "running" and trainings.newest())
    assert (ended.state, ended.message) == ("failed", "a last word")


def test_one_that_an_earlier_server_has_left_running_is_waited_for(trainings, child):
    """Or one that another machine runs on the same folder."""
    with only_one(trainings._runs):
        tell(trainings, state="evaluating")
        assert (trainings.newest().id, trainings.newest().state) == ("20261122_030000", "running")
        assert trainings.start() is None
    ended = trainings.newest()
    assert (ended.state, ended.message) == ("cancelled", "It was stopped before its end.")
    assert child.commands == []


def test_one_that_was_run_without_the_server_is_newer_than_its_own(trainings, child, until):
    id = trainings.start()
    until(lambda: child.commands)
    child.end()
    until(lambda: trainings.newest().state == "done")
    later = datetime.now().astimezone() + timedelta(seconds=5)
    tell(trainings, started=later.isoformat(), state="done", message="version 2 is served")
    assert trainings.newest().id == "20261122_030000"
    assert trainings.newest().message == "version 2 is served"
    tell(trainings, started=(later - timedelta(days=1)).isoformat(), state="done")
    assert trainings.newest().id == id


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"started": 3}', '{"started": "never"}'])
def test_a_damaged_progress_file_tells_nothing(trainings, content):
    (trainings._runs / PROGRESS).write_text(content)
    assert trainings.newest() is None


def test_a_task_that_no_process_was_made_for_is_not_waited_for_for_ever(trainings, monkeypatch):
    start = (datetime.now() - timedelta(seconds=90)).strftime("%Y-%m-%d %H:%M:%S")
    monkeypatch.setitem(
        async_tasks.background_tasks, "train", [{"id": "stuck", "status": "SUBMITTED", "start_ts": start}]
    )
    assert trainings.newest().state == "failed"


# Labels


def label(folder: Path, seed: int = 0) -> Path:
    path = folder / f"label{seed}.nii.gz"
    voxels = np.random.default_rng(seed).integers(0, 2, SHAPE).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.9, 0.8, 3.0, 1.0])), path)
    return path


def test_labels_of_a_folder_are_told_apart_by_their_content(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name in ("a", "b"):
        (studies / f"{name}.nii.gz").write_bytes(b"x")
    datastore = LocalDatastore(str(studies), auto_reload=False)
    labels = FinalLabels(lambda: datastore)
    assert labels() == {}
    first, second = label(tmp_path, 1), label(tmp_path, 2)
    datastore.save_label("a", str(first), FINAL, {})
    datastore.save_label("b", str(first), "original", {})  # not final
    counted = labels()
    assert list(counted) == ["a"]
    datastore.save_label("a", str(first), FINAL, {})
    assert labels() == counted
    datastore.save_label("a", str(second), FINAL, {})
    assert labels() != counted
    Path(datastore.get_label_uri("a", FINAL)).unlink()
    assert labels() == {}


def test_labels_of_an_archive_are_told_apart_without_fetching_them():
    datastore = PacsDatastore.__new__(PacsDatastore)
    stored = {image: SimpleNamespace(instance=f"1.2.{image}") for image in ("3", "4")}
    datastore._catalogue = SimpleNamespace(series=lambda: {"3": None, "5": None}, labels=lambda: stored)
    assert FinalLabels(lambda: datastore)() == {"3": "1.2.3"}


# All together


def test_labels_that_are_submitted_start_a_training(
    instance: BioSAM2App,
    address: str,
    trainings: Trainings,
    child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable,
):
    retraining = Retraining(
        Plan.parse("2 labels"),
        tmp_path / "retraining.json",
        FinalLabels(instance.datastore),
        trainings.start,
        trainings.newest,
        idle=lambda: 1e9,
    )
    monkeypatch.setattr(instance, "on_save_label", lambda *_: retraining.labels_changed())

    def submit(image: str, seed: int) -> None:
        with label(tmp_path, seed).open("rb") as file:
            sent = {"label": ("label.nii.gz", file)}
            answer = requests.put(
                f"{address}/datastore/label", params={"image": image}, files=sent, timeout=20
            )
        assert answer.ok, answer.text

    retraining.start()
    try:
        submit("scan", 1)
        until(lambda: retraining.status()["new_labels"] == 1)
        submit("scan", 2)
        assert child.commands == []
        submit("other", 1)
        until(lambda: child.commands)
        until(lambda: retraining.status()["last"])
        submit("scan", 3)
        submit("other", 4)
        until(lambda: retraining.status()["waiting_for"] == TRAINING)
        assert len(child.commands) == 1
        child.end()
        until(lambda: trainings.newest().state == "done")
        retraining.labels_changed()
        until(lambda: len(child.commands) == 2)
        child.end()
        until(lambda: trainings.newest().state == "done")
        retraining.labels_changed()
        until(lambda: retraining.status()["last"]["ended"])
        time.sleep(0.1)
        assert len(child.commands) == 2
    finally:
        retraining.stop()
        for image in ("scan", "other"):
            instance.datastore().remove_label(image, FINAL)
