"""Several processes make the steps of one."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monailabel.datastore.local import LocalDatastore
from programs import free_port
from safetensors.torch import load_file

from lib.trainers.finetune import task, training
from lib.trainers.finetune.gate import Verdict
from lib.trainers.finetune.network import Trainable
from lib.trainers.finetune.together import Place
from lib.versions.store import Versions

from .conftest import NoRegistry, judged

KEPT = Verdict(False, "Not better.", None, None)
BATCH, STEPS = 4, 3
REQUEST = {"max_epochs": 1, "train_batch_size": BATCH, "clips": 0.3, "learning_rate": 1e-3}
SECONDS = 120


def environment(rank: int, world: int, port: int, run: str = "night") -> dict[str, str]:
    """What torchrun gives each process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run,
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


@pytest.fixture
def together(
    labelled: LocalDatastore, tmp_path: Path, small: None, monkeypatch
) -> Callable[..., list[list[float]]]:
    """Trains in so many processes; the losses of the samples of each, in their order."""
    monkeypatch.setattr(training, "SAMPLES_AN_EPOCH", BATCH * STEPS)

    def train(versions: Versions, world: int, request: dict[str, Any] = REQUEST) -> list[list[float]]:
        notes = [tmp_path / f"{versions.folder.parent.name}-{rank}.json" for rank in range(world)]
        port = free_port()

        def process(rank: int) -> None:
            if world > 1:
                os.environ.update(environment(rank, world, port))
            losses: list[float] = []
            real = Trainable.forward

            def forward(self: Trainable, sample: dict[str, Any]) -> torch.Tensor:
                loss = real(self, sample)
                losses.append(float(loss.detach()))
                return loss

            Trainable.forward = forward  # type: ignore[method-assign]
            made = judged(task.FinetuneTask(versions, NoRegistry(), "cpu"), KEPT)
            if rank == 0:
                made(dict(request), labelled)
            else:
                made.help()
            notes[rank].write_text(json.dumps(losses))

        context = multiprocessing.get_context("fork")
        started = [context.Process(target=process, args=(rank,)) for rank in range(world)]
        for one in started:
            one.start()
        end = time.monotonic() + SECONDS
        for one in started:
            one.join(max(0.0, end - time.monotonic()))
        codes = [one.exitcode for one in started]
        for one in started:
            one.kill()
            one.join()
        assert codes == [0] * world
        return [json.loads(note.read_text()) for note in notes]

    return train


def steps(losses: list[list[float]]) -> np.ndarray:
    """Mean loss of each step: of each process, those of its share of the batch."""
    shares = [np.reshape(of_one, (STEPS, -1)).mean(1) for of_one in losses]
    return np.mean(shares, 0)


def test_two_make_the_steps_of_one(together, versions: Versions, base: Path, tmp_path: Path):
    other = Versions.of(tmp_path / "two", base)
    one, two = together(versions, 1), together(other, 2)
    assert [len(losses) for losses in two] == [BATCH * STEPS / 2] * 2
    assert steps(two) == pytest.approx(steps(one), rel=1e-4)
    # sample by sample, in turn
    assert [loss for pair in zip(*two, strict=True) for loss in pair] == pytest.approx(one[0], rel=1e-3)
    before, after, also = (load_file(p) for p in (base, versions.get(1).checkpoint, other.get(1).checkpoint))
    moved, apart = (
        np.mean([float((after[name].float() - w[name].float()).abs().mean()) for name in before])
        for w in (before, also)
    )
    assert moved > 1e-4 and apart < 0.01 * moved
    # but for what no gradient reaches except for its rounding, such as the keys' biases
    close = [torch.isclose(after[name], also[name], atol=1e-4, rtol=2e-3).flatten() for name in before]
    assert torch.cat(close).float().mean() > 0.999
    (version,) = other.all()
    assert version.about["state"] == "kept" and version.about["gate"] == {}


def test_two_with_loras_additions(together, versions: Versions, base: Path, tmp_path: Path):
    """These begin with random numbers, which must be the same in both."""
    other = Versions.of(tmp_path / "two", base)
    request = REQUEST | {"lora": True}
    assert steps(together(other, 2, request)) == pytest.approx(
        steps(together(versions, 1, request)), rel=1e-4
    )


def test_when_all_is_learnt_already_nobody_waits(together, versions: Versions, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(task.FinetuneTask, "_judge", lambda *_: os._exit(0))
        with pytest.raises(FileNotFoundError):
            together(versions, 2)  # the first ends before it has judged, and without a note
    assert (versions.folder / "runs" / "current" / training.CANDIDATE).is_file()
    assert together(versions, 2) == [[], []]
    assert len(versions.all()) == 1


def test_a_process_by_itself_has_no_place(monkeypatch):
    assert Place.of_this_process() is None
    for name, value in environment(0, 1, 1234).items():
        monkeypatch.setenv(name, value)
    assert Place.of_this_process() is None


def test_a_place(monkeypatch):
    for name, value in environment(3, 4, 1234).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    place = Place.of_this_process()
    assert place is not None and (place.rank, place.world, place.local) == (3, 4, 1)


def test_the_job_of_last_night_is_not_taken_for_todays(monkeypatch, tmp_path: Path):
    """The same command has the same id."""
    places = []
    for port in (1234, 1235):
        for name, value in environment(1, 2, port).items():
            monkeypatch.setenv(name, value)
        places.append(Place.of_this_process())
    yesterday, today = places
    assert yesterday is not None and today is not None
    yesterday.tell(tmp_path, {"run": "old"})

    class Waited(Exception):
        pass

    def wait(_: float) -> None:
        raise Waited

    monkeypatch.setattr("lib.trainers.finetune.together.time.sleep", wait)
    assert yesterday.wait(tmp_path) == {"run": "old"}
    with pytest.raises(Waited):
        today.wait(tmp_path)
    today.tell(tmp_path, {"run": "new"})
    assert today.wait(tmp_path) == {"run": "new"}
