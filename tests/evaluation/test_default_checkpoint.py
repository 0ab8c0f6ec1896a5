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


def test_generated_images_never_trained_on_are_segmented(model):
    found = measure(model, cases.generated(80))
    assert np.mean(found["1 click"]) >= 0.70
    assert np.mean(found["box"]) >= 0.80


def test_a_box_on_real_brain_tissue_gives_the_tissue(model):
    found = measure(model, cases.icbm_tissue(step=16))
    assert np.mean(found["box"]) >= 0.75
