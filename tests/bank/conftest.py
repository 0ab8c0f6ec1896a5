"""Patients of one anatomy in a real datastore, some of them labelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore

from lib.bank.bank import LabelBank
from lib.evaluation.anatomy import Anatomy
from lib.sam.model import ModelSlot

APP = Path(__file__).resolve().parents[2] / "apps" / "biosam2"
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
NAMES = {1: "liver", 2: "spleen"}


class Site:
    """A folder of patients; `label` submits what a person would have drawn, as Slicer does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.anatomy = folder / "studies", Anatomy(6, organs=2, shape=(64, 64, 8))
        self.folder.mkdir()
        for number in range(4):
            voxels = self.anatomy.patient(number).pixels
            nib.save(nib.Nifti1Image(voxels, AFFINE), self.folder / f"patient{number}.nii.gz")
        self._datastore: LocalDatastore | None = None

    def datastore(self) -> LocalDatastore:
        if self._datastore is None:
            self._datastore = LocalDatastore(str(self.folder), extensions=["*.nii.gz"], auto_reload=False)
        return self._datastore

    def path(self, number: int) -> Path:
        return self.folder / f"patient{number}.nii.gz"

    def truth(self, number: int) -> np.ndarray:
        return self.anatomy.patient(number).labels

    def label(self, number: int, names: dict[int, str] = NAMES, voxels: np.ndarray | None = None) -> None:
        sent = self.folder.parent / "sent.nii.gz"
        nib.save(nib.Nifti1Image(self.truth(number) if voxels is None else voxels, AFFINE), sent)
        listed = [{"name": name, "idx": index} for index, name in names.items()]
        self.datastore().save_label(f"patient{number}", str(sent), "final", {"label_info": listed})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def bank(site: Site, tmp_path: Path) -> LabelBank:
    return LabelBank(site.datastore, tmp_path / "bank")


@pytest.fixture(scope="session")
def slot() -> ModelSlot:
    """The default checkpoint."""
    return ModelSlot(APP / "model" / "biosam2_nano.safetensors", "cpu", 200_000_000)


@pytest.fixture
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda one, other: float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
