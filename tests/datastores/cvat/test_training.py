"""Labels collected in CVAT are what a training, the bank of labels and `--conf retrain` have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import main
import numpy as np
import pytest
from monailabel.config import settings

from lib.bank.bank import LabelBank
from lib.datastores.cvat import connect as connecting
from lib.datastores.cvat.datastore import CvatDatastore
from lib.errors import Unavailable, UserError
from lib.trainers.finetune.cases import labelled_cases
from lib.trainers.finetune.slices import LABELS, PIXELS, cache_case
from lib.trainers.retrain.monai_label import FinalLabels

from .conftest import blob, pixels
from .double import NAME, PASSWORD, Cvat, shape

Connect = Callable[..., CvatDatastore]


def test_a_training_learns_from_what_was_drawn_pixel_for_pixel(cvat: Cvat, connect: Connect, tmp_path: Path):
    cases, left_out = labelled_cases(connect(cvat))
    assert {case.image: case.patient for case in cases} == {
        "task-1_frame-000000": "sub-01",
        "task-1_frame-000001": "sub-02",
        **{f"task-2_frame-{n:06d}": "task-2" for n in range(3)},
        "task-7_frame-000000": "task-7",
    }
    assert {one.image for one in left_out} == {
        *("task-1_frame-000002", "task-2_frame-000003", "task-2_frame-000004")
    }
    cell = next(case for case in cases if case.image == "task-7_frame-000000")
    cached = cache_case(cell, tmp_path / "slices")
    assert cached.structures == ["cell"]
    assert np.array_equal(np.load(cached.folder / LABELS)[0], blob().T)
    assert np.array_equal(np.load(cached.folder / PIXELS)[0], pixels(30).swapaxes(0, 1))
    # what has nothing to learn from was not downloaded
    assert not any("number=2" in asked for asked in cvat.asked if "/tasks/1/data" in asked)


def test_a_training_does_not_begin_without_the_archive(current: Cvat, connect: Connect):
    datastore = connect(current)
    labelled_cases(datastore)
    current.fault = "error"
    datastore.refresh()
    with pytest.raises(Unavailable):
        labelled_cases(datastore)


def test_retraining_counts_the_labels_that_are_new(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    count = FinalLabels(lambda: datastore)
    before = count()
    cvat.tasks[1].jobs[2][2] = "completed"
    cvat.tasks[1].shapes.append(shape("polygon", 4, 11, [1, 1, 9, 1, 9, 9, 1, 9]))
    cvat.tasks[1].change(2)
    datastore.refresh()
    after = count()
    assert set(after) - set(before) == {"task-1_frame-000003", "task-1_frame-000004"}
    assert all(after[image] == before[image] for image in before)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, current: Cvat, tmp_path: Path) -> Iterator[None]:
    """MONAI Label's settings for a CVAT."""
    names = {
        "MONAI_LABEL_DATASTORE": "CVAT",
        "MONAI_LABEL_DATASTORE_URL": "",
        "MONAI_LABEL_DATASTORE_USERNAME": NAME,
        "MONAI_LABEL_DATASTORE_PASSWORD": PASSWORD,
        "MONAI_LABEL_DATASTORE_PROJECT": "Endoscopy",
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(tmp_path / "kept"),
    }
    for name, value in names.items():
        monkeypatch.setattr(settings, name, value)
    yield


class App(main.BioSAM2App):
    """The app as far as its datastore."""

    def __init__(self, studies: str) -> None:
        self.studies = studies


@pytest.mark.usefixtures("environment")
def test_the_app_takes_its_images_from_cvat(current: Cvat, tmp_path: Path):
    app = App(current.url + "/")
    datastore = app.init_datastore()
    assert isinstance(datastore, CvatDatastore)
    assert len(datastore.list_images()) == 16
    assert app.is_known("task-2_frame-000001", datastore)
    assert not app.is_known("task-7_frame-000000", datastore)
    assert str(datastore.get_image_uri("task-2_frame-000001")).startswith(str(tmp_path / "kept"))


@pytest.mark.usefixtures("environment")
def test_a_folder_with_a_cvat_uses_the_address_in_the_environment_or_says_what_is_wrong(
    current: Cvat, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match="--studies must be CVAT's address"):
        connecting.connect("/data/images")
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_URL", current.url)
    assert len(connecting.connect("/data/images").list_images()) == 16


def test_the_bank_has_the_structures_that_were_drawn(current: Cvat, connect: Connect, tmp_path: Path):
    datastore = connect(current, "Endoscopy")
    bank = LabelBank(lambda: datastore, tmp_path / "bank")
    bank.refresh()
    assert bank.structures() == {"polyp": 1, "tool": 2}
    before = bank.fingerprint
    current.tasks[1].shapes[2] = shape("polygon", 1, 12, [1, 1, 9, 1, 9, 9, 1, 9])
    current.tasks[1].change(1)
    datastore.refresh()
    bank.refresh()
    assert bank.fingerprint != before
