"""Labelled images are found in the layouts that people have, and read on one grid or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore
from PIL import Image

from lib.errors import NotFound, UserError
from lib.evaluation.datasets import Pair, find_pairs, stem
from lib.evaluation.study import fingerprint, read_study

SHAPE = (6, 5, 4)


def write(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(SHAPE, np.uint8) if array is None else array
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1]) if affine is None else affine), path)
    return path


def labels(*values: int, shape=SHAPE) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array.flat[: len(values)] = values
    return array


def test_monai_labels_own_datastore_is_read_with_the_names_it_noted(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.nii.gz")
    store = LocalDatastore(str(tmp_path), extensions=["*.nii.gz"])
    label = write(tmp_path / "sent" / "label.nii.gz", labels(1, 2))
    # as Slicer's module sends it, and as an infer task's answer is saved
    sent = [{"name": "liver", "idx": 2}, {"name": "x", "idx": 1}]
    store.save_label("a", str(label), "final", {"label_info": sent})
    store.save_label("b", str(label), "final", {"params": {"label_names": {"spleen": 1}}})
    store.save_label("c", str(label), "original", {})
    found = find_pairs(tmp_path)
    assert found.layout == "MONAI Label"
    assert [(p.name, p.names) for p in found.pairs] == [("a", {1: "x", 2: "liver"}), ("b", {1: "spleen"})]
    assert found.pairs[0].label == tmp_path / "labels" / "final" / "a.nii.gz"
    assert found.unlabelled == 1
    names = [s.name for s in read_study(found.pairs[1]).structures()]
    assert names == ["spleen", "label 2"]


def test_a_labels_ending_may_differ_and_an_image_may_be_a_folder_of_dicom_files(tmp_path):
    write(tmp_path / "scan.nii.gz")
    (tmp_path / "1.2.840").mkdir()
    write(tmp_path / "labels" / "final" / "scan.nii")
    write(tmp_path / "labels" / "final" / "1.2.840.nii.gz")
    pairs = find_pairs(tmp_path).pairs
    assert [(p.image.name, p.label.name) for p in pairs] == [
        ("1.2.840", "1.2.840.nii.gz"),
        ("scan.nii.gz", "scan.nii"),
    ]


def decathlon(folder: Path, **more) -> None:
    about = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [
            {"image": "./imagesTr/liver_2.nii.gz", "label": "./labelsTr/liver_2.nii.gz"},
            {"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"},
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(about | more))


def test_the_decathlons_list_gives_files_names_and_modality(tmp_path):
    decathlon(tmp_path)
    hounsfield = np.full(SHAPE, 40, np.int16)
    hounsfield[0, 0, 0] = 1000
    for number in (1, 2):
        write(tmp_path / "imagesTr" / f"liver_{number}.nii.gz", hounsfield)
        write(tmp_path / "labelsTr" / f"liver_{number}.nii.gz", labels(1, 2, 2))
    found = find_pairs(tmp_path)
    assert [p.name for p in found.pairs] == ["liver_1", "liver_2"]
    study = read_study(found.pairs[0])
    assert [(s.name, s.value) for s in study.structures()] == [("liver", 1), ("tumour", 2)]
    assert [s.name for s in study.structures(["tumour"])] == ["tumour"]
    assert [s.name for s in study.structures(["1"])] == ["liver"]
    assert (study.window.low, study.window.high) == (-160, 240)  # a CT's: without the list it could not tell
    assert study.truth(study.structures()[1]).sum() == 2


def test_nnunets_folders_need_no_list(tmp_path):
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "core": 1, "whole": [1, 2]}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    for channel in (0, 1):
        write(tmp_path / "imagesTr" / f"case_000{channel}.nii.gz")
    write(tmp_path / "labelsTr" / "case.nii.gz")
    (pair,) = find_pairs(tmp_path).pairs
    assert pair.image.name == "case_0000.nii.gz" and pair.label.name == "case.nii.gz"
    assert pair.names == {1: "core"} and pair.modality == "MR"


def test_two_folders_pair_files_of_the_same_name(tmp_path):
    for name in ("a.png", "b_0000.png", "c.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "images" / name)
    for name in ("a.png", "b.png", "d.png"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / "masks" / name)
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    names = [(p.image.name, p.label.name) for p in found.pairs]
    assert names == [("a.png", "a.png"), ("b_0000.png", "b.png")]
    assert found.unlabelled == 1
    study = read_study(found.pairs[0])
    assert [(s.name, s.value) for s in study.structures()] == [("label 255", 255)]
    assert [s.name for s in study.structures(["nucleus=255"])] == ["nucleus"]
    assert study.truth(study.structures()[0]).shape == (1, 6, 4)  # one slice, x before y


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("A.NII.GZ", "A"), ("a.gz", "a.gz"), ("x.dcm", "x"), ("y", "y")],
)
def test_a_stem_is_the_name_without_the_formats_ending(name, expected):
    assert stem(Path("/nowhere") / name) == expected


def test_a_folder_without_pairs_says_what_is_wanted(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        find_pairs(tmp_path / "lost")
    with pytest.raises(NotFound, match="say where the labels are"):
        find_pairs(tmp_path)
    write(tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "labels" / "b.nii.gz")
    with pytest.raises(NotFound, match="names must be the same"):
        find_pairs(tmp_path / "images", tmp_path / "labels")


def test_two_files_with_one_name_are_not_chosen_from(tmp_path):
    write(tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "labels" / "a.nii.gz")
    write(tmp_path / "labels" / "a.nii")
    with pytest.raises(UserError, match="a.nii and a.nii.gz .* have the same name"):
        find_pairs(tmp_path / "images", tmp_path / "labels")


@pytest.mark.parametrize("text", ["{", "[]", '{"training": [{"label": "x"}]}', '{"training": 3}'])
def test_a_damaged_list_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError):
        find_pairs(tmp_path)


def refused(tmp_path: Path, image: Path, label: Path) -> str:
    with pytest.raises(UserError) as error:
        read_study(Pair("case", image, label))
    return str(error.value)


def test_a_label_that_is_listed_but_missing_is_named(tmp_path):
    image = write(tmp_path / "image.nii.gz")
    text = "label 'lost.nii.gz' of image 'image.nii.gz' does not exist."
    assert refused(tmp_path, image, tmp_path / "lost.nii.gz") == text


def test_a_label_of_another_shape_is_refused_with_both_shapes(tmp_path):
    image = write(tmp_path / "image.nii.gz")
    label = write(tmp_path / "label.nii.gz", np.zeros((6, 5, 3), np.uint8))
    text = refused(tmp_path, image, label)
    assert text == "label 'label.nii.gz' has 6 x 5 x 3 voxels, its image 'image.nii.gz' 6 x 5 x 4 voxels."


def test_a_label_elsewhere_in_the_patient_is_refused_and_rounding_is_not(tmp_path):
    oblique = np.array([[0.9, 0.1, 0, 5], [-0.1, 0.9, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])
    image = write(tmp_path / "image.nii.gz", affine=oblique)
    moved = oblique.copy()
    moved[2, 3] += 4  # two slices
    text = refused(tmp_path, image, write(tmp_path / "moved.nii.gz", affine=moved))
    assert text == "label 'moved.nii.gz' lies up to 2.0 voxels beside its image 'image.nii.gz'."
    flipped = oblique @ np.diag([-1, 1, 1, 1])
    assert "lies up to" in refused(tmp_path, image, write(tmp_path / "flipped.nii.gz", affine=flipped))
    near = write(tmp_path / "near.nii.gz", affine=oblique + 1e-3 * np.eye(4))
    assert read_study(Pair("case", image, near)).count == 4


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
    image = write(tmp_path / "image.nii.gz")
    half = write(tmp_path / "half.nii.gz", np.full(SHAPE, 0.5, np.float32))
    assert "holds fractions" in refused(tmp_path, image, half)
    whole = write(tmp_path / "whole.nii.gz", labels(3).astype(np.float32))
    assert [s.value for s in read_study(Pair("case", image, whole)).structures()] == [3]
    for name, mode in (("grey.png", "L"), ("colour.png", "RGB")):
        Image.new(mode, (4, 6)).save(tmp_path / name)
    assert "colour picture" in refused(tmp_path, tmp_path / "grey.png", tmp_path / "colour.png")


def test_a_label_without_the_structure_is_refused_by_name(tmp_path):
    pair = Pair("case", write(tmp_path / "image.nii.gz"), write(tmp_path / "label.nii.gz"), {1: "liver"})
    with pytest.raises(UserError, match="label 'label.nii.gz' holds no structure"):
        read_study(pair).structures()
    write(pair.label, labels(1))
    with pytest.raises(UserError, match="label 'label.nii.gz' holds none of spleen, 7"):
        read_study(pair).structures(["spleen", "7"])


def test_slices_are_stacked_along_the_acquisition_axis(tmp_path):
    """Slices 3 mm apart along the first axis: (K, A, B) are axes 0, 1, 2; along the second, 1, 0, 2."""
    array = np.arange(120).reshape(SHAPE).astype(np.uint8)
    for axis, order in ((0, (0, 1, 2)), (1, (1, 0, 2))):
        spacing = np.ones(4)
        spacing[axis] = 3
        image = write(tmp_path / f"image{axis}.nii", array.astype(np.int16), np.diag(spacing))
        label = write(tmp_path / f"label{axis}.nii", array, np.diag(spacing))
        study = read_study(Pair("case", image, label))
        (structure,) = study.structures(["17"])
        np.testing.assert_array_equal(study.truth(structure), array.transpose(order) == 17)
        assert study.spacing == (3, 1, 1)
        assert study.plane(1).shape == study.truth(structure)[1].shape


def test_a_fingerprint_follows_the_content_not_the_name(tmp_path):
    image, label = write(tmp_path / "image.nii"), write(tmp_path / "label.nii")
    first = fingerprint(Pair("a", image, label))
    copy = write(tmp_path / "elsewhere" / "copy.nii")
    assert fingerprint(Pair("b", copy, label)) == first
    write(label, labels(1))
    assert fingerprint(Pair("a", image, label)) != first
