"""The loop over checkpoints, cases, structures and prompts: each row once, whatever stops it in between."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lib.errors import UserError
from lib.evaluation.contenders import Asked, Contender
from lib.evaluation.datasets import Pair
from lib.evaluation.metrics import area_under, clicks_needed
from lib.evaluation.pipelines import Outcome
from lib.evaluation.protocol import NOC, Protocol
from lib.evaluation.results import Key, Results, Row, key_of
from lib.evaluation.study import Structure, Study, fingerprint, read_study
from lib.evaluation.worst import Worst

TABLE = "results.csv"
# What a file, a disk or a device can do to one case; an error of the program is none of these.
FAILURES = (UserError, OSError, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Failure:
    """A case that could not be measured, and why, in a sentence. `model` is empty where it concerns all."""

    model: str
    case: str
    what: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """The rows that were asked for, in order, whether made now or in an earlier run; and what failed."""

    rows: list[Row]
    failures: list[Failure]
    made: int


def evaluate(
    pairs: Sequence[Pair],
    contenders: Sequence[Contender],
    protocol: Protocol,
    out: Path,
    wanted: Sequence[str] = (),
) -> Evaluation:
    """Measure all contenders on all cases.

    Parameters
    ----------
    pairs : sequence of Pair
    contenders : sequence of Contender
        Opened one after the other; at most one is in memory.
    protocol : Protocol
    out : Path
        Folder of `results.csv`, which is gone on with: rows in it are not made again unless the weights, the
        files or the protocol changed.
    wanted : sequence of str
        Structures (`Study.structures`); empty for all.

    Raises
    ------
    UserError
        If `results.csv` is another table, or a checkpoint cannot be loaded.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / TABLE)
    worst = Worst(out, results.rows.values())
    rows: list[Row] = []
    failures: list[Failure] = []
    unreadable: set[str] = set()
    made = 0
    # a terminal is drawn on all the time, a log file is not
    pause = 0.1 if sys.stderr.isatty() else 60.0
    with tqdm(total=len(contenders) * len(pairs), unit="case", mininterval=pause) as bar:
        for contender in contenders:
            asked: Asked | None = None
            for pair in pairs:
                bar.set_postfix_str(f"{contender.name}, {pair.name}"[:60], refresh=False)
                bar.update()
                if pair.name in unreadable:
                    continue
                try:
                    version = fingerprint(pair)
                    study = read_study(pair)
                    structures = study.structures(wanted)
                except FAILURES as error:
                    failures.append(Failure("", pair.name, "reading", _sentence(error)))
                    unreadable.add(pair.name)
                    continue
                for task in _tasks(study, structures, contender, protocol, version):
                    row = results.rows.get(task.key)
                    if row is None:
                        asked = asked or contender.open()
                        try:
                            outcome = asked(study, task.structure, task.prompted, task.design)
                        except FAILURES as error:
                            what = f"{task.structure.name}, {task.design}"
                            failures.append(Failure(contender.name, pair.name, what, _sentence(error)))
                            continue
                        row = {"model": contender.name, **task.names, **_figures(outcome, task.design)}
                        worst.keep(row, outcome.shown)
                        results.add(row)
                        made += 1
                    # a checkpoint may have been given another name since
                    rows.append({**row, "model": contender.name})
    return Evaluation(rows, failures, made)


@dataclass(frozen=True)
class _Task:
    """One row to make: `names` are its key columns."""

    structure: Structure
    prompted: list[int]
    design: str
    names: Row

    @property
    def key(self) -> Key:
        return key_of(self.names)


def _tasks(
    study: Study, structures: list[Structure], contender: Contender, protocol: Protocol, data: str
) -> Iterator[_Task]:
    """The rows of a case. Slices are rows of their own; a volume is one row for all slices prompted in it."""
    for structure in structures:
        areas = [int(area) for area in study.truth(structure).sum((1, 2))]
        slices = protocol.prompted(areas)
        for prompted in [[index] for index in slices] if protocol.pipeline == "image" else [slices]:
            for design in contender.designs:
                names = {
                    "version": contender.version,
                    "pipeline": protocol.pipeline,
                    "protocol": protocol.signature,
                    "data": data,
                    "case": study.pair.name,
                    "structure": structure.name,
                    "slices": " ".join(map(str, prompted)),
                    "prompts": design,
                }
                yield _Task(structure, prompted, design, names)


def _figures(outcome: Outcome, design: str) -> Row:
    """An outcome as text; what does not apply is empty."""
    counted = design == NOC
    figures = {
        "dice": outcome.dice,
        "nsd": outcome.nsd,
        "iou": outcome.iou,
        "noc85": clicks_needed(outcome.curve, 0.85) if counted else math.nan,
        "noc90": clicks_needed(outcome.curve, 0.90) if counted else math.nan,
        "auc_dice": area_under(outcome.curve) if outcome.curve else math.nan,
        "auc_nsd": area_under(outcome.nsd_curve) if outcome.nsd_curve else math.nan,
        "absence": outcome.absence,
        "seconds_first": outcome.first,
        "seconds": outcome.seconds,
    }
    curves = {
        "dice_after": outcome.curve,
        "nsd_after": outcome.nsd_curve,
        "dice_along": outcome.slices,
    }
    return {name: _number(value) for name, value in figures.items()} | {
        name: " ".join(map(_number, values)) for name, values in curves.items()
    }


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
