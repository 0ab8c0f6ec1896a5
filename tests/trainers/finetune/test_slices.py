"""The slices on disk: the same pixels as the network gets when it is used, and labels on the same grid."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.evaluation.study import fingerprint, read_study
from lib.imaging.volume import Volume, load_volume
from lib.imaging.window import choose_window, to_uint8
from lib.trainers.finetune import slices
from lib.trainers.finetune.cases import LabelledCase
from lib.trainers.finetune.slices import AROUND, CachedCase, cache_case, forget_others

from .conftest import AFFINE, scan


def stacks(found: CachedCase) -> tuple[np.ndarray, np.ndarray]:
    return found.scan().stacks[0]


def expected(volume: Volume, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All slices that are kept: windowed as for inference, and their labels (I, J, K)."""
    moved = np.moveaxis(labels, volume.slice_axis, 0)
    on = np.flatnonzero(moved.any((1, 2)))
    kept = range(max(0, on[0] - AROUND), min(volume.n_slices, on[-1] + 1 + AROUND))
    window = choose_window(volume)
    return np.stack([to_uint8(volume.plane(k), window) for k in kept]), moved[kept.start : kept.stop]


def check(found: CachedCase, case: LabelledCase, labels: np.ndarray) -> None:
    pixels, numbered = stacks(found)
    planes, truth = expected(load_volume(case.pair.image), labels)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, planes)
    assert np.array_equal(numbered, truth)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pixels_and_labels_are_those_of_the_volume(case, tmp_path: Path, axis: int):
    image, labels = scan(count=2)
    spacing = np.ones(4)
    spacing[axis] = 3  # the slices lie along the coarse axis
    one = case(np.moveaxis(image, 2, axis), np.moveaxis(labels, 2, axis), np.diag(spacing))
    check(cache_case(one, tmp_path / "cache"), one, np.moveaxis(labels, 2, axis))


def test_an_oblique_volume(case, tmp_path: Path):
    image, labels = scan(count=2)
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.9, 2.5])
    affine[:3, 3] = 12.5, -40, 7
    one = case(image, labels, affine)
    found = cache_case(one, tmp_path / "cache")
    check(found, one, labels)
    again = load_volume(found.label)
    assert np.array_equal(again.voxels, labels) and np.allclose(again.affine, affine, atol=1e-4)


def test_hounsfield_units_get_the_window_of_soft_tissue(case, tmp_path: Path):
    image, labels = scan()
    image = (image.astype(np.int32) - 300).astype(np.int16)
    image[0, 0, 0] = -1024
    one = case(image, labels)
    check(cache_case(one, tmp_path / "cache"), one, labels)
    assert choose_window(load_volume(one.pair.image)).low == -160


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_a_label_with_flipped_axes(case, tmp_path: Path, axes: tuple[int, ...]):
    image, labels = scan(count=2)
    affine = AFFINE.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (labels.shape[axis] - 1)
        affine[:3, axis] *= -1
    one = case(image, np.flip(labels, axes), AFFINE, affine)
    check(cache_case(one, tmp_path / "cache"), one, labels)


def test_a_label_with_axes_in_another_order(case, tmp_path: Path):
    image, labels = scan(count=2)
    one = case(image, labels.transpose(2, 0, 1), AFFINE, AFFINE[:, [2, 0, 1, 3]])
    check(cache_case(one, tmp_path / "cache"), one, labels)


def test_a_finer_label(case, tmp_path: Path):
    image, labels = scan(count=2)
    fine = labels.repeat(2, 0).repeat(2, 1).repeat(3, 2)
    affine = AFFINE @ np.diag([1 / 2, 1 / 2, 1 / 3, 1])
    affine[:3, 3] = AFFINE[:3, :3] @ [-1 / 4, -1 / 4, -1 / 3]  # the voxels' corners stay where they are
    one = case(image, fine, AFFINE, affine)
    check(cache_case(one, tmp_path / "cache"), one, labels)


