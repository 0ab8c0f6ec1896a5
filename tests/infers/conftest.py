"""Infer tasks with a real network of random weights, and images that they answer on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from lib.infers.slice_task import SliceTask
from lib.infers.volume_task import VolumeTask
from lib.sam.checkpoints import save_checkpoint
from lib.sam.model import ModelSlot
from lib.sam.network import NANO, build
from lib.settings import Settings

SHAPE = (40, 36, 8)


@pytest.fixture(scope="session")
def write_weights() -> Callable[[Path, int], Path]:
    """Writes a checkpoint of random weights, another one for every seed."""

    def write(path: Path, seed: int) -> Path:
        torch.manual_seed(seed)
        save_checkpoint(path, build(NANO).state_dict(), NANO)
        return path

    return write


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, write_weights) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "random.safetensors", 0)


@pytest.fixture(scope="session")
def slot(weights: Path) -> ModelSlot:
    return ModelSlot(weights, "cpu", 1 << 28)


@pytest.fixture(scope="session")
def slice_task(slot: ModelSlot) -> SliceTask:
    return SliceTask(slot, Settings())


@pytest.fixture(scope="session")
def volume_task(slot: ModelSlot) -> VolumeTask:
    return VolumeTask(slot, Settings())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A volume of 40 x 36 x 8 voxels of noise; other noise in every test, so that nothing is cached."""
    seed = abs(hash(str(tmp_path))) % 2**32
    voxels = np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(np.int16)
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([0.9, -0.8, 3.0, 1.0])), path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a PNG of noise, 50 wide and 30 high."""

    def write(colour: bool) -> Path:
        shape = (30, 50, 3) if colour else (30, 50)
        pixels = np.random.default_rng(len(str(tmp_path))).integers(0, 255, shape).astype(np.uint8)
        path = tmp_path / f"picture{'_rgb' * colour}.png"
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def ask() -> Callable[..., tuple[np.ndarray, dict[str, Any]]]:
    """Asks a task about an image: the answer's voxels (I, J, K) and params; its file is removed."""

    def run(task: Any, path: Path, **fields: object) -> tuple[np.ndarray, dict[str, Any]]:
        file, params = task({"image": str(path), "description": "", **fields})
        try:
            return np.asarray(nib.load(file).dataobj), params
        finally:
            Path(file).unlink()

    return run
