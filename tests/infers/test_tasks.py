"""What the interactive tasks answer: label maps of several structures, and what is told beside them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lib.errors import UserError
from lib.infers import slice_task as slice_module
from lib.infers import volume_task as volume_module
from lib.infers.slice_task import SliceTask
from lib.prompts.dialects import runs
from lib.sam.model import ModelSlot
from lib.sam.propagate import SliceMask
from lib.sam.segment import Segmentation
from lib.sam.zoom import whole
from lib.settings import Settings

TWO = [
    {"label": "liver", "boxes": [[4, 4, 3, 20, 20, 3]]},
    {"label": "spleen", "boxes": [[12, 12, 3, 30, 30, 3]]},
]


def _box(prompts, shape: tuple[int, int]) -> np.ndarray:
    a0, b0, a1, b1 = (int(x) for x in prompts.box)
    mask = np.zeros(shape, bool)
    mask[a0 : a1 + 1, b0 : b1 + 1] = True
    return mask


@pytest.fixture
def boxes_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the network: every prompt's box is its mask, on its own slice."""

    def segment(model, plane, prompts, use_zoom=True):
        return Segmentation(_box(prompts, plane.shape[:2]), 0.9, whole(plane.shape[:2]), False, True)

    def propagate(model, planes, count, targets, *_):
        for number, target in enumerate(targets):
            for index, prompts in target.prompts.items():
                yield SliceMask(number, index, _box(prompts, planes(index).shape[:2]), 0.9)

    monkeypatch.setattr(slice_module, "segment", segment)
    monkeypatch.setattr(volume_module, "propagate", propagate)


@pytest.mark.parametrize("kind", ["slice_task", "volume_task"])
def test_each_object_has_its_own_value_and_keeps_its_voxels(request, kind, boxes_come_back, image, ask):
    labels, params = ask(request.getfixturevalue(kind), image, objects=TWO)
    assert params["label_names"] == {"liver": 1, "spleen": 2}
    expected = np.zeros((40, 36), np.uint8)
    expected[12:31, 12:31] = 2
    expected[4:21, 4:21] = 1  # the first one named keeps what both claim
    np.testing.assert_array_equal(labels[:, :, 3], expected)
    assert not np.delete(labels, 3, axis=2).any()


@pytest.mark.parametrize("kind", ["slice_task", "volume_task"])
def test_the_network_too_answers_several_objects_at_once(request, kind, image, ask):
    labels, params = ask(request.getfixturevalue(kind), image, objects=TWO)
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert set(params["score"]) == {"liver", "spleen"}
    assert all(0 <= score <= 1 for score in params["score"].values())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_taken_along_the_axis_that_is_asked_for(axis, boxes_come_back, slice_task, image, ask):
    low, high = [3, 4, 2], [20, 22, 6]
    low[axis] = high[axis] = 5
    labels, params = ask(slice_task, image, boxes=[[*low, *high]], slice_axis=axis)
    expected = np.zeros(labels.shape, np.uint8)
    expected[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = 1
    np.testing.assert_array_equal(labels, expected)
    assert params["slice"] == 5


@pytest.mark.parametrize("kind", ["slice_task", "volume_task"])
def test_params_hold_what_clients_are_promised(request, kind, weights, slot, image, ask):
    task = request.getfixturevalue(kind)
    _, params = ask(task, image, foreground=[[20, 18, 4]], label="liver")
    assert params["label_names"] == {"liver": 1}
    assert list(params["score"]) == ["liver"]
    assert params["checkpoint"] == {"name": weights.stem, "version": slot.get().checkpoint.version}
    assert len(params["checkpoint"]["version"]) == 12
    assert params["cached"] is False
    parts = {name: seconds for name, seconds in params["latencies"].items() if name != "total"}
    assert set(parts) == {"load", "pre", "infer", "write"}
    assert parts["infer"] > 0
    assert sum(parts.values()) == pytest.approx(params["latencies"]["total"], abs=0.02)


@pytest.mark.parametrize("kind", ["slice_task", "volume_task"])
def test_the_second_request_finds_its_slices_encoded(request, kind, image, ask):
    task = request.getfixturevalue(kind)
    first, told = ask(task, image, foreground=[[20, 18, 4]])
    again, told_again = ask(task, image, foreground=[[20, 18, 4]])
    assert (told["cached"], told_again["cached"]) == (False, True)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_answered_by_a_png_of_its_size(slice_task, picture, colour):
    path = picture(colour)
    file, params = slice_task({"image": str(path), "foreground": [[40, 10]]})
    with Image.open(file) as answer:
        assert (answer.format, answer.mode, answer.size) == ("PNG", "L", (50, 30))
        assert set(np.unique(np.asarray(answer))) <= {0, 1}
    Path(file).unlink()
    assert params["slice"] == 0


def test_a_point_on_a_picture_may_have_two_numbers_or_three(slice_task, picture, ask):
    path = picture(False)
    asked = {"result_extension": ".nii.gz"}
    flat, _ = ask(slice_task, path, foreground=[[40, 10]], **asked)
    deep, _ = ask(slice_task, path, foreground=[[40, 10, 0]], **asked)
    assert flat.shape == (50, 30, 1)
    np.testing.assert_array_equal(flat, deep)
    with pytest.raises(UserError, match="foreground point"):
        ask(slice_task, path, foreground=[[40, 10, 1]])


def test_a_picture_may_be_propagated_through_its_only_slice(volume_task, picture, ask):
    labels, _ = ask(volume_task, picture(True), foreground=[[40, 10]], result_extension=".nii.gz")
    assert labels.shape == (50, 30, 1)


def test_a_starting_mask_of_runs_is_on_the_slices_where_it_was_drawn(volume_task, image, ask):
    mask = np.zeros((40, 36, 8), bool)
    mask[2:38, 3:8, 2:4] = mask[2:9, 3:33, 2:4] = True
    labels, params = ask(volume_task, image, mask=runs(mask), slice_range=[2, 3])
    np.testing.assert_array_equal(labels > 0, mask)
    assert params["score"]["object"] > 0


def test_an_uploaded_label_file_is_a_starting_mask(volume_task, image, ask, tmp_path):
    mask = np.zeros((40, 36, 8), bool)
    mask[2:38, 3:8, 2] = mask[2:9, 3:33, 2] = True
    affine = nib.load(image).affine
    # MONAI Label stores an upload in the temporary folder, and puts its path into label
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as upload:
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), upload.name)
        labels, _ = ask(volume_task, image, label=upload.name, slice_range=[2, 2])
        np.testing.assert_array_equal(labels > 0, mask)
    elsewhere = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), elsewhere)
    with pytest.raises(UserError, match="label must be the name of a structure"):
        ask(volume_task, image, label=str(elsewhere), slice_range=[2, 2])