def test_a_label_of_a_part_of_the_image(case, tmp_path: Path):
    image, labels = scan(count=2)
    affine = AFFINE.copy()
    affine[:3, 3] = AFFINE[:3, :3] @ [5, 2, 1]
    one = case(image, labels[5:, 2:30, 1:], AFFINE, affine)
    cut = np.zeros_like(labels)
    cut[5:, 2:30, 1:] = labels[5:, 2:30, 1:]
    check(cache_case(one, tmp_path / "cache"), one, cut)


def test_a_label_that_was_shifted_stays_where_the_patient_is(case, tmp_path: Path):
    image, labels = scan(count=2)
    affine = AFFINE.copy()
    affine[0, 3] = 4.0
    one = case(image, labels, AFFINE, affine)
    moved = np.zeros_like(labels)
    moved[4:] = labels[:-4]
    check(cache_case(one, tmp_path / "cache"), one, moved)


def test_a_colour_volume(case, tmp_path: Path):
    _, labels = scan(count=2)
    rgb = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    one = case(rgb.view(kind)[..., 0], labels)
    found = cache_case(one, tmp_path / "cache")
    check(found, one, labels)
    assert stacks(found)[0].shape == (10, 44, 36, 3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("label_as", [".png", ".nii.gz"])
def test_a_picture(case, tmp_path: Path, mode: str, label_as: str):
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (30, 50, 3) if mode == "RGB" else (30, 50)).astype(np.uint8)  # (y, x)
    truth = np.zeros((30, 50), np.uint8)
    truth[3:9, 20:41] = 2
    image, label = tmp_path / "photo.png", tmp_path / f"label{label_as}"
    Image.fromarray(shown).save(image)
    if label_as == ".png":
        Image.fromarray(truth).save(label)
    else:
        nib.save(nib.Nifti1Image(truth.T[..., None], load_volume(image).affine), label)
    one = case(image, label)
    found = cache_case(one, tmp_path / "cache")
    pixels, numbered = stacks(found)
    assert np.array_equal(pixels[0], np.swapaxes(shown, 0, 1))
    assert np.array_equal(numbered[0] == 1, truth.T == 2)
    assert found.structures == ["structure 2"]


def test_values_far_apart_become_numbers_in_order(case, tmp_path: Path):
    image, labels = scan(count=3)
    values = np.array([0, 300, 71, 1204], np.uint16)
    one = case(image, values[labels], names={71: "left", 1204: "right"})
    found = cache_case(one, tmp_path / "cache")
    assert found.structures == ["left", "structure 300", "right"]
    _, numbered = stacks(found)
    truth = np.array([0, 2, 1, 3])[labels]
    assert numbered.dtype == np.uint8 and np.array_equal(numbered, np.moveaxis(truth, 2, 0))
    # and the gate reads its own values
    assert np.array_equal(load_volume(found.label).voxels, values[labels])


def test_more_structures_than_a_byte_holds(case, tmp_path: Path):
    image, labels = scan()
    labels = labels.astype(np.uint16)
    labels[:, :30, 4] = np.arange(44 * 30).reshape(44, 30)
    _, numbered = stacks(cache_case(case(image, labels), tmp_path / "cache"))
    assert np.array_equal(numbered[4], labels[..., 4])  # 1 to 1319, each of which there is


