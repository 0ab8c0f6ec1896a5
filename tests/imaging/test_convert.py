"""A DICOM series and the NIfTI made of it are the same image to everything that comes after."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pydicom
import pytest

from lib.errors import Unprocessable
from lib.imaging.convert import convert_series
from lib.imaging.readers.dicom_note import note_path, read_note
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _both(folder, tmp_path):
    convert_series(folder, tmp_path / "1.2.3.nii.gz")
    return load_volume(folder), load_volume(tmp_path / "1.2.3.nii.gz")


def test_voxels_grid_window_and_warnings_are_the_series_own(dicom_series, voxels, sheared, tmp_path):
    direct, converted = _both(dicom_series(voxels, sheared, skip=(1,)), tmp_path)
    np.testing.assert_array_equal(converted.voxels, direct.voxels)
    np.testing.assert_allclose(converted.affine, direct.affine, atol=1e-5)
    assert (converted.modality, converted.window, converted.slice_axis) == ("CT", (50.0, 350.0), 2)
    assert converted.kind == direct.kind == "dicom"
    assert converted.warnings == direct.warnings and len(direct.warnings) == 2
    assert choose_window(converted) == choose_window(direct)


def test_the_slice_axis_is_not_guessed_from_the_spacing(dicom_series, tmp_path):
    # wider apart in the slice than from slice to slice
    thin = np.diag([2.0, 0.9, 0.5, 1.0])
    direct, converted = _both(dicom_series(np.zeros((7, 9, 5), np.int16), LPS @ thin), tmp_path)
    assert converted.slice_axis == direct.slice_axis == 2


@pytest.mark.parametrize("name", ["SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_small_odd.dcm"])
def test_colour_stays_colour(pydicom_files, tmp_path, name):
    folder = tmp_path / "series"
    folder.mkdir()
    shutil.copy(pydicom_files / name, folder)
    direct, converted = _both(folder, tmp_path)
    seen = direct.voxels >> 8 if direct.voxels.dtype == np.uint16 else direct.voxels
    np.testing.assert_array_equal(converted.voxels, seen)


def test_8_bit_pictures_are_not_stretched(dicom_series, tmp_path):
    folder = dicom_series(np.random.default_rng(0).integers(50, 90, (7, 9, 5)).astype(np.int16), LPS)
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelData = dataset.pixel_array.astype(np.uint8).tobytes() + b"\0"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation, dataset.Modality = 7, 0, "US"
        del dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(file)
    direct, converted = _both(folder, tmp_path)
    assert choose_window(direct) == choose_window(converted)
    assert (choose_window(converted).low, choose_window(converted).high) == (0.0, 255.0)


def test_a_file_without_a_note_is_a_nifti_file_like_any_other(dicom_series, voxels, tmp_path):
    image = tmp_path / "1.2.3.nii.gz"
    assert convert_series(dicom_series(voxels, LPS), image) == read_note(image)
    note = json.loads(note_path(image).read_text())
    assert note["instances"] == 5
    for broken in ("", "[]", "{}", '{"window": 3}', json.dumps({**note, "window": "wide"})):
        note_path(image).write_text(broken)
        assert read_note(image) is None
    note_path(image).unlink()
    volume = load_volume(image)
    assert (volume.kind, volume.modality, volume.window) == ("nifti", "", None)


def test_a_series_that_is_no_volume_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unprocessable, match="without DICOM images"):
        convert_series(tmp_path / "empty", tmp_path / "x.nii.gz")
    assert not (tmp_path / "x.nii.gz").exists()
