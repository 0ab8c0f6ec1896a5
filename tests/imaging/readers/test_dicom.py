"""DICOM series and files lie where their tags say, in order along the normal."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from lib.errors import Unprocessable
from lib.imaging.volume import load_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("direction", [1, -1], ids=["ascending", "descending"])
def test_an_oblique_series_lies_where_its_tags_say(dicom_series, direction):
    from scipy.spatial.transform import Rotation

    voxels = np.random.default_rng(0).integers(0, 2000, (7, 9, 5)).astype(np.int16)
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", (21, -13, 34), degrees=True).as_matrix()
    lps[:3, :3] *= (0.7, 0.9, 3.0 * direction)
    lps[:3, 3] = (-31.5, 17.25, 102.125)
    volume = load_volume(dicom_series(voxels, LPS @ lps))
    # Slices go up along row x column, whichever way they were numbered.
    expected = voxels if direction == 1 else voxels[:, :, ::-1]
    np.testing.assert_array_equal(volume.voxels, expected - 1024)
    marked = np.array([6, 2, 4 if direction == 1 else 0, 1])
    np.testing.assert_allclose(volume.affine @ marked, LPS @ lps @ [6, 2, 4, 1], atol=1e-6)
    assert volume.spacing == pytest.approx((0.7, 0.9, 3.0))
    assert (volume.kind, volume.modality, volume.slice_axis) == ("dicom", "CT", 2)
    assert volume.window == (50.0, 350.0)


def test_a_series_has_the_geometry_that_itk_gives_it(dicom_series, voxels):
    folder = dicom_series(voxels, LPS @ np.diag([0.7, 0.9, 3.0, 1.0]))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    volume = load_volume(folder)
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    index = (3, 8, 2)
    world = volume.affine @ [*index, 1]
    np.testing.assert_allclose(LPS @ world, [*image.TransformIndexToPhysicalPoint(index), 1], atol=1e-6)


def test_a_16_bit_series_stays_16_bit_after_its_intercept(dicom_series, voxels):
    assert load_volume(dicom_series(voxels, LPS)).voxels.dtype == np.int16


def test_a_fractional_rescale_slope_gives_float32(dicom_series, voxels):
    volume = load_volume(dicom_series(voxels, LPS, RescaleSlope=0.25, RescaleIntercept=3))
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, voxels * 0.25 + 3)


def test_a_tilted_gantry_gives_a_sheared_affine(dicom_series, voxels):
    lps = np.diag([0.7, 0.9, 3.0, 1.0])
    lps[1, 2] = 1.0
    volume = load_volume(dicom_series(voxels, LPS @ lps))
    np.testing.assert_allclose(volume.affine, LPS @ lps, atol=1e-6)


def test_missing_slices_are_warned_of(dicom_series, voxels, caplog):
    folder = dicom_series(voxels, LPS @ np.diag([0.7, 0.9, 3.0, 1.0]), skip=(2,))
    with caplog.at_level(logging.WARNING):
        assert load_volume(folder).n_slices == 4
    assert "1 slice is missing (a gap after slice 1, counted from 0" in caplog.text


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        ((), ()),
        ((2,), ("1 slice is missing (a gap after slice 1, counted from 0, where slices are 3 mm apart)",)),
        ((2, 3, 6), ("3 slices are missing (a gap after slice 1, 3, counted from 0",)),
    ],
)
def test_the_volume_says_how_many_slices_are_missing(dicom_series, skip, said):
    voxels = np.zeros((7, 9, 12), np.int16)
    volume = load_volume(dicom_series(voxels, LPS @ np.diag([0.7, 0.9, 3.0, 1.0]), skip=skip))
    assert volume.n_slices == 12 - len(skip)
    assert len(volume.warnings) == len(said)
    assert all(warning.startswith(words) for warning, words in zip(volume.warnings, said, strict=True))


def test_slices_that_are_unevenly_spaced_are_said(multi_frame, voxels):
    volume = load_volume(multi_frame(voxels[:, :, :4], (0, 3, 6, 10)))
    assert volume.warnings[0].startswith("Slices are unevenly spaced, 3 to 4 mm apart")


@pytest.mark.parametrize("degrees", [-20, 12.5])
def test_the_tilt_of_the_gantry_is_said_and_kept(dicom_series, voxels, degrees):
    lps = np.diag([0.7, 0.9, 3.0, 1.0])
    lps[1, 2] = 3.0 * np.tan(np.radians(degrees))
    folder = dicom_series(voxels, LPS @ lps)
    volume = load_volume(folder)
    assert volume.warnings[0].startswith(f"The gantry was tilted by {abs(degrees):.3g} degrees")
    # where GDCM finds the corner of each slice
    for file in folder.iterdir():
        image = sitk.ReadImage(str(file))
        index = np.linalg.inv(volume.affine) @ LPS @ [*image.GetOrigin(), 1]
        np.testing.assert_allclose(index[:3], [0, 0, round(index[2])], atol=1e-4)


def test_a_time_series_is_refused(dicom_series, voxels):
    folder = dicom_series(voxels, LPS)
    for n, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"first{n}")
    dicom_series(voxels, LPS)
    with pytest.raises(Unprocessable, match="time series"):
        load_volume(folder)


def test_several_multi_frame_files_are_no_volume(multi_frame, voxels, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for n in range(2):
        multi_frame(voxels[:, :, :4], (0, 3, 6, 9)).rename(folder / f"{n}.dcm")
    with pytest.raises(Unprocessable, match="2 files, some with several frames"):
        load_volume(folder)


def test_a_slice_exported_twice_counts_once(dicom_series, voxels):
    folder = dicom_series(voxels, LPS)
    shutil.copy(folder / "IM0001", folder / "copy")
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.dcm").write_text("not an image either")
    assert load_volume(folder).n_slices == 5


def test_several_series_in_a_folder_are_counted(dicom_series, voxels, pydicom_files):
    folder = dicom_series(voxels, LPS)
    shutil.copy(pydicom_files / "CT_small.dcm", folder)
    with pytest.raises(Unprocessable, match="'series' is a folder with 2 DICOM series"):
        load_volume(folder)


def test_slices_of_different_directions_are_refused(dicom_series, voxels):
    folder = dicom_series(voxels, LPS)
    dicom_series(voxels, LPS, skip=(1, 2, 3, 4), ImageOrientationPatient=[0, 1, 0, 0, 0, 1])
    with pytest.raises(Unprocessable, match="different directions"):
        load_volume(folder)


def test_a_truncated_slice_in_a_series_is_refused(dicom_series, voxels):
    folder = dicom_series(voxels, LPS)
    file = folder / "IM0003"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Unprocessable, match="'series' cannot be read"):
        load_volume(folder)


@pytest.mark.parametrize("name", ["98892001/CT5N", "77654033/CT2"])
def test_real_series_without_file_extensions_are_read(pydicom_files, name):
    folder = pydicom_files / "dicomdirtests" / name
    volume = load_volume(folder)
    assert volume.modality == "CT"
    assert volume.n_slices == len(list(folder.iterdir()))
    assert -1024 <= volume.voxels.min() < -500


def test_single_real_slices_are_read_with_their_tags(pydicom_files):
    ct = load_volume(pydicom_files / "CT_small.dcm")
    assert (ct.shape3, ct.modality, ct.voxels.dtype, ct.window) == ((128, 128, 1), "CT", np.int16, None)
    assert ct.spacing == pytest.approx((0.661468, 0.661468, 5.0))
    mr = load_volume(pydicom_files / "MR_small.dcm")
    assert (mr.shape3, mr.modality, mr.window) == ((64, 64, 1), "MR", (600.0, 1600.0))


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_compressed_slices_equal_the_plain_one(pydicom_files, name):
    plain = load_volume(pydicom_files / "MR_small.dcm").voxels
    np.testing.assert_array_equal(load_volume(pydicom_files / name).voxels, plain)


@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cr.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_colour_dicom_becomes_rgb_whatever_it_is_stored_as(pydicom_files, name):
    volume = load_volume(pydicom_files / name)
    assert volume.is_rgb and volume.shape3 == (100, 100, 1)
    np.testing.assert_allclose(volume.voxels[50, 5, 0], (255, 0, 0), atol=2)


def test_a_multi_frame_file_has_its_frames_as_slices(pydicom_files):
    assert load_volume(pydicom_files / "SC_rgb_rle_2frame.dcm").voxels.shape == (100, 100, 2, 3)
    assert load_volume(pydicom_files / "rtdose.dcm").shape3 == (10, 10, 15)


@pytest.mark.parametrize(
    ("heights", "order"),
    [
        ((0, 3, 6, 9), [0, 1, 2, 3]),
        ((9, 6, 3, 0), [0, 1, 2, 3]),
        ((3, 0, 9, 6), [1, 0, 3, 2]),
        ((5, 5, 5, 5), [0, 1, 2, 3]),
    ],
    ids=["ascending", "descending", "shuffled", "cine"],
)
def test_frames_of_an_enhanced_file_lie_where_their_groups_say(multi_frame, voxels, heights, order):
    volume = load_volume(multi_frame(voxels[:, :, :4], heights))
    np.testing.assert_array_equal(volume.voxels, voxels[:, :, :4][:, :, order] - 1024)
    for k, frame in enumerate(order if heights[0] != heights[1] else order[:1]):
        expected = LPS @ [10 + 0.7 * 2, 20 + 0.9 * 3, heights[frame], 1]
        np.testing.assert_allclose(volume.affine @ [2, 3, k, 1], expected, atol=1e-6)
    assert volume.spacing == pytest.approx((0.7, 0.9, 3.0))
    assert volume.window == (70.0, 210.0)


def test_frames_of_space_and_time_are_refused(multi_frame, voxels):
    with pytest.raises(Unprocessable, match="4 slices at 2 positions"):
        load_volume(multi_frame(voxels[:, :, :4], (0, 0, 3, 3)))


def test_a_dicom_file_needs_no_extension(pydicom_files, tmp_path):
    path = shutil.copy(pydicom_files / "MR_small.dcm", tmp_path / "1.2.840.113619")
    assert load_volume(path).shape3 == (64, 64, 1)


def test_a_truncated_or_pixelless_dicom_file_is_refused(pydicom_files):
    with pytest.raises(Unprocessable, match="MR_truncated.dcm"):
        load_volume(pydicom_files / "MR_truncated.dcm")
    with pytest.raises(Unprocessable, match="without pixels"):
        load_volume(pydicom_files / "rtplan.dcm")
