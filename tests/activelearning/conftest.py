"""A folder of images without content, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.scores import INFO, CaseScore, StructureScore
from lib.server.datastore import Folder

IMAGES = 12


@pytest.fixture
def datastore(tmp_path: Path) -> LocalDatastore:
    """MONAI Label's own, with the images `image0` to `image11`."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for n in range(IMAGES):
        (folder / f"image{n}.nii.gz").write_bytes(b"x")
    return Folder(str(folder))


@pytest.fixture
def label(datastore: LocalDatastore, tmp_path: Path) -> Callable[..., None]:
    """Saves a label as MONAI Label does, without telling anybody."""
    file = tmp_path / "label.nii.gz"
    file.write_bytes(b"y")

    def save(image: str, tag: str = "final") -> None:
        datastore.save_label(image, str(file), tag, {})

    return save


def score_of(number: int, length: int = 4) -> CaseScore:
    """Embeddings that go round in a circle."""
    angle = number / IMAGES * 2 * np.pi
    vector = np.zeros(length, np.float32)
    vector[:2] = np.cos(angle), np.sin(angle)
    return CaseScore("key", vector, {"liver": StructureScore(number / IMAGES, 1.0)})


@pytest.fixture
def keep_scores(datastore: LocalDatastore) -> Callable[..., None]:
    """Writes scores into the info of images, as they are there when a server starts."""

    def keep(images: range, length: int = 4) -> None:
        for n in images:
            datastore.update_image_info(f"image{n}", {INFO: score_of(n, length).to_info()})

    return keep
