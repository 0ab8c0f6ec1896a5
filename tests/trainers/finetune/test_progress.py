"""How far a training is, and that there is only one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lib.errors import Conflict
from lib.trainers.finetune import progress
from lib.trainers.finetune.progress import Progress, is_training, only_one, read_progress


def test_what_is_said_is_read(tmp_path: Path):
    with only_one(tmp_path):
        said = Progress(tmp_path, "run 1")
        said.say(progress.RUNNING, "training", step=3, steps=10, loss=0.5)
        found = read_progress(tmp_path)
    assert found and found["run"] == "run 1" and found["state"] == "running"
    assert (found["step"], found["steps"], found["loss"]) == (3, 10, 0.5)
    said.say(progress.DONE, "better")
    found = read_progress(tmp_path)
    assert found and found["state"] == "done" and found["step"] == 3


def test_it_is_not_written_all_the_time(tmp_path: Path, monkeypatch):
    said = Progress(tmp_path, "run")
    said.say(progress.RUNNING, step=1)
    said.say_now_and_then(progress.RUNNING, step=2)
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 1
    monkeypatch.setattr(progress, "EVERY", 0.0)
    said.say_now_and_then(progress.RUNNING, step=3)
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 3


def test_a_loss_that_is_no_number_is_none_in_json(tmp_path: Path):
    Progress(tmp_path, "run").say(progress.RUNNING, loss=float("nan"))

    def refuse(text: str) -> None:
        raise ValueError(text)

    found = json.loads((tmp_path / "progress.json").read_text(), parse_constant=refuse)
    assert found["loss"] is None


def test_a_full_disk_does_not_end_what_is_told_of(tmp_path: Path, monkeypatch):
    said = Progress(tmp_path, "run")
    said.say(progress.RUNNING, step=1)

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    said.say(progress.RUNNING, step=2)
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 1


@pytest.mark.parametrize("state", ["running", "evaluating"])
def test_one_that_was_killed_is_cancelled(tmp_path: Path, state: str):
    Progress(tmp_path, "run").say(state, "training", step=7)
    found = read_progress(tmp_path)
    assert found and found["state"] == "cancelled" and found["step"] == 7
    assert found["message"] == "It was stopped before its end."


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_file_tells_nothing(tmp_path: Path, text: str):
    (tmp_path / "progress.json").write_text(text)
    assert read_progress(tmp_path) is None


def test_nothing_was_ever_trained(tmp_path: Path):
    assert read_progress(tmp_path / "none") is None
    assert not is_training(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_there_is_only_one(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    with only_one(tmp_path):
        assert is_training(tmp_path)
        with pytest.raises(Conflict, match="A training runs already"), only_one(tmp_path):
            pass
        assert is_training(tmp_path)
    assert not is_training(tmp_path)
    with only_one(tmp_path):
        pass


def test_who_only_looks_keeps_nobody_from_training(tmp_path: Path):
    """A status page asks all the time."""
    (tmp_path / "lock").touch()
    stop = threading.Event()
    seen: list[bool] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(is_training(tmp_path))

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(3):
            with only_one(tmp_path):
                assert is_training(tmp_path)
        free = len(seen)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
    assert free and not all(seen)


def test_those_who_look_do_not_see_each_other(tmp_path: Path):
    (tmp_path / "lock").touch()
    seen: list[bool] = []
    lookers = [
        threading.Thread(target=lambda: seen.extend(is_training(tmp_path) for _ in range(200)))
        for _ in range(4)
    ]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert len(seen) == 800 and not any(seen)
