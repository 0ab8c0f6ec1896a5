"""3D Slicer: MONAI Label's own client library, with the requests that its module makes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests

from lib.imaging.volume import load_volume
from lib.prompts.dialects import runs

VOLUMES = ["axial", "oblique", "flipped", "sagittal", "oblique_nrrd"]
IMAGES = [*VOLUMES, "photo_rgb", "photo_gray"]


def _voxels(path: str) -> np.ndarray:
    """The answer in the array order of the image, (I, J, K)."""
    return np.asarray(load_volume(Path(path)).voxels)


def _dice(found: np.ndarray, expected: np.ndarray) -> float:
    return 2 * float((found & expected).sum()) / float(found.sum() + expected.sum())


def test_info_lists_the_models_as_smart_edit_wants_them(client):
    info = client.info()
    assert info["labels"]
    for name, dimension in (("biosam2_2d", 2), ("biosam2_3d", 3)):
        model = info["models"][name]
        assert (model["type"], model["dimension"]) == ("deepgrow", dimension)
        assert model["labels"]
        assert all(isinstance(value, list) and value for value in model["config"].values())


def test_the_next_sample_is_an_image_of_the_datastore_that_can_be_downloaded(client, server):
    sample = client.next_sample("random", {})
    assert sample["id"] in client.datastore()["objects"]
    answer = requests.get(f"{server.url}/datastore/image", params={"image": sample["id"]}, timeout=30)
    assert answer.content == (server.folder / sample["name"]).read_bytes()


@pytest.mark.parametrize("name", IMAGES)
def test_a_2d_answer_lies_on_the_images_grid_and_only_on_the_clicked_slice(
    client, slicer_params, studies, same_grid, name
):
    study = studies[name]
    # Slicer shows the k-th slice of the volume, whatever way it was acquired
    params = slicer_params(
        "biosam2_2d", foreground=[study.click], background=[[2, 2, study.centre[2]]], label="tumour"
    )
    file, answer = client.infer("biosam2_2d", name, {**params, "slice": study.centre[2]})
    assert file.endswith(".nrrd")
    same_grid(file, study.path)
    voxels = _voxels(file)
    assert voxels.dtype == np.uint8
    assert set(np.unique(voxels)) <= {0, 1}
    assert not np.delete(voxels, study.centre[2], axis=2).any()
    assert answer["label_names"] == {"tumour": 1}


@pytest.mark.parametrize("name", IMAGES)
def test_a_2d_click_into_a_bright_ellipsoid_finds_it(client, slicer_params, studies, name):
    study, k = studies[name], studies[name].centre[2]
    params = slicer_params("biosam2_2d", foreground=[study.click], background=[], label="tumour", slice=k)
    voxels = _voxels(client.infer("biosam2_2d", name, params)[0])
    assert voxels[study.centre] == 1
    assert _dice(voxels[:, :, k] > 0, study.inside[:, :, k]) > 0.8


@pytest.mark.parametrize("name", VOLUMES)
def test_a_3d_answer_lies_on_the_images_grid(client, slicer_params, studies, same_grid, name):
    study = studies[name]
    params = slicer_params("biosam2_3d", foreground=[study.click], background=[], label="tumour")
    file, answer = client.infer("biosam2_3d", name, params)
    same_grid(file, study.path)
    assert set(np.unique(_voxels(file))) <= {0, 1}
    assert answer["label_names"] == {"tumour": 1}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_3d_click_into_a_bright_ellipsoid_finds_it_on_all_its_slices(client, slicer_params, studies, name):
    study = studies[name]
    params = slicer_params("biosam2_3d", foreground=[study.click], background=[], label="tumour")
    voxels = _voxels(client.infer("biosam2_3d", name, params)[0])
    assert voxels[study.centre] == 1
    assert _dice(voxels > 0, study.inside) > 0.7


@pytest.mark.parametrize("name", VOLUMES)
def test_a_starting_mask_comes_back_voxel_by_voxel_where_it_was(
    client, slicer_params, studies, same_grid, name
):
    study = studies[name]
    index, mask = study.centre[study.axis], study.corner_mask()
    params = slicer_params("biosam2_3d", mask=runs(mask), slice_range=[index, index])
    file, _ = client.infer("biosam2_3d", name, params)
    same_grid(file, study.path)
    np.testing.assert_array_equal(_voxels(file) > 0, mask)


def test_nibabel_reads_a_nifti_answer_on_the_images_grid(client, studies):
    for name in ("oblique", "flipped"):
        study = studies[name]
        file, _ = client.infer(
            "biosam2_2d", name, {"foreground": [study.click], "result_extension": ".nii.gz"}
        )
        answer, image = nib.load(file), nib.load(study.path)
        assert answer.shape == image.shape
        np.testing.assert_allclose(answer.affine, image.affine, atol=1e-4)
        assert answer.get_data_dtype() == np.uint8


def test_an_uploaded_file_and_a_session_are_answered_like_the_image_of_the_datastore(
    client, slicer_params, studies, same_grid
):
    study = studies["oblique"]
    params = slicer_params("biosam2_2d", foreground=[study.click], background=[], slice=study.centre[2])
    by_id = _voxels(client.infer("biosam2_2d", "oblique", dict(params))[0])

    by_file, _ = client.infer("biosam2_2d", "", dict(params), file=str(study.path))
    same_grid(by_file, study.path)
    np.testing.assert_array_equal(_voxels(by_file), by_id)

    session = client.create_session(str(study.path))["session_id"]
    assert client.get_session(session)["name"] == session
    for _ in range(2):  # it may be used again and again
        by_session, _ = client.infer("biosam2_2d", "", dict(params), session_id=session)
        same_grid(by_session, study.path)
        np.testing.assert_array_equal(_voxels(by_session), by_id)
    client.remove_session(session)


def test_the_corners_of_an_roi_may_come_in_any_order(client, slicer_params, studies, same_grid):
    study = studies["axial"]
    i, j, k = study.centre
    sorted_box = [i - 15, i + 15, j - 12, j + 12, k - 3, k + 3]
    mixed_box = [i + 15, i - 15, j - 12, j + 12, k + 3, k - 3]
    answers = []
    for box in (sorted_box, mixed_box):
        file, _ = client.infer("biosam2_3d", "axial", slicer_params("biosam2_3d", roi=box))
        same_grid(file, study.path)
        answers.append(_voxels(file))
    np.testing.assert_array_equal(*answers)
    assert not np.delete(answers[0], range(k - 3, k + 4), axis=2).any(), "an roi also bounds the slices"


def test_an_roi_around_a_bright_ellipsoid_finds_it(client, slicer_params, studies):
    study = studies["flipped"]
    i, j, k = study.centre
    box = [i + 15, i - 15, j - 12, j + 12, k - 4, k + 4]
    voxels = _voxels(client.infer("biosam2_3d", "flipped", slicer_params("biosam2_3d", roi=box))[0])
    assert _dice(voxels > 0, study.inside) > 0.7


def test_a_label_can_be_saved_listed_and_downloaded(client, studies, tmp_path, same_grid):
    study = studies["sagittal"]
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(study.inside.astype(np.uint8), nib.load(study.path).affine), label)
    saved = client.save_label("sagittal", str(label), params={"label_info": [{"name": "tumour", "idx": 1}]})
    assert saved["image"] == "sagittal"
    stored = client.datastore()["objects"]["sagittal"]["labels"]["final"]
    assert stored["info"]["label_info"] == [{"name": "tumour", "idx": 1}]
    downloaded = client.download_label(saved["label"], "final")
    same_grid(downloaded, study.path)
    np.testing.assert_array_equal(_voxels(downloaded), study.inside)


def test_an_uploaded_label_is_a_starting_mask(client, slicer_params, studies, tmp_path):
    study = studies["oblique_nrrd"]
    index, mask = study.centre[study.axis], study.corner_mask()
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), load_volume(study.path).affine), label)
    params = slicer_params("biosam2_3d", slice_range=[index, index])
    file, _ = client.infer("biosam2_3d", "oblique_nrrd", params, label_in=str(label))
    np.testing.assert_array_equal(_voxels(file) > 0, mask)
