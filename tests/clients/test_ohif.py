"""OHIF: the bytes it copies into its segmentation, without looking at the header around them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from lib.prompts.dialects import runs

VOLUMES = ["axial", "oblique", "flipped", "sagittal", "oblique_nrrd"]
SERIES = ["dicom_axial", "dicom_descending", "dicom_sagittal", "dicom_oblique"]


def _split(content: bytes) -> tuple[dict[str, str], bytes]:
    """Header fields and payload of an NRRD file, which an empty line divides."""
    head, payload = content.split(b"\n\n", 1)
    lines = head.decode("ascii").splitlines()
    assert lines[0].startswith("NRRD000")
    fields = (line.split(": ", 1) for line in lines[1:] if not line.startswith("#") and ": " in line)
    return dict(fields), payload


def _bytes_in_order(mask: np.ndarray) -> bytes:
    """Voxels (I, J, K) as OHIF keeps them: i fastest, k slowest."""
    return mask.astype(np.uint8).tobytes(order="F")


def _dice(found: np.ndarray, expected: np.ndarray) -> float:
    return 2 * float((found & expected).sum()) / float(found.sum() + expected.sum())


@pytest.mark.parametrize("name", [*VOLUMES, *SERIES])
def test_the_answer_is_a_bare_raw_nrrd_with_a_byte_for_every_voxel(ohif, studies, name):
    study = studies[name]
    header, payload = _split(ohif("biosam2_2d", name, foreground=[study.click], background=[]))
    assert header["type"] in ("unsigned char", "uint8", "uchar")
    assert header["encoding"] == "raw"
    assert header["sizes"] == " ".join(str(n) for n in study.inside.shape)
    assert len(payload) == study.inside.size
    assert set(payload) <= {0, 1}


@pytest.mark.parametrize("name", [*VOLUMES, *SERIES])
def test_the_bytes_have_the_order_of_the_files_own_voxels(ohif, studies, name):
    study = studies[name]
    index, mask = study.centre[study.axis], study.corner_mask()
    answer = ohif("biosam2_3d", name, mask=runs(mask), slice_range=[index, index])
    assert _split(answer)[1] == _bytes_in_order(mask)


@pytest.mark.parametrize("name", [*VOLUMES, *SERIES])
def test_a_2d_answer_touches_the_slice_of_the_last_point_only(ohif, studies, name):
    study = studies[name]
    elsewhere = list(study.centre)
    elsewhere[study.axis] += 2
    # every request sends all points again
    answer = ohif("biosam2_2d", name, foreground=[elsewhere, study.click], background=[])
    voxels = np.frombuffer(_split(answer)[1], np.uint8).reshape(study.inside.shape, order="F")
    assert not np.delete(voxels, study.centre[study.axis], axis=study.axis).any()


@pytest.mark.parametrize("name", SERIES)
def test_a_dicom_pixel_and_the_voxel_it_becomes_are_the_same_place(studies, name):
    study = studies[name]
    image = nib.load(study.path)
    voxels = np.asarray(image.dataobj)
    for position, pixels in zip(study.positions, study.pixels, strict=True):
        for row, column in ((0, 0), (28, 40), (59, 71)):
            lps = position + column * study.rows + row * study.columns
            index = np.linalg.inv(image.affine) @ [-lps[0], -lps[1], lps[2], 1]
            np.testing.assert_allclose(index[:3], np.rint(index[:3]), atol=1e-3)
            i, j, k = np.rint(index[:3]).astype(int)
            assert (i, j) == (column, row)
            assert voxels[i, j, k] == pixels[row, column]


@pytest.mark.parametrize("name", SERIES)
def test_each_frame_of_the_answer_holds_the_rows_of_its_dicom_slice(ohif, studies, name):
    study = studies[name]
    # OHIF stacks slices along the normal, each by its rows
    order = np.argsort(study.positions @ np.cross(study.rows, study.columns))
    file = 3
    frame = int(np.flatnonzero(order == file)[0])
    drawn = study.corner_mask()[:, :, study.centre[2]].T
    mask = np.zeros(study.inside.shape, bool)
    world = study.positions[file] * (-1, -1, 1)
    k = round(float((np.linalg.inv(nib.load(study.path).affine) @ [*world, 1])[2]))
    mask[:, :, k] = drawn.T
    answer = ohif("biosam2_3d", name, mask=runs(mask), slice_range=[k, k])
    frames = np.frombuffer(_split(answer)[1], np.uint8).reshape(len(order), *drawn.shape)
    np.testing.assert_array_equal(frames[frame] > 0, drawn)
    assert frames.sum() == drawn.sum()


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("model", ["biosam2_2d", "biosam2_3d"])
def test_a_click_into_the_bright_ellipsoid_sets_the_byte_of_the_clicked_voxel(ohif, studies, model, name):
    study = studies[name]
    payload = _split(ohif(model, name, foreground=[study.click], background=[]))[1]
    voxels = np.frombuffer(payload, np.uint8).reshape(study.inside.shape, order="F")
    assert study.inside[study.centre]
    assert voxels[study.centre] == 1
    expected = study.inside
    if model == "biosam2_2d":
        voxels, expected = voxels[:, :, study.centre[2]], expected[:, :, study.centre[2]]
    assert _dice(voxels > 0, expected) > 0.7
