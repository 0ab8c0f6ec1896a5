"""`biosam2_auto`: from the first label on, real files in and out."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from lib.errors import Conflict, UserError
from lib.infers.auto_task import AutoTask
from lib.settings import Settings

from .conftest import AFFINE


@pytest.fixture
def auto(slot, bank) -> AutoTask:
    return AutoTask(slot, Settings(), bank)


def test_without_a_label_it_says_so(auto, site):
    with pytest.raises(Conflict, match="No image has a final label yet"):
        auto({"image": str(site.path(0))})
    assert auto.info()["labels"] == ["structure"]
    assert auto.info()["type"] == "segmentation"


def test_one_label_is_enough(auto, site, dice):
    site.label(0, {1: "liver", 2: "spleen"})
    file, params = auto({"image": str(site.path(1)), "result_extension": ".nii.gz"})
    answer = nib.load(file)
    found = np.asarray(answer.dataobj)
    assert answer.shape == site.truth(1).shape and np.allclose(answer.affine, AFFINE)
    assert params["label_names"] == {"liver": 1, "spleen": 2}
    assert set(np.unique(found)) <= {0, 1, 2}
    assert auto.info()["labels"] == {"liver": 1, "spleen": 2}
    assert dice(found == 2, site.truth(1) == 2) > 0.8
    assert 0 <= params["score"]["liver"] <= 1


def test_its_own_label_is_no_hint(auto, site):
    """What is submitted for an image changes nothing in its own answer."""
    site.label(0)
    first, _ = auto({"image": str(site.path(1)), "label": "spleen"})
    site.label(1)
    second, _ = auto({"image": str(site.path(1)), "label": "spleen"})
    assert np.array_equal(np.asarray(nib.load(first).dataobj), np.asarray(nib.load(second).dataobj))


def test_some_structures(auto, site):
    site.label(0)
    for asked in ({"label": "spleen"}, {"label_prompt": [2]}):
        file, params = auto({"image": str(site.path(1)), **asked})
        assert params["label_names"] == {"spleen": 2}
        assert set(np.unique(np.asarray(nib.load(file).dataobj))) <= {0, 2}
    with pytest.raises(UserError, match='label "kidney" is not one of liver, spleen'):
        auto({"image": str(site.path(1)), "label": "kidney"})
    with pytest.raises(UserError, match='label "7" is not one of'):
        auto({"image": str(site.path(1)), "label_prompt": [7]})


def test_slicer_gets_the_structures_numbered_without_a_gap(auto, site):
    indexes = {3: "liver", 7: "spleen"}
    site.label(0, indexes, np.array([0, *indexes], np.uint8)[site.truth(0)])
    request = {"image": str(site.path(1))}
    (file, params), (counted, said) = auto(request), auto({**request, "client_id": "user-xyz"})
    assert params["label_names"] == {"liver": 3, "spleen": 7}
    assert said["label_names"] == {"liver": 1, "spleen": 2}
    found, numbered = (np.asarray(nib.load(path).dataobj) for path in (file, counted))
    assert set(np.unique(found)) == {0, 3, 7}
    assert np.array_equal(numbered, np.array([0, 0, 0, 1, 0, 0, 0, 2])[found])
