"""Small labelled images in real files, and checkpoints to evaluate on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from lib.evaluation.datasets import Pair
from lib.evaluation.study import Study, read_study
from lib.sam.checkpoints import save_checkpoint
from lib.sam.network import NANO, build

NANO_PATH = Path(__file__).parents[2] / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Networks this small lose more to threads waiting for each other than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float, spacing=(1, 1, 1)) -> np.ndarray:
    """Voxels whose centre lies within `radius` mm of `centre` (voxels)."""
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=False)]
    return sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) <= radius**2


@pytest.fixture(scope="session")
def write_case() -> Callable[..., np.ndarray]:
    """Writes an image with two bright balls (values 1 and 2, of different size) and its label file."""

    def write(image: Path, label: Path, shape=(48, 40, 14), spacing=(1, 1, 2), seed=0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        middle = shape[2] // 2
        labels = np.zeros(shape, np.uint8)
        labels[ball(shape, (16, 20, middle), 8.9, spacing)] = 1
        labels[ball(shape, (36, 12, middle), 5, spacing)] = 2
        voxels = 20 + rng.normal(0, 4, shape) + 150 * (labels == 1) + 100 * (labels == 2)
        affine = np.diag([*spacing, 1.0])
        for path, array in ((image, voxels.astype(np.int16)), (label, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), path)
        return labels

    return write


@pytest.fixture
def study(tmp_path: Path, write_case) -> Study:
    """The two balls, read: slices along the last axis, which is 2 mm apart."""
    write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    names = {1: "large", 2: "small"}
    return read_study(Pair("image", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", names))


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the default's architecture that has learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_checkpoint(path, build(NANO).state_dict(), NANO)
    return path
