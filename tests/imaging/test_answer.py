"""A mask lies exactly where the image does, in every format and for every reader."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from lib.errors import UserError
from lib.imaging.answer import place_plane, write_mask
from lib.imaging.volume import Volume, load_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MARK = (5, 2, 3)


def marked(volume: Volume) -> np.ndarray:
    mask = np.zeros(volume.shape3, np.uint8)
    mask[MARK] = 1
    return mask


def world_by_nibabel(path: Path) -> np.ndarray:
    image = nib.load(path)
    (index,) = np.argwhere(np.asarray(image.dataobj))
    return (image.affine @ [*index, 1])[:3]


def world_by_itk(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    ((k, j, i),) = np.argwhere(sitk.GetArrayFromImage(image))
    return (LPS @ [*image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))), 1])[:3]


@pytest.fixture(params=["nii.gz", "nrrd", "series"])
def source(request, tmp_path, affine, voxels, dicom_series, save_itk) -> tuple[Volume, np.ndarray]:
    """An image in one of the formats, and the RAS position in mm that the voxel MARK has in it."""
    if request.param == "nii.gz":
        path = tmp_path / "a.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), path)
        return load_volume(path), (nib.load(path).affine @ [*MARK, 1])[:3]
    if request.param == "nrrd":
        path = tmp_path / "a.nrrd"
        image = sitk.ReadImage(str(save_itk(path, voxels, affine)))
        return load_volume(path), (LPS @ [*image.TransformIndexToPhysicalPoint(MARK), 1])[:3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    tags = {"PixelSpacing": [float(spacing[1]), float(spacing[0])]}
    volume = load_volume(dicom_series(voxels, affine, **tags))
    # A series against its normal comes out reversed: then MARK is the mirrored slice of the file.
    backwards = np.linalg.det((LPS @ affine)[:3, :3]) < 0
    k = voxels.shape[2] - 1 - MARK[2] if backwards else MARK[2]
    return volume, (affine @ [MARK[0], MARK[1], k, 1])[:3]


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_a_marked_voxel_stays_where_it_is_in_nifti(source, tmp_path, extension):
    volume, expected = source
    path = write_mask(marked(volume), volume, extension, folder=tmp_path)
    np.testing.assert_allclose(world_by_nibabel(path), expected, atol=1e-4)
    np.testing.assert_allclose(world_by_itk(path), expected, atol=1e-4)


@pytest.mark.parametrize("compress", [True, False])
def test_a_marked_voxel_stays_where_it_is_in_nrrd(source, tmp_path, compress):
    volume, expected = source
    path = write_mask(marked(volume), volume, "nrrd", compress=compress, folder=tmp_path)
    np.testing.assert_allclose(world_by_itk(path), expected, atol=1e-4)
    again = load_volume(path)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-6)
    np.testing.assert_array_equal(again.voxels, marked(volume))


def test_a_nifti_mask_has_the_affine_of_the_image_to_a_millionth(source, tmp_path):
    volume, _ = source
    path = write_mask(marked(volume), volume, ".nii.gz", folder=tmp_path)
    # NIfTI keeps affines in float32: a millionth of the largest number in it.
    np.testing.assert_allclose(nib.load(path).affine, volume.affine, atol=1e-6 * np.abs(volume.affine).max())


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (0, 0), (4, 2)])
def test_a_nifti_mask_keeps_both_transforms_and_their_codes(tmp_path, voxels, sform, qform):
    oblique = nib.affines.from_matvec(np.diag([0.7, 0.9, 3.0]), [1, 2, 3])
    image = nib.Nifti1Image(voxels, oblique)
    image.set_sform(oblique, sform)
    image.set_qform(oblique, qform)
    nib.save(image, tmp_path / "a.nii.gz")
    before = nib.load(tmp_path / "a.nii.gz")
    volume = load_volume(tmp_path / "a.nii.gz")
    after = nib.load(write_mask(marked(volume), volume, ".nii.gz", folder=tmp_path))
    assert (after.header["sform_code"], after.header["qform_code"]) == (sform, qform)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.header["pixdim"], before.header["pixdim"])
    assert after.get_data_dtype() == np.uint8


def test_a_mask_carries_nothing_else_of_the_image(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(2.0, 5.0)
    image.header["cal_max"] = 400
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    path = write_mask(marked(volume), volume, ".nii", folder=tmp_path)
    assert b"JANE" not in path.read_bytes()
    assert set(np.unique(nib.load(path).get_fdata())) == {0, 1}
    assert nib.load(path).header["cal_max"] == 0


def test_a_nifti_2_image_gets_a_nifti_2_mask(tmp_path, voxels):
    nib.save(nib.Nifti2Image(voxels, np.eye(4)), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert isinstance(nib.load(write_mask(marked(volume), volume, ".nii", folder=tmp_path)), nib.Nifti2Image)


def test_the_mask_of_a_colour_image_is_grey(tmp_path):
    colour = np.zeros((7, 9, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    path = write_mask(marked(volume), volume, ".nii", folder=tmp_path)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), marked(volume))


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_a_tilted_gantry_keeps_its_shear(make_volume, tmp_path, voxels, sheared, extension):
    volume = make_volume(voxels, affine=sheared, kind="dicom")
    again = load_volume(write_mask(marked(volume), volume, extension, folder=tmp_path))
    np.testing.assert_allclose(again.affine, sheared, atol=1e-5)


def test_a_sheared_nifti_comes_back_as_nrrd_with_its_shear(tmp_path, voxels, sheared):
    nib.save(nib.Nifti1Image(voxels, sheared), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    path = write_mask(marked(volume), volume, ".nrrd", folder=tmp_path)
    np.testing.assert_allclose(world_by_itk(path), (sheared @ [*MARK, 1])[:3], atol=1e-4)


def test_an_uncompressed_nrrd_is_a_header_and_the_bare_voxels(make_volume, tmp_path, voxels):
    volume = make_volume(voxels)
    mask = np.random.default_rng(0).integers(0, 4, volume.shape3).astype(np.uint8)
    content = write_mask(mask, volume, ".nrrd", compress=False, folder=tmp_path).read_bytes()
    header, _, body = content.partition(b"\n\n")
    assert b"encoding: raw" in header and b"space: left-posterior-superior" in header
    # A viewer that ignores the header copies these bytes: the first index must run fastest.
    assert body == mask.tobytes(order="F")


def test_a_compressed_nrrd_is_smaller(make_volume, tmp_path):
    volume = make_volume(np.zeros((64, 64, 64), np.int16))
    mask = np.zeros(volume.shape3, np.uint8)
    sizes = [
        write_mask(mask, volume, ".nrrd", compress=compress, folder=tmp_path).stat().st_size
        for compress in (True, False)
    ]
    assert sizes[0] * 10 < sizes[1]


def test_a_png_answer_lies_on_the_picture_it_answers(tmp_path):
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    volume = load_volume(tmp_path / "a.png")
    mask = np.zeros((20, 30, 1), np.uint8)
    mask[13, 4, 0] = 2  # x 13, y 4
    path = write_mask(mask, volume, "png", folder=tmp_path)
    with Image.open(path) as picture:
        assert (picture.size, picture.mode, picture.getpixel((13, 4))) == ((20, 30), "L", 2)
    np.testing.assert_array_equal(load_volume(path).voxels, mask)


def test_a_flat_mask_will_do_for_a_picture(tmp_path):
    Image.new("L", (20, 30)).save(tmp_path / "a.png")
    volume = load_volume(tmp_path / "a.png")
    flat = np.zeros((20, 30), np.int64)
    flat[13, 4] = 300
    np.testing.assert_array_equal(
        load_volume(write_mask(flat, volume, ".png", dtype="uint16", folder=tmp_path)).voxels[:, :, 0], flat
    )
    assert nib.load(write_mask(flat, volume, ".nii", dtype="int16", folder=tmp_path)).shape == (20, 30, 1)


def test_a_png_of_a_volume_is_refused(make_volume, tmp_path, voxels):
    with pytest.raises(UserError, match="result_extension '.png'.*5"):
        write_mask(np.zeros(voxels.shape, np.uint8), make_volume(voxels), ".png", folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".jpg", "", ".nii.bz2", None, "../../x.nii"])
def test_an_unknown_extension_is_named(make_volume, tmp_path, voxels, extension):
    with pytest.raises(UserError, match="result_extension") as caught:
        write_mask(np.zeros(voxels.shape, np.uint8), make_volume(voxels), extension, folder=tmp_path)
    assert repr(extension) in str(caught.value)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_the_voxel_type_is_the_one_asked_for(make_volume, tmp_path, voxels, dtype, extension):
    volume = make_volume(voxels)
    path = write_mask(marked(volume).astype(bool), volume, extension, dtype=dtype, folder=tmp_path)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert stored.dtype == dtype and stored.max() == 1


@pytest.mark.parametrize("dtype", ["complex64", "uint9", "object", "", None, "int64"])
def test_an_unknown_type_is_named(make_volume, tmp_path, voxels, dtype):
    with pytest.raises(UserError, match="result_dtype") as caught:
        write_mask(np.zeros(voxels.shape, np.uint8), make_volume(voxels), ".nrrd", dtype, folder=tmp_path)
    assert repr(dtype) in str(caught.value)


@pytest.mark.parametrize(
    ("label", "dtype"), [(256, "uint8"), (-1, "uint8"), (40000, "int16"), (2**24 + 1, "float32")]
)
def test_labels_that_do_not_fit_are_refused_not_wrapped(make_volume, tmp_path, voxels, label, dtype):
    mask = np.zeros(voxels.shape, np.int64)
    mask[0, 0, 0] = label
    with pytest.raises(UserError, match=f"{dtype}.*{label}"):
        write_mask(mask, make_volume(voxels), ".nii", dtype=dtype, folder=tmp_path)


def test_a_mask_of_another_shape_or_of_fractions_is_a_bug(make_volume, tmp_path, voxels):
    with pytest.raises(ValueError, match="grid"):
        write_mask(np.zeros((9, 7, 5), np.uint8), make_volume(voxels), ".nii", folder=tmp_path)
    with pytest.raises(ValueError, match="whole numbers"):
        write_mask(np.zeros(voxels.shape), make_volume(voxels), ".nii", folder=tmp_path)


def test_every_answer_has_a_name_of_its_own(make_volume, voxels, tmp_path):
    volume = make_volume(voxels)
    paths = {write_mask(marked(volume), volume, ".nii.gz", folder=tmp_path) for _ in range(5)}
    assert len(paths) == 5 and all(path.parent == tmp_path for path in paths)
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_a_large_mask_is_written_well_under_two_seconds(make_volume, tmp_path, extension):
    volume = make_volume(np.broadcast_to(np.int16(0), (512, 512, 100)))
    mask = np.zeros(volume.shape3, np.uint8)
    mask[100:300, 150:400, 20:70] = 1
    start = time.perf_counter()
    write_mask(mask, volume, extension, folder=tmp_path)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mask_of_a_slice_is_placed_where_the_slice_was(make_volume, voxels, axis):
    volume = make_volume(voxels)
    plane = volume.plane(2, axis) > 0
    mask = place_plane(plane, volume, 2, axis)
    assert mask.shape == volume.shape3 and mask.sum() == plane.sum()
    np.testing.assert_array_equal(mask.take(2, axis=axis), plane)


def test_a_slice_mask_outside_or_of_another_shape_is_refused(make_volume, voxels):
    volume = make_volume(voxels)
    with pytest.raises(UserError, match="slice 5"):
        place_plane(np.zeros((7, 9), np.uint8), volume, 5)
    with pytest.raises(ValueError, match="slice of shape"):
        place_plane(np.zeros((9, 7), np.uint8), volume, 0)
