"""What the README promises of the checkpoint in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.evaluation import cases
from lib.evaluation.measure import measure
from lib.sam.model import Model, ModelSlot

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
    assert np.mean(found["box"]) >= 0.80
