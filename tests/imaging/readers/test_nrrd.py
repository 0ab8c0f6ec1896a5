"""NRRD and MetaImage files give the voxels and the world that NIfTI would."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from lib.errors import Unprocessable
from lib.imaging.volume import load_volume


@pytest.mark.parametrize("extension", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_an_itk_file_gives_the_same_voxels_and_world_as_nifti(tmp_path, voxels, affine, extension, save_itk):
    volume = load_volume(save_itk(tmp_path / f"a{extension}", voxels, affine))
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert (volume.kind, volume.voxels.dtype) == ("nrrd", np.int16)


def test_voxels_of_an_nrrd_outlive_the_reader(tmp_path, voxels, save_itk):
    import gc

    loaded = load_volume(save_itk(tmp_path / "a.nrrd", voxels, np.eye(4))).voxels
    gc.collect()
    ballast = [np.full((64, 64, 64), 7, np.int16) for _ in range(20)]
    np.testing.assert_array_equal(loaded, voxels)
    assert len(ballast) == 20


def test_a_colour_nrrd_stays_rgb_and_a_2d_one_is_one_slice(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "rgb.nrrd"))
    np.testing.assert_array_equal(load_volume(tmp_path / "rgb.nrrd").voxels, colours.transpose(2, 1, 0, 3))
    flat = np.arange(20, dtype=np.int16).reshape(4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / "flat.nrrd"))
    np.testing.assert_array_equal(load_volume(tmp_path / "flat.nrrd").voxels[:, :, 0], flat.T)


def test_a_fourth_dimension_of_an_nrrd_is_squeezed_or_refused(tmp_path):
    for frames in (1, 3):
        stack = sitk.JoinSeries([sitk.Image(4, 5, 6, sitk.sitkInt16)] * frames)
        sitk.WriteImage(stack, str(tmp_path / f"{frames}.nrrd"))
    assert load_volume(tmp_path / "1.nrrd").shape3 == (4, 5, 6)
    with pytest.raises(Unprocessable, match=r"\(4, 5, 6, 3\)"):
        load_volume(tmp_path / "3.nrrd")


@pytest.mark.parametrize("extension", [".nrrd", ".mha"])
def test_a_truncated_itk_file_is_refused(tmp_path, voxels, extension, save_itk, unreadable):
    path = save_itk(tmp_path / f"a{extension}", voxels, np.eye(4))
    path.write_bytes(path.read_bytes()[:-200])
    unreadable(path)
