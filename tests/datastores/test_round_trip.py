"""Image and label -> PACS -> training list: the same voxels on the same grid, and every slice there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from lib.errors import UserError
from lib.imaging.answer import write_mask
from lib.imaging.readers.dicom_layout import read_layout
from lib.imaging.seg.segments import Segment
from lib.imaging.seg.write import Algorithm, write_seg
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window

NAMES = {"label_info": [{"name": "liver", "idx": 1, "color": [10, 200, 30]}, {"name": "tumour", "idx": 3}]}


def _lps(angles: tuple[float, ...], spacing: tuple[float, float, float], shear: float = 0.0) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    lps[:3, 2] += shear * lps[:3, 1]
    lps[:3, 3] = (-31.5, 17.25, 102.125)
    return lps


GRIDS = {
    "axial": _lps((0, 0, 0), (0.7, 0.9, 3.0)),
    "descending": _lps((0, 0, 0), (0.7, 0.9, -3.0)),
    "sagittal": _lps((90, 0, 90), (0.7, 0.9, 3.0)),
    "oblique": _lps((21, -13, 34), (0.7, 0.9, 3.0)),
    "tilted": _lps((0, 0, 0), (0.7, 0.9, 3.0), shear=1.1),
}


def _labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Two structures in the middle slices, none in the first and the last ones."""
    labels = np.zeros(shape, np.uint8)
    middle = max(0, shape[2] // 2 - 1)
    labels[2:9, 3:12, middle : middle + 2] = 1
    labels[9:14, 6:9, middle] = 3
    return labels


def _label_file(labels: np.ndarray, image: str | Path, folder: Path, extension: str = ".nii.gz") -> str:
    return str(write_mask(labels, load_volume(image), extension, folder=folder))


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("grid", list(GRIDS))
def test_what_was_labelled_is_what_is_trained_on(archive, connect, write_series, tmp_path, grid, modality):
    series = write_series("patient", lps=GRIDS[grid], modality=modality)
    archive.add(series.folder)
    datastore = connect(archive.url)
    assert datastore.list_images() == [series.uid] and datastore.get_labeled_images() == []
    image = load_volume(datastore.get_image_uri(series.uid))
    labels = _labels(image.shape3)
    file = _label_file(labels, datastore.get_image_uri(series.uid), tmp_path)
    assert datastore.save_label(series.uid, file, "final", dict(NAMES)) == series.uid

    shutil.rmtree(tmp_path / "cache")
    datastore = connect(archive.url)
    assert datastore.get_labeled_images() == [series.uid] and datastore.get_unlabeled_images() == []
    (case,) = datastore.datalist()
    again, label = load_volume(case["image"]), load_volume(case["label"])
    np.testing.assert_array_equal(label.voxels, labels)
    np.testing.assert_array_equal(again.voxels, image.voxels)
    np.testing.assert_array_equal(label.affine, again.affine)
    np.testing.assert_array_equal(again.affine, image.affine)
    # and both are the series itself
    direct = load_volume(series.folder)
    np.testing.assert_array_equal(again.voxels, direct.voxels)
    np.testing.assert_allclose(again.affine, direct.affine, atol=1e-5)
    found = datastore.get_label_info(series.uid, "final")["label_info"]
    assert found == [{"name": "liver", "idx": 1}, {"name": "tumour", "idx": 3}]


def test_a_cine_goes_there_and_back(archive, connect, cine, tmp_path):
    uid = archive.add(cine)
    datastore = connect(archive.url)
    image = load_volume(datastore.get_image_uri(uid))
    assert (image.voxels.shape, image.modality) == ((100, 100, 2, 3), "US")
    np.testing.assert_array_equal(image.voxels, load_volume(cine).voxels)
    labels = np.zeros(image.shape3, np.uint8)
    labels[20:40, 10:30, 1] = 1
    datastore.save_label(uid, _label_file(labels, datastore.get_image_uri(uid), tmp_path), "final", {})
    shutil.rmtree(tmp_path / "cache")
    (case,) = connect(archive.url).datalist()
    np.testing.assert_array_equal(load_volume(case["label"]).voxels, labels)


def test_the_converted_image_has_the_voxel_order_that_itk_gives_it(archive, connect, write_series):
    series = write_series("patient", lps=GRIDS["oblique"])
    archive.add(series.folder)
    voxels = np.asarray(nib.load(connect(archive.url).get_image_uri(series.uid)).dataobj)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series.folder))
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(sitk.ReadImage(names)).transpose(2, 1, 0))


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "XA", "DX", "PT"])
def test_an_image_of_the_pacs_is_shown_in_the_window_of_its_tags(archive, connect, write_series, modality):
    series = write_series("patient", modality=modality)
    archive.add(series.folder)
    datastore = connect(archive.url)
    assert datastore.list_images() == [series.uid]
    volume, direct = load_volume(datastore.get_image_uri(series.uid)), load_volume(series.folder)
    assert (volume.modality, volume.window, volume.kind) == (modality, (300.0, 500.0), "dicom")
    assert choose_window(volume) == choose_window(direct)
    assert volume.slice_axis == direct.slice_axis


