"""What a training that was interrupted goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lib.trainers.finetune.state import KEPT, Learnt, begin, resume, save_every_epoch

PLAN = {"parent": "small", "settings": {"learning_rate": 1e-4, "image_size": None}, "cases": ["a", "b"]}
LENGTH, EPOCHS = 3, 5


def test_the_same_plan_goes_on(tmp_path: Path):
    folder = tmp_path / "current"
    assert begin(folder, PLAN, "first") == "first"
    (folder / "checkpoint_1.pt").touch()
    assert begin(folder, json.loads(json.dumps(PLAN)), "second") == "first"
    assert (folder / "checkpoint_1.pt").exists()


@pytest.mark.parametrize(
    "other",
    [
        {**PLAN, "cases": ["a"]},
        {**PLAN, "parent": "small-v1"},
        {**PLAN, "settings": {"learning_rate": 2e-4, "image_size": None}},
    ],
)
def test_another_plan_begins_afresh(tmp_path: Path, other: dict):
    folder = tmp_path / "current"
    begin(folder, PLAN, "first")
    (folder / "checkpoint_1.pt").touch()
    assert begin(folder, other, "second") == "second"
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    assert begin(folder, other, "third") == "second"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plan": 1}', "null"])
def test_a_damaged_plan_begins_afresh(tmp_path: Path, text: str):
    begin(tmp_path / "current", PLAN, "first")
    (tmp_path / "current" / "plan.json").write_text(text)
    assert begin(tmp_path / "current", PLAN, "second") == "second"


class Line(nn.Module):
    """A network with one parameter that learns and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2), False)

    def learning(self):
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)


class Mean:
    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


class Training:
    """An engine that makes steps on a line, from where the folder's states end."""

    def __init__(self, folder: Path, stop: int | None = None) -> None:
        self.line, self.mean, self.seen = Line(), Mean(), []
        self.optimizer = torch.optim.AdamW([p for _, p in self.line.learning()], lr=0.1)
        schedule = LambdaLR(self.optimizer, lambda i: 1 / (1 + i))

        def step(engine: Engine, number: int) -> None:
            if number == stop:
                raise KeyboardInterrupt
            self.seen.append(number)
            self.optimizer.zero_grad()
            ((self.line.slope - number) ** 2).sum().backward()
            self.optimizer.step()
            schedule.step()
            self.mean.value += float(self.line.slope.detach().sum())

        self.engine = Engine(step)
        learnt = Learnt(self.line, self.mean, self.optimizer, schedule)
        resume(folder, self.engine, learnt, torch.device("cpu"))
        save_every_epoch(folder, self.engine, learnt)

    def run(self) -> Training:
        numbers = range(self.engine.state.iteration, LENGTH * EPOCHS)
        self.engine.run(numbers, max_epochs=EPOCHS, epoch_length=LENGTH)
        return self


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.name != "plan.json")


def interrupted(folder: Path, at: int) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        Training(folder, at).run()


def same(one: Training, other: Training) -> bool:
    pairs = zip(one.line.parameters(), other.line.parameters(), strict=True)
    return one.mean.value == other.mean.value and all(torch.equal(a, b) for a, b in pairs)


def test_it_ends_where_one_that_ran_through_ends(tmp_path: Path):
    through = Training(tmp_path / "none").run()
    interrupted(tmp_path / "run", at=LENGTH * 3 + 1)
    again = Training(tmp_path / "run").run()
    assert again.seen == list(range(LENGTH * 3, LENGTH * EPOCHS))
    assert same(through, again)


def test_few_states_are_kept_and_nothing_half(tmp_path: Path):
    interrupted(tmp_path / "run", at=LENGTH * 4)
    assert KEPT == 2 and states(tmp_path / "run") == ["checkpoint_3.pt", "checkpoint_4.pt"]


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path):
    through = Training(tmp_path / "none").run()
    interrupted(tmp_path / "run", at=LENGTH * 4)
    newest = tmp_path / "run" / "checkpoint_4.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    again = Training(tmp_path / "run")
    assert again.engine.state.epoch == 3
    assert same(through, again.run())


def test_all_damaged_begins_afresh(tmp_path: Path):
    interrupted(tmp_path / "run", at=LENGTH * 4)
    for path in (tmp_path / "run").glob("*.pt"):
        path.write_bytes(b"")
    assert Training(tmp_path / "run").run().seen == list(range(LENGTH * EPOCHS))


def test_one_that_has_made_all_its_steps_does_not_begin_again(tmp_path: Path):
    """It was stopped between its last epoch and what is to be made of it."""
    through = Training(tmp_path / "run").run()
    again = Training(tmp_path / "run").run()
    assert again.seen == list(range(LENGTH * (EPOCHS - 1), LENGTH * EPOCHS))
    assert same(through, again)


def test_states_of_ten_epochs_and_more_are_in_order(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(globals(), "EPOCHS", 12)
    interrupted(tmp_path / "run", at=LENGTH * 10)
    assert states(tmp_path / "run") == ["checkpoint_10.pt", "checkpoint_9.pt"]
    assert Training(tmp_path / "run").engine.state.epoch == 10


def test_a_full_disk_leaves_the_states_before(tmp_path: Path, monkeypatch):
    interrupted(tmp_path / "run", at=LENGTH * 2)
    before = states(tmp_path / "run")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(torch, "save", full)
        Training(tmp_path / "run").run()
    assert states(tmp_path / "run") == before == ["checkpoint_1.pt", "checkpoint_2.pt"]