def test_an_empty_uploaded_label_says_nothing(slice_task, image, ask):
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as upload:
        empty = np.zeros((40, 36, 8), np.uint8)
        nib.save(nib.Nifti1Image(empty, nib.load(image).affine), upload.name)
        with pytest.raises(UserError, match="No prompt"):
            ask(slice_task, image, label=upload.name)


@pytest.mark.parametrize("kind", ["slice_task", "volume_task"])
@pytest.mark.parametrize(
    "fields", [{"result_extension": ".png"}, {"result_dtype": "complex64"}, {"result_extension": ".jpg"}]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_network_runs(
    request, kind, fields, monkeypatch, image
):
    task = request.getfixturevalue(kind)
    monkeypatch.setattr(task, "answer", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(UserError, match=next(iter(fields))):
        task({"image": str(image), "foreground": [[20, 18, 4]], **fields})


def test_a_refused_request_leaves_no_file_behind(slice_task, image):
    before = set(Path(tempfile.gettempdir()).glob("mask-*"))
    with pytest.raises(UserError):
        slice_task({"image": str(image), "foreground": [[20, 18, 400]]})
    assert set(Path(tempfile.gettempdir()).glob("mask-*")) <= before


@pytest.fixture
def replaceable(tmp_path: Path, weights: Path) -> Path:
    return Path(shutil.copy(weights, tmp_path / "served.safetensors"))


def test_a_new_checkpoint_at_the_same_path_is_served_without_a_restart(
    replaceable, write_weights, image, ask
):
    task = SliceTask(ModelSlot(replaceable, "cpu", 1 << 26), Settings())
    _, first = ask(task, image, foreground=[[20, 18, 4]])
    write_weights(replaceable, 1)
    _, second = ask(task, image, foreground=[[20, 18, 4]])
    assert first["checkpoint"]["version"] != second["checkpoint"]["version"]
    assert second["cached"] is False, "embeddings of the old network are no use to the new one"


def test_a_corrupt_checkpoint_at_the_same_path_leaves_the_old_one_serving(
    replaceable, write_weights, image, ask
):
    task = SliceTask(ModelSlot(replaceable, "cpu", 1 << 26), Settings())
    labels, first = ask(task, image, foreground=[[20, 18, 4]])
    replaceable.write_bytes(replaceable.read_bytes()[:100_000])
    labels_still, still = ask(task, image, foreground=[[20, 18, 4]])
    assert still["checkpoint"] == first["checkpoint"]
    np.testing.assert_array_equal(labels_still, labels)
    replaceable.unlink()
    _, without = ask(task, image, foreground=[[20, 18, 4]])
    assert without["checkpoint"] == first["checkpoint"]
    write_weights(replaceable, 2)
    _, healed = ask(task, image, foreground=[[20, 18, 4]])
    assert healed["checkpoint"]["version"] != first["checkpoint"]["version"]