def test_a_missing_slice_and_a_tilt_are_said(archive, connect, write_series):
    series = write_series("patient", lps=GRIDS["tilted"], skip=(3,))
    archive.add(series.folder)
    volume = load_volume(connect(archive.url).get_image_uri(series.uid))
    assert volume.n_slices == 7
    missing, tilted = volume.warnings
    assert missing.startswith("1 slice is missing (a gap after slice 2, counted from 0,")
    assert tilted.startswith("The gantry was tilted by 18.3 degrees")


def test_a_label_by_dcmqi_is_found_and_nothing_of_it_is_lost(archive, connect, write_series, tmp_path):
    """As MONAI Label, 3D Slicer and others store it: without the empty slices."""
    series = write_series("patient", lps=GRIDS["oblique"])
    archive.add(series.folder)
    image = connect(archive.url).get_image_uri(series.uid)
    labels = _labels((21, 17, 8))
    labels[labels == 3] = 2
    _label_file(labels, image, tmp_path)
    (file,) = tmp_path.glob("mask-*")
    code = {"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Liver"}
    attributes = [
        {
            "labelID": n,
            "SegmentLabel": f"thing {n}",
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code,
            "SegmentedPropertyTypeCodeSequence": code,
        }
        for n in (1, 2)
    ]
    meta = {"SeriesDescription": "x", "SeriesNumber": "300", "InstanceNumber": "1"}
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "segmentAttributes": [attributes]}))
    program = Path(sys.executable).parent / "itkimage2segimage"
    command = [program, "--inputImageList", file, "--inputDICOMDirectory", series.folder]
    command += ["--outputDICOM", tmp_path / "theirs.dcm", "--inputMetadata", tmp_path / "meta.json"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert pydicom.dcmread(tmp_path / "theirs.dcm").NumberOfFrames == 3
    archive.add(tmp_path / "theirs.dcm")
    datastore = connect(archive.url)
    (case,) = datastore.datalist()
    np.testing.assert_array_equal(load_volume(case["label"]).voxels, labels)
    assert load_volume(case["label"]).shape3 == load_volume(case["image"]).shape3
    assert datastore.get_labels_by_image_id(series.uid) == {"final": series.uid}


def _their_seg(series, labels: np.ndarray, when: str) -> pydicom.Dataset:
    seg = write_seg(labels, read_layout(series.folder), [Segment(1, "a")], Algorithm("other", "1"))
    seg.ContentDate, seg.ContentTime = when.split()
    return seg


def test_the_newest_label_counts_and_replaces_an_older_one_here(archive, connect, write_series, tmp_path):
    series = write_series("patient")
    archive.add(series.folder)
    old, new = np.zeros((2, 21, 17, 8), np.uint8)
    old[1:3, 1:3, 1], new[5:9, 5:9, 5] = 1, 1
    # stored in the other order
    for name, labels, when in (("new", new, "20300102 120000"), ("old", old, "20300102 110000.5")):
        _their_seg(series, labels, when).save_as(tmp_path / f"{name}.dcm", write_like_original=False)
        archive.add(tmp_path / f"{name}.dcm")
    datastore = connect(archive.url)
    path = datastore.get_label_uri(series.uid, "final")
    np.testing.assert_array_equal(load_volume(path).voxels, new)

    latest = np.zeros_like(new)
    latest[1:15, 2:3, 2] = 1
    _their_seg(series, latest, "20310102 110000").save_as(tmp_path / "x.dcm", write_like_original=False)
    archive.add(tmp_path / "x.dcm")
    np.testing.assert_array_equal(
        load_volume(connect(archive.url).get_label_uri(series.uid, "final")).voxels, latest
    )


def test_a_label_that_names_images_and_not_their_series_is_found(archive, connect, write_series, tmp_path):
    series = write_series("patient")
    archive.add(series.folder)
    labels = np.zeros((21, 17, 8), np.uint8)
    labels[4:9, 5:9, 5] = 1
    seg = _their_seg(series, labels, "20300102 120000")
    del seg.ReferencedSeriesSequence
    seg.save_as(tmp_path / "seg.dcm", write_like_original=False)
    archive.add(tmp_path / "seg.dcm")
    path = connect(archive.url).get_label_uri(series.uid, "final")
    np.testing.assert_array_equal(load_volume(path).voxels, labels)


def test_the_label_that_was_saved_here_is_not_fetched_again(proxy, connect, write_series, tmp_path):
    series = write_series("patient")
    proxy.archive.add(series.folder)
    datastore = connect(proxy.url)
    labels = _labels((21, 17, 8))
    file = _label_file(labels, datastore.get_image_uri(series.uid), tmp_path)
    datastore.save_label(series.uid, file, "final", dict(NAMES))
    proxy.asked.clear()
    (case,) = datastore.datalist()
    np.testing.assert_array_equal(load_volume(case["label"]).voxels, labels)
    assert not [asked for asked in proxy.asked if "/instances/" in asked]


def test_the_stored_seg_says_what_it_is(archive, connect, write_series, tmp_path):
    series = write_series("patient")
    archive.add(series.folder)
    datastore = connect(archive.url)
    file = _label_file(_labels((21, 17, 8)), datastore.get_image_uri(series.uid), tmp_path)
    datastore.save_label(series.uid, file, "final", dict(NAMES))
    (seg,) = archive.segs()
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["liver", "tumour"]
    assert {item.SegmentAlgorithmName for item in seg.SegmentSequence} == {"test"}
    assert seg.NumberOfFrames == 2 * 8 and seg.PatientID == "patient"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series.uid


@pytest.mark.parametrize("kind", [".nii.gz", ".nrrd", ".bin"])
def test_labels_of_every_client_are_taken(archive, connect, write_series, tmp_path, kind):
    series = write_series("patient", lps=GRIDS["oblique"])
    archive.add(series.folder)
    datastore = connect(archive.url)
    labels = _labels((21, 17, 8))
    if kind == ".bin":
        file = str(tmp_path / "label.bin")
        Path(file).write_bytes(labels.tobytes(order="F"))
    else:
        file = _label_file(labels, datastore.get_image_uri(series.uid), tmp_path, kind)
    datastore.save_label(series.uid, file, "final", dict(NAMES))
    shutil.rmtree(tmp_path / "cache")
    path = connect(archive.url).get_label_uri(series.uid, "final")
    np.testing.assert_array_equal(load_volume(path).voxels, labels)


def test_a_label_on_a_shortened_grid_is_put_onto_the_images(archive, connect, write_series, tmp_path):
    """MONAI Label's own label of two slices, from before: it must not become the whole image's grid."""
    series = write_series("patient", lps=GRIDS["axial"])
    archive.add(series.folder)
    datastore = connect(archive.url)
    labels = _labels((21, 17, 8))
    image = nib.load(datastore.get_image_uri(series.uid))
    cropped = image.affine.copy()
    cropped[:3, 3] = (image.affine @ [0, 0, 3, 1])[:3]
    nib.save(nib.Nifti1Image(labels[:, :, 3:5], cropped), tmp_path / "short.nii.gz")
    datastore.save_label(series.uid, str(tmp_path / "short.nii.gz"), "final", dict(NAMES))
    np.testing.assert_array_equal(load_volume(datastore.get_label_uri(series.uid, "final")).voxels, labels)

    cropped[:3, 3] += 5000
    nib.save(nib.Nifti1Image(labels[:, :, 3:5], cropped), tmp_path / "away.nii.gz")
    with pytest.raises(UserError, match="lies outside the image"):
        datastore.save_label(series.uid, str(tmp_path / "away.nii.gz"), "final", {})
    assert len(archive.segs()) == 1


def test_a_model_s_answer_stays_here_and_is_no_final_label(archive, connect, write_series, tmp_path):
    series = write_series("patient")
    archive.add(series.folder)
    datastore = connect(archive.url)
    labels = _labels((21, 17, 8))
    file = _label_file(labels, datastore.get_image_uri(series.uid), tmp_path)
    datastore.save_label(series.uid, file, "original", {"params": {"label_names": {"liver": 1}}})
    assert datastore.get_labels_by_image_id(series.uid) == {"original": series.uid}
    np.testing.assert_array_equal(load_volume(datastore.get_label_uri(series.uid, "original")).voxels, labels)
    assert datastore.get_labeled_images() == [] and archive.segs() == []
    assert datastore.get_label_uri(series.uid, "final") == ""


def test_every_kind_of_picture_is_listed_and_nothing_else(archive, connect, write_series, cine):
    uids = {m: archive.add(write_series(m, modality=m).folder) for m in ("CT", "MR", "XA", "NM", "CR")}
    uids["US"] = archive.add(cine)
    for other in ("SR", "PR"):
        archive.add(write_series(other, modality=other).folder)
    assert sorted(connect(archive.url).list_images()) == sorted(uids.values())
    assert connect(archive.url, filters={"Modality": "XA"}).list_images() == [uids["XA"]]


def test_a_series_that_has_just_come_in_is_listed_within_seconds(archive, connect, write_series, monkeypatch):
    monkeypatch.setattr("lib.datastores.kept.SECONDS", 0.1)
    monkeypatch.setattr("lib.datastores.kept.SHARE", 0.0)
    datastore = connect(archive.url)
    assert datastore.list_images() == []
    uid = archive.add(write_series("patient").folder)
    import time

    time.sleep(0.15)
    assert datastore.list_images() == [uid]
    assert datastore.status()["total"] == 1


def test_a_long_list_is_read_page_by_page(connect):
    datastore = connect("http://127.0.0.1:9/dicom-web")
    items = [
        {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [f"1.2.{n}"]}, "00080060": {"Value": ["CT"]}}
        for n in range(130)
    ]

    def limited(search_filters, offset=None):
        return items[offset or 0 :][:60]

    datastore._pacs.client.search_for_series = limited
    assert len(datastore.list_images()) == 130
    datastore._catalogue.changed()
    datastore._pacs.client.search_for_series = lambda search_filters, offset=None: items[:60]  # no offset
    assert len(datastore.list_images()) == 60


