"""What a training that was killed goes on from: what is trained on what, and states of the last epochs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lib.trainers.finetune.network import Average, Trainable

logger = logging.getLogger(__name__)

PLAN = "plan.json"
KEPT = 2  # states: one is whole while the other is written


class Learnt:
    """All that changes in a training, as one thing to save: weights, their average, optimiser, schedule."""

    def __init__(
        self, trained: Trainable, average: Average, optimizer: Optimizer, schedule: LRScheduler
    ) -> None:
        self.trained = trained
        self.others: dict[str, Any] = {"average": average, "optimizer": optimizer, "schedule": schedule}

    def state_dict(self) -> dict[str, Any]:
        weights = {name: parameter.detach() for name, parameter in self.trained.learning()}
        return {"weights": weights, **{name: other.state_dict() for name, other in self.others.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in self.trained.learning():
            parameter.copy_(state["weights"][name])
        for name, other in self.others.items():
            other.load_state_dict(state[name])


def begin(folder: Path, plan: dict[str, Any], run: str) -> str:
    """Make ready the folder of a run: go on with the one in it if that has the same plan, else start afresh.

    Returns
    -------
    str
        The id of the run: `run`, or that of the one that is gone on with.
    """
    path = folder / PLAN
    try:
        known = json.loads(path.read_text())
        if known["plan"] == plan:
            return str(known["run"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"plan": plan, "run": run}))
    os.replace(part, path)
    return run


def save_every_epoch(folder: Path, trainer: Engine, learnt: Learnt) -> None:
    """Have the states of the last epochs kept, each written beside the others and then renamed.

    Not that of the very last epoch: what is kept of it is the candidate, and an engine that has nothing left
    to do begins from its first epoch.
    """
    saver = Checkpoint(
        {"learnt": learnt, "trainer": trainer},
        DiskSaver(str(folder), atomic=True, require_empty=False),
        n_saved=KEPT,
        global_step_transform=lambda engine, _: engine.state.epoch,
    )
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(event_filter=lambda engine, epoch: epoch < engine.state.max_epochs), saver
    )


def resume(folder: Path, trainer: Engine, learnt: Learnt, device: torch.device) -> None:
    """Put the newest readable state into place, if there is one."""
    states = sorted(folder.glob("checkpoint_*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    for path in reversed(states):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        # what torch and zipfile raise on damaged files is not written down anywhere
        except Exception as error:
            logger.warning("%s is damaged (%s), an earlier state is taken", path.name, error)
            continue
        learnt.load_state_dict(state["learnt"])
        trainer.load_state_dict(state["trainer"])
        logger.info("going on after epoch %d", trainer.state.epoch)
        return
