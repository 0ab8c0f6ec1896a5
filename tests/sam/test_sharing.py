"""Clicks in the middle of a propagation: neither answer depends on the other."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import pytest

from lib.sam import network
from lib.sam.checkpoints import Checkpoint
from lib.sam.model import Model, _pause_between_blocks
from lib.sam.propagate import Target, propagate
from lib.sam.segment import segment
from lib.sam.turns import Turns

COUNT = 4
CLICKS = 8


@pytest.fixture
def new_model(small_network):
    """Makes models with an empty cache, whose network pauses between its blocks."""

    def make() -> Model:
        turns = Turns()
        weights = copy.deepcopy(small_network)
        _pause_between_blocks(weights, turns)
        return Model(weights, Checkpoint("random", "0", network.NANO), "cpu", 1 << 28, turns)

    return make


def test_a_click_in_the_middle_of_a_slice_changes_neither_answer(new_model, prompts, monkeypatch):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (40, 30, COUNT)).astype(np.uint8)
    others = rng.integers(0, 256, (40, 30, CLICKS)).astype(np.uint8)

    def masks(model: Model) -> list[np.ndarray]:
        target = Target({2: prompts([(20, 15)], [True])}, 0, COUNT - 1)
        return [found.mask for found in propagate(model, lambda k: volume[:, :, k], COUNT, [target])]

    def click(model: Model, n: int) -> np.ndarray:
        with model.running():
            return segment(model, others[:, :, n], prompts([(10, 12)], [True])).mask

    expected = masks(new_model())
    model, answers, resumed = new_model(), [], []
    pause, main = model.turns.pause, threading.current_thread()

    def noted() -> None:
        before = len(answers)
        if threading.current_thread() is main and not any(resumed):
            while thread.is_alive() and not model.turns.waiting:
                time.sleep(0.001)
        pause()
        resumed.append(len(answers) > before)

    monkeypatch.setattr(model.turns, "pause", noted)

    def click_on_and_on() -> None:
        for n in range(CLICKS):
            answers.append(click(model, n))

    thread = threading.Thread(target=click_on_and_on)
    thread.start()
    found = masks(model)
    thread.join()
    assert any(resumed), "no click came in the middle"
    for mask, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, other)
    calm = new_model()
    for n, mask in enumerate(answers):
        np.testing.assert_array_equal(mask, click(calm, n))
