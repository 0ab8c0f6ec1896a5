"""Dice of single slices for the prompts that people use: a click, three clicks, a box."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from lib.evaluation.cases import Case
from lib.evaluation.metrics import dice
from lib.evaluation.simulate import Look, box_around, click_by_click, clicks
from lib.sam.model import Model
from lib.sam.segment import segment

Ask = Callable[[Look, Case, np.random.Generator], np.ndarray]

SLACK = 5  # voxels that the box may be too large by on each side


def ask_box(look: Look, case: Case, rng: np.random.Generator) -> np.ndarray:
    """The answer to a loose box around the structure."""
    return look(case.plane, clicks([], [], box=box_around(case.truth, SLACK, rng)))


def ask_clicks(count: int) -> Ask:
    """The answer to a click on the structure and then on the largest error each time."""

    def ask(look: Look, case: Case, rng: np.random.Generator) -> np.ndarray:
        *_, (_, mask) = click_by_click(case.plane, case.truth, count, look, 0, rng)
        return mask

    return ask


ASKS: dict[str, Ask] = {"1 click": ask_clicks(1), "3 clicks": ask_clicks(3), "box": ask_box}


def measure(model: Model, cases: Iterable[Case], seed: int = 0) -> dict[str, list[float]]:
    """Dice of every case for every way of asking."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ASKS}

    def look(plane, prompts):
        return segment(model, plane, prompts).mask

    for case in cases:
        for name, ask in ASKS.items():
            found[name].append(dice(ask(look, case, rng), case.truth))
    return found
