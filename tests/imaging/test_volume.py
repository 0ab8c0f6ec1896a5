"""Every format becomes the same Volume: slice axis, planes, percentiles, plain errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lib.errors import NotFound, UserError
from lib.imaging.volume import Volume, load_volume


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1, 1, 1), 2), ((4, 1, 1), 0), ((1, 3, 1), 1), ((1, 1, 3), 2), ((1.1, 1, 1), 2), ((3, 3, 1), 2)],
)
def test_the_slice_axis_of_a_nifti_is_the_clearly_coarsest(tmp_path, voxels, spacing, axis, save_nifti):
    volume = load_volume(save_nifti(tmp_path / "a.nii", voxels, np.diag([*spacing, 1.0])))
    assert volume.slice_axis == axis
    assert volume.n_slices == voxels.shape[axis]
    assert volume.in_plane_axes == tuple(n for n in range(3) if n != axis)
    assert volume.spacing == pytest.approx(spacing)


def test_an_axis_of_one_voxel_is_the_slice_axis(tmp_path, save_nifti):
    volume = load_volume(save_nifti(tmp_path / "a.nii", np.ones((20, 1, 30), np.int16)))
    assert (volume.slice_axis, volume.n_slices) == (1, 1)


def test_a_plane_is_the_slice_in_array_order(make_volume, voxels):
    volume = make_volume(voxels)
    np.testing.assert_array_equal(volume.plane(3), voxels[:, :, 3])
    np.testing.assert_array_equal(volume.plane(3, axis=0), voxels[3])
    np.testing.assert_array_equal(volume.plane(np.int64(3), axis=1), voxels[:, 3])
    colour = make_volume(np.zeros((4, 5, 6, 3), np.uint8))
    assert colour.plane(0).shape == (4, 5, 3)


@pytest.mark.parametrize("index", [-1, 5, 1.5, "2", None])
def test_a_plane_outside_the_volume_names_the_slice(make_volume, voxels, index):
    with pytest.raises(UserError, match="slice") as caught:
        make_volume(voxels).plane(index)
    assert str(index) in str(caught.value)


def test_an_axis_that_does_not_exist_is_named(make_volume, voxels):
    with pytest.raises(UserError, match="axis 3"):
        make_volume(voxels).plane(0, axis=3)


def test_voxels_are_read_only_because_requests_share_them(nifti):
    volume = load_volume(nifti)
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        volume.plane(0)[0, 0] = 1


def test_percentiles_leave_out_zeros_nan_and_infinity(make_volume):
    values = np.zeros((50, 50, 50), np.float32)
    values[:25] = np.linspace(100, 200, 25 * 50 * 50).reshape(25, 50, 50)
    values[0, 0, :3] = (np.nan, np.inf, -np.inf)
    low, high = make_volume(values).percentiles
    assert low == pytest.approx(100.5, abs=0.1)
    assert high == pytest.approx(199.5, abs=0.1)


@pytest.mark.parametrize("value", [0, 7, -5, np.nan])
def test_percentiles_of_a_constant_volume_still_make_a_range(make_volume, value):
    low, high = make_volume(np.full((4, 4, 4), value, np.float32)).percentiles
    assert np.isfinite([low, high]).all() and low < high


def test_percentiles_of_a_large_volume_come_from_a_subsample_and_are_kept(make_volume):
    big = np.broadcast_to(np.arange(1, 513, dtype=np.int16), (400, 400, 512))
    volume = make_volume(big)
    low, high = volume.percentiles
    assert low == pytest.approx(3.5, abs=3) and high == pytest.approx(509.5, abs=3)
    assert volume.statistics is volume.statistics


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".png", ".jpg", ".tif"])
@pytest.mark.parametrize(
    "content", [b"", b"this is a text file, not an image\n" * 100], ids=["empty", "text"]
)
def test_an_empty_or_text_file_is_refused_whatever_its_name(tmp_path, extension, content, unreadable):
    path = tmp_path / f"a{extension}"
    path.write_bytes(content)
    unreadable(path)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="'gone.nii.gz' does not exist") as caught:
        load_volume(tmp_path / "gone.nii.gz")
    assert caught.value.status == 404


def test_an_unknown_extension_is_named(tmp_path, unreadable):
    path = tmp_path / "a.docx"
    path.write_text("hello")
    unreadable(path, ".nii.gz")


def test_a_folder_without_dicom_is_refused(tmp_path, unreadable):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    unreadable(folder, "without DICOM images")


def test_volumes_are_frozen(make_volume: Callable[..., Volume], voxels):
    with pytest.raises(AttributeError):
        make_volume(voxels).slice_axis = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "modality, axis, expected",
    [("CT", 2, 5 / 0.5), ("", 2, 10), ("CT", 0, 0.5 / 5**0.5 / 0.5**0.5), ("US", 2, None)],
)
def test_thickness_is_in_pixels_of_a_slice_and_unknown_along_time(tmp_path, modality, axis, expected):
    volume = Volume(
        np.zeros((8, 9, 4), np.int16), np.diag([0.5, 0.5, 5, 1]), 2, modality, None, tmp_path, "nifti"
    )
    assert volume.thickness(axis) == (None if expected is None else pytest.approx(expected))
