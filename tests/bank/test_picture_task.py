"""Structures on single pictures: the same that `biosam2_auto` finds in a file of the datastore."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lib.imaging import runs
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window, to_uint8
from lib.infers.auto_task import AutoTask
from lib.infers.picture_task import PictureTask
from lib.settings import Settings
from lib.streams.pictures import Pictures

K = 4  # the slice that becomes a picture


@pytest.fixture
def task(slot, bank) -> PictureTask:
    return PictureTask(AutoTask(slot, Settings(), bank), Pictures(1 << 24, 30))


@pytest.fixture
def picture(site, tmp_path: Path) -> Path:
    """A slice of a patient, as a screen shows it."""
    volume = load_volume(site.path(1))
    path = tmp_path / "slice.png"
    Image.fromarray(to_uint8(volume.plane(K, 2), choose_window(volume)).T).save(path)
    return path


def test_structures_are_found_as_in_a_file(task, site, picture, dice):
    site.label(0)
    found = task.detect(task.pictures.add(picture.read_bytes()), {})["found"]
    file, params = task.auto({"image": str(picture), "result_extension": ".nii.gz"})
    labels = np.asarray(nib.load(file).dataobj)[..., 0]
    assert {one["label"]: one["index"] for one in found} == params["label_names"] == {"liver": 1, "spleen": 2}
    for one in found:
        mask = runs.decode(one["mask"], labels.shape)
        assert np.array_equal(mask, labels == one["index"])
        assert one["score"] == params["score"][one["label"]]
        assert dice(mask, site.truth(1)[..., K] == one["index"]) > 0.7


def test_some_structures_and_sure_ones(task, site, picture):
    site.label(0)
    added = task.pictures.add(picture.read_bytes())
    (spleen,) = task.detect(added, {"labels": ["spleen"]})["found"]
    assert spleen["label"] == "spleen" and spleen["index"] == 2
    assert task.detect(added, {"threshold": spleen["score"] + 0.001, "labels": ["spleen"]}) == {"found": []}
