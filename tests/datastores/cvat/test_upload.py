"""Labels that other clients submit: into CVAT as masks, and back again to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cvat_sdk import Client, models
from cvat_sdk.core.client import PasswordCredentials
from cvat_sdk.masks import decode_mask
from PIL import Image

from lib.datastores.cvat.datastore import CvatDatastore
from lib.errors import Conflict, NotFound, UserError
from lib.imaging.volume import load_volume

from .conftest import HEIGHT, POLYP, TOOL, WIDTH, blob
from .double import NAME, PASSWORD, Cvat

Connect = Callable[..., CvatDatastore]
IMAGE = "task-1_frame-000004"
INFO = {"label_info": [{"name": "tool", "idx": 5}, {"name": "polyp", "idx": 2}]}


@pytest.fixture
def labels() -> np.ndarray:
    """(H, W): a polyp with a tool on it that begins in the corner of the picture."""
    found = 2 * blob().astype(np.uint8)
    found[:16, :18] = 5
    return found


def saved(labels: np.ndarray, folder: Path) -> str:
    path = folder / "label.png"
    Image.fromarray(labels).save(path)
    return str(path)


def test_a_final_label_becomes_masks_and_comes_back(
    cvat: Cvat, connect: Connect, labels: np.ndarray, tmp_path: Path
):
    datastore = connect(cvat)
    assert datastore.save_label(IMAGE, saved(labels, tmp_path), "final", INFO) == IMAGE
    made = cvat.tasks[1].shapes[-2:]
    assert {(one["label_id"], one["frame"], one["type"]) for one in made} == {
        (POLYP, 4, "mask"),
        (TOOL, 4, "mask"),
    }
    # the SDK's own decoder
    for one in made:
        expected = labels == {POLYP: 2, TOOL: 5}[one["label_id"]]
        assert np.array_equal(decode_mask(one["points"], image_width=WIDTH, image_height=HEIGHT), expected)
    # it is learnt from when the job is completed
    assert datastore.get_label_uri(IMAGE, "final") == ""
    cvat.tasks[1].jobs[2][2] = "completed"
    cvat.tasks[1].change(2)
    datastore.refresh()
    back = load_volume(Path(datastore.get_label_uri(IMAGE, "final"))).voxels[:, :, 0].T
    assert np.array_equal(back == 1, labels == 2) and np.array_equal(back == 2, labels == 5)


def test_the_sdk_s_model_takes_what_is_sent(
    current: Cvat, connect: Connect, labels: np.ndarray, tmp_path: Path
):
    connect(current).save_label(IMAGE, saved(labels, tmp_path), "final", INFO)
    with Client(current.url) as sdk:
        sdk.login(PasswordCredentials(NAME, PASSWORD))
        drawn = sdk.tasks.retrieve(1).get_annotations()
    assert isinstance(drawn, models.LabeledData)
    assert [shape.source for shape in drawn.shapes if shape.frame == 4] == ["semi-auto"] * 2


def test_what_somebody_drew_in_cvat_is_not_replaced(
    cvat: Cvat, connect: Connect, labels: np.ndarray, tmp_path: Path
):
    before = len(cvat.tasks[1].shapes)
    datastore = connect(cvat)
    with pytest.raises(Conflict, match="on frame 3 of task 1 something is drawn in CVAT"):
        datastore.save_label("task-1_frame-000003", saved(labels, tmp_path), "final", INFO)
    small = np.zeros((24, 32), np.uint8)
    small[3:5, 3:5] = 2
    with pytest.raises(Conflict, match="on frame 1 of task 2"):  # a track, between its key frames
        datastore.save_label("task-2_frame-000001", saved(small, tmp_path), "final", INFO)
    datastore.save_label("task-2_frame-000008", saved(small, tmp_path), "final", INFO)  # where it is outside
    assert len(cvat.tasks[1].shapes) == before and len(cvat.tasks[2].shapes) == 1


def test_a_structure_that_cvat_does_not_know_is_a_sentence(
    cvat: Cvat, connect: Connect, labels: np.ndarray, tmp_path: Path
):
    before = len(cvat.tasks[1].shapes)
    with pytest.raises(UserError, match='task 1 of CVAT has no label "stent": add it there, or take one of'):
        connect(cvat).save_label(
            IMAGE, saved(labels, tmp_path), "final", {"label_info": [{"name": "stent", "idx": 2}]}
        )
    assert len(cvat.tasks[1].shapes) == before
    with pytest.raises(NotFound, match="is not a frame of CVAT"):
        connect(cvat).save_label("../x", saved(labels, tmp_path), "final", INFO)


def test_other_labels_stay_here(current: Cvat, connect: Connect, labels: np.ndarray, tmp_path: Path):
    datastore = connect(current)
    datastore.save_label(IMAGE, saved(labels, tmp_path), "original", INFO)
    found = load_volume(Path(datastore.get_label_uri(IMAGE, "original"))).voxels[:, :, 0].T
    assert np.array_equal(found, labels)
    assert datastore.get_labels_by_image_id(IMAGE) == {"original": IMAGE}
    assert not any(asked.startswith("PATCH") for asked in current.asked)
    datastore.remove_label(IMAGE, "original")
    assert datastore.get_label_uri(IMAGE, "original") == ""
    with pytest.raises(UserError, match="is in CVAT: delete it there"):
        datastore.remove_label(IMAGE, "final")
    with pytest.raises(UserError, match="add and delete them there"):
        datastore.remove_image(IMAGE)
