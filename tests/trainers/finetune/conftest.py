"""Small labelled volumes in a real datastore, a small network, and the train task on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monailabel.datastore.local import LocalDatastore

from lib.evaluation.datasets import Pair
from lib.evaluation.study import fingerprint
from lib.sam import network
from lib.sam.checkpoints import save_checkpoint
from lib.trainers.finetune import cases, gate, samples, slices, task, training
from lib.versions.registry import RegistryError
from lib.versions.store import Versions

SIZE = 64
SHAPE = (44, 36, 10)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
SMALL = replace(network.NANO, image_size=SIZE)
EXTENSIONS = ("*.nii.gz", "*.nii", "*.png")


class NoRegistry:
    """In place of MLflow's.

    Attributes
    ----------
    down : bool
        Whether the tracking server does not answer.
    calls : list of str
    """

    uri, experiment = "", "test"

    def __init__(self, down: bool = True) -> None:
        self.down, self.calls = down, []

    def open(self) -> None:
        self._called("open")

    def sync(self) -> None:
        self._called("sync")

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.down:
            raise RegistryError("MLflow does not answer.")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image with `count` bright ellipsoids, side by side along j, and where they are (1, 2, ...)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(200, 10, shape)
    labels = np.zeros(shape, np.uint8)
    i, j, k = np.indices(shape)
    for number in range(1, count + 1):
        centre = shape[0] / 2 + rng.uniform(-3, 3), shape[1] * (2 * number - 1) / (2 * count), shape[2] / 2
        radii = shape[0] * 0.25, shape[1] / count * 0.33, max(0.6, shape[2] * 0.42)
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip((i, j, k), centre, radii, strict=True))
        labels[distance < 1] = number
        image[distance < 1] += 400 + 150 * number
    return image.astype(np.int16), labels


def patients(count: int, held_out: bool) -> list[str]:
    """BIDS subjects that are held out, or are not."""

    names = (f"sub-{number:03d}" for number in range(1, 1000))
    return [name for name in names if cases.is_held_out(name) == held_out][:count]


class Studies:
    """A folder of images, and the datastore that MONAI Label makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._spare = folder, folder.with_name(f"{folder.name}-sent")
        folder.mkdir(exist_ok=True)
        self._spare.mkdir(exist_ok=True)

    def image(self, name: str, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
        nib.save(nib.Nifti1Image(voxels, affine), self.folder / f"{name}.nii.gz")
        return name

    def datastore(self) -> LocalDatastore:
        return LocalDatastore(str(self.folder), extensions=EXTENSIONS)

    def label(
        self,
        name: str,
        voxels: np.ndarray,
        names: dict[int, str] | None = None,
        affine: np.ndarray = AFFINE,
        info: dict[str, Any] | None = None,
    ) -> None:
        """Save a label as the server does when Slicer submits one."""
        sent = self._spare / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), sent)
        listed = [{"name": text, "idx": value} for value, text in (names or {}).items()]
        self.datastore().save_label(name, str(sent), "final", info or {"label_info": listed})

    def add(self, name: str, seed: int = 0, names: dict[int, str] | None = None, count: int = 1) -> str:
        """An image with its label."""
        image, labels = scan(seed, count=count)
        self.image(name, image)
        self.label(name, labels, names or {number: f"lesion {number}" for number in range(1, count + 1)})
        return name


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "studies")


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., cases.LabelledCase]:
    """Makes a case of voxels, each with its affine, or of a file."""

    def make(
        image: np.ndarray | Path,
        labels: np.ndarray | Path,
        affine: np.ndarray = AFFINE,
        label_affine: np.ndarray | None = None,
        names: dict[int, str] | None = None,
        name: str = "scan",
    ) -> cases.LabelledCase:
        def file(data: np.ndarray | Path, kind: str, grid: np.ndarray) -> Path:
            if isinstance(data, Path):
                return data
            path = tmp_path / f"{name}-{kind}.nii.gz"
            nib.save(nib.Nifti1Image(data, grid), path)
            return path

        grid = affine if label_affine is None else label_affine
        pair = Pair(name, file(image, "image", affine), file(labels, "label", grid), names or {})
        return cases.LabelledCase(name, name, pair, fingerprint(pair))

    return make


@pytest.fixture
def cached(case, tmp_path: Path) -> Callable[..., slices.CachedCase]:
    """Makes a case as `case` does and caches it."""
    return lambda *given, **more: slices.cache_case(case(*given, **more), tmp_path / "cache")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with weights at random, which finds something."""
    torch.manual_seed(1)
    net = network.build(SMALL)
    net.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10.0)
    path = tmp_path_factory.mktemp("base") / "small.safetensors"
    save_checkpoint(path, net.state_dict(), SMALL)
    return path


@pytest.fixture
def versions(tmp_path: Path, base: Path) -> Versions:
    return Versions.of(tmp_path / "versions", base)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, and none that take long to make."""
    monkeypatch.setattr(training, "SAMPLES_AN_EPOCH", 6)
    monkeypatch.setattr(samples, "REHEARSED", 0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def judged(made: task.FinetuneTask, verdict: gate.Verdict) -> task.FinetuneTask:
    """Have a task give a verdict without measuring anything."""

    def choose(served: Path, held_out: Any, prepared: Path) -> tuple[float, gate.Verdict]:
        shutil.copyfile(made.runs / training.CURRENT / training.CANDIDATE, prepared / training.CANDIDATE)
        return 1.0, verdict

    made._choose = choose  # type: ignore[method-assign]
    return made


@pytest.fixture
def train(versions: Versions, small: None) -> Callable[..., task.FinetuneTask]:
    """Makes a train task; one that has a `verdict` does not measure."""

    def make(verdict: gate.Verdict | None = None, registry: Any = None, keep: int = 10) -> task.FinetuneTask:
        made = task.FinetuneTask(versions, registry or NoRegistry(), "cpu", keep=keep, code="test")
        if verdict is not None:
            judged(made, verdict)
        return made

    return make


def label_three(studies: Studies) -> LocalDatastore:
    """Two patients to learn from and one that is held out."""
    for seed, name in enumerate([*patients(2, False), *patients(1, True)]):
        studies.add(name, seed)
    return studies.datastore()


@pytest.fixture
def labelled(studies: Studies) -> LocalDatastore:
    return label_three(studies)