def test_a_series_that_was_still_coming_in_is_fetched_again(archive, connect, write_series, tmp_path):
    series = write_series("patient")
    late = series.files.pop()
    kept = late.read_bytes()
    late.unlink()
    archive.add(series.folder)
    datastore = connect(archive.url)
    assert load_volume(datastore.get_image_uri(series.uid)).n_slices == 7
    labels = _labels((21, 17, 7))
    file = _label_file(labels, datastore.get_image_uri(series.uid), tmp_path)
    datastore.save_label(series.uid, file, "final", dict(NAMES))
    late.write_bytes(kept)
    archive.add(late)
    datastore._catalogue.changed()
    (case,) = datastore.datalist()
    assert load_volume(case["image"]).n_slices == 8
    whole = np.concatenate([labels, np.zeros((21, 17, 1), np.uint8)], axis=2)
    np.testing.assert_array_equal(load_volume(case["label"]).voxels, whole)


def test_a_series_of_two_pictures_of_different_size_is_refused_plainly(archive, connect, write_series):
    series = write_series("patient", skip=(1, 2, 3, 4, 5, 6, 7))
    small = pydicom.dcmread(series.files[0])
    small.Rows, small.PixelData = 8, small.PixelData[: 8 * 21 * 2]
    small.SOPInstanceUID = small.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    small.save_as(series.folder / "small.dcm")
    archive.add(series.folder)
    datastore = connect(archive.url)
    with pytest.raises(UserError, match="2 different sizes"):
        datastore.get_image_uri(series.uid)
    assert datastore.list_images() == [series.uid]
