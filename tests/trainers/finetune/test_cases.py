"""Which labels of a datastore a training has, and who is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monailabel.interfaces.exception import ImageNotFoundException

from lib.errors import Unavailable
from lib.evaluation.datasets import Pair
from lib.trainers.finetune.cases import LabelledCase, labelled_cases, patient_of

from .conftest import Studies, scan


def of_patient(patient: str, image: str = "scan") -> LabelledCase:
    return LabelledCase(image, patient, Pair(image, Path("image"), Path("label")), "0" * 12)


def test_a_quarter_of_the_patients_is_held_out():
    share = np.mean([of_patient(f"patient {number}").held_out for number in range(4000)])
    assert 0.23 < share < 0.27


def test_all_images_of_a_patient_are_on_the_same_side():
    for patient in map(str, range(50)):
        assert len({of_patient(patient, f"image {n}").held_out for n in range(5)}) == 1


def test_who_is_held_out_never_changes():
    # a patient who has been trained on must never be measured on: these answers are for good
    assert [n for n in range(1, 13) if of_patient(f"sub-{n:02d}").held_out] == [2, 4, 7, 9, 12]


@pytest.mark.parametrize(
    ("image", "info", "patient"),
    [
        ("1.2.840.1", {"PatientID": "4711"}, "4711"),
        ("sub-07_T1w", {"PatientID": "4711"}, "4711"),
        ("sub-07_T1w", {"PatientID": ""}, "sub-07"),
        ("sub-07_ses-2_T2w", {}, "sub-07"),
        ("sub-07", {}, "sub-07"),
        ("sub-071_T1w", {}, "sub-071"),
        ("sub-07.T1w", {}, "sub-07.T1w"),
        ("my-sub-07_T1w", {}, "my-sub-07_T1w"),
        ("liver_12", {"patient": 12}, "12"),
        ("liver_12", {}, "liver_12"),
    ],
)
def test_whose_image_it_is(image: str, info: dict, patient: str):
    assert patient_of(image, info) == patient


def test_labels_as_slicer_saves_them(studies: Studies):
    studies.image("scan_1", scan()[0])
    studies.image("scan_2", scan(1)[0])
    info = [{"name": "caudate", "idx": 1, "color": [1, 2, 3]}, {"name": "putamen", "idx": 300}]
    studies.label("scan_1", scan()[1], info={"label_info": info})
    cases, left_out = labelled_cases(studies.datastore())
    assert not left_out
    (case,) = cases  # the other image has no label
    assert (case.image, case.patient) == ("scan_1", "scan_1")
    assert case.pair.names == {1: "caudate", 300: "putamen"}
    assert case.pair.image == (studies.folder / "scan_1.nii.gz").resolve()
    assert case.pair.label == (studies.folder / "labels" / "final" / "scan_1.nii.gz").resolve()


def test_names_of_a_label_that_an_infer_task_made(studies: Studies):
    studies.image("scan", scan()[0])
    studies.label("scan", scan()[1], info={"params": {"label_names": {"liver": 1}}})
    (case,), _ = labelled_cases(studies.datastore())
    assert case.pair.names == {1: "liver"}


@pytest.mark.parametrize(
    "info", [{"label_info": [{"name": "a", "idx": "first"}]}, {"label_info": [{"name": "a", "idx": None}]}]
)
def test_a_note_that_nobody_understands_stops_nothing(studies: Studies, info: dict):
    studies.image("scan", scan()[0])
    studies.label("scan", scan()[1], info=info)
    (case,), left_out = labelled_cases(studies.datastore())
    assert case.pair.names == {} and not left_out


def test_another_label_is_another_case(studies: Studies):
    image, labels = scan()
    studies.image("scan", image)
    studies.label("scan", labels)
    (first,), _ = labelled_cases(studies.datastore())
    labels[0, 0, 0] = 1
    studies.label("scan", labels)
    (second,), _ = labelled_cases(studies.datastore())
    assert first.sha256 != second.sha256


def test_a_deleted_image_and_a_deleted_label_are_left_out(studies: Studies):
    for seed, name in enumerate(("kept", "no_image", "no_label")):
        studies.add(name, seed)
    datastore = studies.datastore()
    (studies.folder / "no_image.nii.gz").unlink()
    (studies.folder / "labels" / "final" / "no_label.nii.gz").unlink()
    cases, left_out = labelled_cases(datastore)
    assert [case.image for case in cases] == ["kept"]
    assert {one.image: one.reason for one in left_out}["no_image"] == (
        "image no_image was deleted; its label is still there."
    )
    (reason,) = [one.reason for one in left_out if one.image == "no_label"]
    assert "no_label.nii.gz" in reason and reason.endswith("does not exist.")


def test_what_the_datastore_does_not_know_any_more_is_left_out(studies: Studies, monkeypatch):
    studies.add("scan")
    datastore = studies.datastore()

    def gone(image: str) -> str:
        raise ImageNotFoundException(f"Image {image} not found")

    monkeypatch.setattr(datastore, "get_image_uri", gone)
    cases, (one,) = labelled_cases(datastore)
    assert not cases and one.reason == "Image scan not found"


def test_an_archive_that_does_not_answer_stops_it(studies: Studies, monkeypatch):
    studies.add("one")
    studies.add("two")
    datastore = studies.datastore()

    def silent(image: str) -> str:
        raise Unavailable("The PACS does not answer.")

    monkeypatch.setattr(datastore, "get_image_uri", silent)
    with pytest.raises(Unavailable):
        labelled_cases(datastore)
