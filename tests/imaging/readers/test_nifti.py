"""NIfTI files are read as nibabel reads them, in their own dtype, and damage is found at once."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
import pytest
import SimpleITK as sitk

from lib.imaging.volume import load_volume


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_nifti_is_exactly_what_nibabel_gives(tmp_path, voxels, affine, extension, save_nifti):
    path = save_nifti(tmp_path / f"a{extension}", voxels, affine)
    volume = load_volume(path)
    expected = nib.load(path)
    np.testing.assert_array_equal(volume.voxels, np.asarray(expected.dataobj))
    np.testing.assert_array_equal(volume.affine, expected.affine)
    assert volume.voxels.dtype == np.int16
    assert volume.affine.dtype == np.float64
    assert (volume.kind, volume.modality, volume.window) == ("nifti", "", None)


def test_a_nifti_2_is_read_too(tmp_path, voxels):
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti2Image(voxels, np.eye(4)), path)
    np.testing.assert_array_equal(load_volume(path).voxels, voxels)


def test_a_gzipped_nifti_under_a_plain_name_is_read(tmp_path, nifti, voxels):
    path = shutil.copy(nifti, tmp_path / "misnamed.nii")
    np.testing.assert_array_equal(load_volume(path).voxels, voxels)


def test_16_bit_voxels_cost_two_bytes_each_and_are_no_map_of_the_file(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii", np.zeros((128, 128, 64), np.int16))
    volume = load_volume(path)
    assert volume.nbytes == 2 * 128 * 128 * 64
    base = volume.voxels
    while base is not None:
        assert not isinstance(base, np.memmap)
        base = getattr(base, "base", None)


def test_scaled_voxels_become_float32(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, nib.load(tmp_path / "a.nii").get_fdata(), rtol=1e-6)


def test_float64_voxels_become_float32(tmp_path, voxels, save_nifti):
    volume = load_volume(save_nifti(tmp_path / "a.nii", voxels.astype(np.float64)))
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_big_endian_voxels_become_native(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(volume.voxels, voxels)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_colour_nifti_stays_rgb(tmp_path, channels, save_nifti):
    colours = np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    stored = np.zeros((6, 5, 4), [(name, "u1") for name in "RGBA"[:channels]])
    for n, name in enumerate("RGB"):
        stored[name] = colours[..., n]
    volume = load_volume(save_nifti(tmp_path / "a.nii.gz", stored))
    assert volume.is_rgb and volume.shape3 == (6, 5, 4)
    np.testing.assert_array_equal(volume.voxels, colours)


def test_a_colour_nifti_written_by_itk_stays_rgb(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.nii.gz"))
    volume = load_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.voxels, colours.transpose(2, 1, 0, 3))


def test_trailing_dimensions_of_one_are_squeezed_and_missing_ones_added(tmp_path, save_nifti):
    assert load_volume(save_nifti(tmp_path / "a.nii", np.ones((4, 5, 6, 1), np.uint8))).shape3 == (4, 5, 6)
    assert load_volume(save_nifti(tmp_path / "b.nii", np.ones((4, 5), np.uint8))).shape3 == (4, 5, 1)


def test_the_mni_template_is_read_as_nibabel_reads_it():
    data = Path(nilearn.__file__).parent / "datasets" / "data"
    path = data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    volume = load_volume(path)
    expected = nib.load(path)
    assert volume.shape3 == expected.shape
    np.testing.assert_array_equal(volume.affine, expected.affine)
    np.testing.assert_allclose(volume.plane(90), expected.dataobj[:, :, 90], rtol=1e-6)
    low, high = volume.percentiles
    assert 0 < low < high <= volume.voxels.max()


@pytest.mark.parametrize("keep", [0, 100, 352, 500, -100, -1])
def test_a_truncated_nifti_is_refused(tmp_path, voxels, keep, save_nifti, unreadable):
    path = save_nifti(tmp_path / "a.nii", voxels)
    path.write_bytes(path.read_bytes()[:keep])
    unreadable(path)


@pytest.mark.parametrize("keep", [0, 10, 300, -100, -1])
def test_a_truncated_gzipped_nifti_is_refused(nifti, keep, unreadable):
    nifti.write_bytes(nifti.read_bytes()[:keep])
    unreadable(nifti)


def test_a_gzipped_nifti_with_a_changed_byte_is_refused(tmp_path, voxels, save_nifti, unreadable):
    stored = gzip.compress(save_nifti(tmp_path / "a.nii", voxels).read_bytes(), compresslevel=0)
    damaged = bytearray(stored)
    damaged[-100] ^= 0xFF
    path = tmp_path / "b.nii.gz"
    path.write_bytes(damaged)
    unreadable(path)


def test_a_nifti_header_that_claims_terabytes_is_refused_before_memory_is_asked_for(
    tmp_path, voxels, unreadable
):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30000, 30000, 30000))
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes())
    unreadable(path, "truncated", "30000")


def test_a_4d_nifti_is_refused_with_its_shape(tmp_path, save_nifti, unreadable):
    unreadable(save_nifti(tmp_path / "a.nii", np.ones((4, 5, 6, 2), np.int16)), "(4, 5, 6, 2)")


def test_complex_and_empty_niftis_are_refused(tmp_path, save_nifti, unreadable):
    unreadable(save_nifti(tmp_path / "a.nii", np.ones((4, 5, 6), np.complex64)), "complex")
    unreadable(save_nifti(tmp_path / "b.nii", np.ones((4, 0, 6), np.int16)), "empty")


def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, voxels, unreadable):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header["sform_code"] = 1
    for row, values in {"srow_x": (1, 1, 0, 0), "srow_y": (1, 1, 0, 0), "srow_z": (0, 0, 1, 0)}.items():
        image.header[row] = values
    path = tmp_path / "a.nii"
    path.write_bytes(image.header.binaryblock + bytes(4) + voxels.tobytes("F"))
    unreadable(path, "affine")
