"""What the README promises of the checkpoint in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.evaluation import cases
from lib.evaluation.measure import measure
from lib.evaluation.metrics import dice
from lib.evaluation.simulate import box_around, clicks
from lib.sam.model import Model, ModelSlot
from lib.sam.propagate import Target, propagate
from lib.sam.stream import Stream

PATH = Path(__file__).parents[2] / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"


@pytest.fixture(scope="module")
def model() -> Model:
    return ModelSlot(PATH, "cpu").get()


def test_the_file_is_small_enough_for_git():
    assert PATH.stat().st_size <= 20e6


@pytest.fixture(scope="module")
def on_generated(model) -> dict[str, float]:
    return {name: float(np.mean(found)) for name, found in measure(model, cases.generated(80)).items()}


def test_generated_images_never_trained_on_are_segmented(on_generated):
    """A floor under what model/README.md says of 200 of them, so that a change to the app is noticed."""
    assert on_generated["box"] >= 0.85
    assert on_generated["3 clicks"] >= 0.85
    assert on_generated["1 click"] >= 0.70


def test_a_box_on_real_brain_tissue_gives_the_tissue(model):
    found = measure(model, cases.icbm_tissue(step=16))
    assert np.mean(found["box"]) >= 0.90


def through(model, pixels, prompted, prompts) -> np.ndarray:
    """The masks, bool (K, A, B), of one prompted slice propagated both ways through slices (K, A, B)."""
    count = len(pixels)
    masks = np.zeros(pixels.shape[:3], bool)
    target = Target({prompted: prompts}, 0, count - 1)
    for one in propagate(model, pixels.__getitem__, count, [target], thickness=2.0):
        masks[one.index] = one.mask
    return masks


def test_a_box_is_propagated_through_volumes_and_the_slices_beyond_stay_empty(model):
    """A floor under what model/README.md says of 20 of them."""
    found, empty = [], []
    for pixels, truth in cases.generated_volumes(6):
        largest = int(truth.sum((1, 2)).argmax())
        prompts = clicks([], [], box=box_around(truth[largest], 0, np.random.default_rng(0)))
        masks = through(model, pixels, largest, prompts)
        found.append(dice(masks, truth))
        empty.append(np.mean(~masks[~truth.any((1, 2))].any((1, 2))))
    assert np.mean(found) >= 0.75
    assert np.mean(empty) >= 0.95


def test_a_small_structure_that_moves_through_the_slices_is_followed(model):
    """Ten times its radius in all; memory alone clings to the place where it was prompted."""
    count, radius, noise = 21, 7, np.random.default_rng(0)
    a, b = np.mgrid[:192, :192]
    truth = np.stack([np.hypot(a - 40 - 5 * k, b - 120 + 3 * k) < radius for k in range(count)])
    pixels = (np.where(truth, 60, 140) + noise.normal(0, 12, truth.shape)).clip(0, 255).astype(np.uint8)
    prompts = clicks([], [], box=box_around(truth[4], 0, noise))
    masks = through(model, pixels, 4, prompts)
    assert dice(masks, truth) >= 0.85


def test_what_was_hidden_in_a_video_is_found_again_picture_by_picture(model):
    """Two ellipses go their ways, and nothing is to be seen for two pictures."""
    a, b = np.mgrid[:160, :120]
    truth = {k: ((a - 45 - 3 * k) / (20 + k)) ** 2 + ((b - 62) / 15) ** 2 <= 1 for k in range(7)}
    other = {k: ((a - 120) / 14) ** 2 + ((b - 80 + 3 * k) / 18) ** 2 <= 1 for k in range(7)}
    noise = np.random.default_rng(0)

    def seen(k: int | None) -> np.ndarray:
        picture = np.full(a.shape, 70.0) if k is None else 70.0 + 100 * truth[k] + 60 * (other[k] & ~truth[k])
        return (picture + noise.normal(0, 6, a.shape)).clip(0, 255).astype(np.uint8)

    stream = Stream(model, seen(0), clicks([], [], mask=truth[0]))
    assert dice(stream.step(model, seen(1)).mask, truth[1]) >= 0.9
    assert not any(stream.step(model, seen(None)).mask.any() for _ in range(2))
    assert all(dice(stream.step(model, seen(k)).mask, truth[k]) >= 0.9 for k in (2, 3, 4))


def test_another_one_that_looks_like_what_is_hidden_is_not_taken_for_it(model):
    """Two discs alike; one goes on behind a bar that hides it for some frames."""
    a, b = np.mgrid[:200, :160]
    noise, count = np.random.default_rng(0), 16
    disc = [np.hypot(a - 40 - 8 * k, b - 60) < 14 for k in range(count)]
    other = np.hypot(a - 70, b - 120) < 14
    bar = (a > 80) & (a < 125) & (b < 95)
    ground = noise.normal(0, 8, a.shape)
    frames = [
        (np.where(bar, 25.0, np.where(disc[k] | other, 190.0, 90.0)) + ground + noise.normal(0, 4, a.shape))
        .clip(0, 255)
        .astype(np.uint8)
        for k in range(count)
    ]
    truth = [one & ~bar for one in disc]
    stream = Stream(model, frames[0], clicks([], [], mask=disc[0]))
    for k in range(1, count):
        mask = stream.step(model, frames[k]).mask
        assert not (mask & other).any(), k
        if not truth[k].any():
            assert not mask.any(), k
    assert dice(mask, truth[-1]) >= 0.9