def test_only_slices_near_the_label_are_kept(case, tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 999, (20, 20, 90)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[5:10, 5:10, 40:43] = 1
    one = case(image, labels)
    pixels, numbered = stacks(cache_case(one, tmp_path / "cache"))
    assert len(pixels) == len(numbered) == 2 * AROUND + 3
    assert np.flatnonzero(numbered.any((1, 2))).tolist() == [AROUND, AROUND + 1, AROUND + 2]
    check(cache_case(one, tmp_path / "cache"), one, labels)


def test_the_gate_reads_the_same_label(case, tmp_path: Path):
    image, labels = scan(count=2)
    moved = AFFINE @ np.diag([-1, 1, 1, 1])
    moved[0, 3] = labels.shape[0] - 1
    one = case(image, np.flip(labels, 0), AFFINE, moved)
    found = cache_case(one, tmp_path / "cache")
    assert np.array_equal(read_study(Pair("scan", one.pair.image, found.label)).labels, labels)


def test_an_empty_label(case, tmp_path: Path):
    image, labels = scan()
    with pytest.raises(UserError, match="^the label of image scan is empty.$"):
        cache_case(case(image, 0 * labels), tmp_path / "cache")


def test_a_label_of_another_image(case, tmp_path: Path):
    image, labels = scan()
    far = AFFINE.copy()
    far[:3, 3] = 5000
    with pytest.raises(UserError, match="lies outside the image"):
        cache_case(case(image, labels, AFFINE, far), tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_what_is_there_is_not_made_again(case, tmp_path: Path, monkeypatch):
    one = case(*scan())
    first = cache_case(one, tmp_path / "cache")
    monkeypatch.setattr(slices, "load_volume", None)
    assert cache_case(one, tmp_path / "cache") == first


def test_a_structure_that_was_renamed(case, tmp_path: Path):
    one = case(*scan(), names={1: "liver"})
    assert cache_case(one, tmp_path / "cache").structures == ["liver"]
    renamed = replace(one, pair=replace(one.pair, names={1: "tumour"}))
    assert renamed.sha256 == fingerprint(renamed.pair) == one.sha256
    assert cache_case(renamed, tmp_path / "cache").structures == ["tumour"]


def test_a_disk_that_fills_up_leaves_nothing_half(case, tmp_path: Path, monkeypatch):
    one, cache = case(*scan()), tmp_path / "cache"
    real, planes = slices.to_uint8, []

    def full(plane, window):
        planes.append(plane)
        if len(planes) == 4:
            raise OSError(28, "No space left on device")
        return real(plane, window)

    monkeypatch.setattr(slices, "to_uint8", full)
    with pytest.raises(OSError, match="No space left"):
        cache_case(one, cache)
    assert not list(cache.iterdir())
    check(cache_case(one, cache), one, scan()[1])


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(case, tiny_disk: Path):
    shape = 64, 64, 40  # 160 KiB of pixels
    one = case(*scan(shape=shape))
    with pytest.raises(OSError, match="No space left"):
        cache_case(one, tiny_disk / "cache")
    assert not list((tiny_disk / "cache").iterdir())


def test_others_are_forgotten(case, tmp_path: Path):
    cache = tmp_path / "cache"
    kept, other = case(*scan(), name="one"), case(*scan(1), name="two")
    for one in (kept, other):
        cache_case(one, cache)
    for left in (".new-abc", ".old-abc"):  # by trainings that were killed
        (cache / left).mkdir()
        (cache / left / "pixels.npy").touch()
    forget_others(cache, [kept])
    assert [folder.name for folder in cache.iterdir()] == [kept.sha256]
    check(CachedCase(cache / kept.sha256), kept, scan()[1])
    forget_others(tmp_path / "none", [])


def test_a_removal_that_was_killed_leaves_no_half_case(case, tmp_path: Path, monkeypatch):
    one, cache = case(*scan()), tmp_path / "cache"
    cache_case(one, cache)

    def killed(folder: Path, **_) -> None:
        if Path(folder).exists():
            (Path(folder) / "pixels.npy").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slices.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            forget_others(cache, [])
    check(cache_case(one, cache), one, scan()[1])  # the label is back: it is made anew
    forget_others(cache, [one])
    assert [folder.name for folder in cache.iterdir()] == [one.sha256]


def test_about_names_the_image(case, tmp_path: Path):
    found = cache_case(case(*scan(), name="mine"), tmp_path / "cache")
    about = json.loads((found.folder / "about.json").read_text())
    assert about == {"image": "mine", "structures": ["structure 1"], "values": [1]}
