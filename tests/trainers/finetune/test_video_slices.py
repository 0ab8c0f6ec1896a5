"""Labelled videos: some of the frames around the label are learnt from, and no more of them is in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.evaluation.study import fingerprint, read_study
from lib.imaging.video.open import open_video
from lib.server.datastore import folder as open_folder
from lib.trainers.finetune import video_slices
from lib.trainers.finetune.cases import LabelledCase, labelled_cases
from lib.trainers.finetune.slices import AROUND, cache_case
from lib.trainers.finetune.task import _pair

SIZE, FRAMES = (20, 16), 60


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Frames of noise, in color."""
    folder = tmp_path / "film.frames"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE[1], SIZE[0], 3)).astype(np.uint8)
    for n, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def labels() -> np.ndarray:
    """Values 3 and 7 on frames 20 to 29."""
    voxels = np.zeros((*SIZE, FRAMES), np.uint8)
    voxels[2:9, 3:8, 20:30] = 3
    voxels[10:15, 3:8, 24:30] = 7
    return voxels


@pytest.fixture
def case(video: Path, tmp_path: Path) -> Callable[..., LabelledCase]:
    def make(voxels: np.ndarray, name: str = "label.nii.gz") -> LabelledCase:
        path = tmp_path / name
        nib.save(nib.Nifti1Image(voxels, np.diag([-1, -1, 1, 1])), path)
        pair = Pair("film", video, path, {3: "tool"})
        return LabelledCase("film", "film", pair, fingerprint(pair))

    return make


def test_frames_around_the_label_are_kept_with_its_values_counted(case, labels, video, tmp_path):
    found = cache_case(case(labels), tmp_path / "cache")
    pixels, numbered = found.scan().stacks[0]
    kept = range(20 - AROUND, 30 + AROUND)
    with open_video(video) as frames:
        np.testing.assert_array_equal(pixels, np.stack([frames[n] for n in kept]))
    expected = np.moveaxis(np.where(labels == 3, 1, np.where(labels == 7, 2, 0)), 2, 0)
    np.testing.assert_array_equal(numbered, expected[kept.start : kept.stop])
    assert (found.structures, found.values) == (["tool", "structure 7"], [3, 7])


def test_of_many_frames_some_at_even_distances_are_kept(case, labels, video, tmp_path, monkeypatch):
    monkeypatch.setattr(video_slices, "MOST_FRAMES", 15)
    found = cache_case(case(labels), tmp_path / "cache")
    pixels, _ = found.scan().stacks[0]
    assert len(pixels) == 14  # every third one of 42
    with open_video(video) as frames:
        np.testing.assert_array_equal(pixels[5], frames[4 + 3 * 5])


def test_the_gate_gets_the_kept_frames_as_an_image_in_which_slices_are_times(case, labels, tmp_path):
    one = case(labels)
    found = cache_case(one, tmp_path / "cache")
    study = read_study(_pair(one, found))
    assert study.volume.is_rgb and study.volume.thickness(2) is None
    np.testing.assert_array_equal(study.labels, labels[:, :, 20 - AROUND : 30 + AROUND])
    pixels, _ = found.scan().stacks[0]
    np.testing.assert_array_equal(np.moveaxis(study.volume.voxels, 2, 0), pixels)


def test_a_label_of_another_length_is_refused(case, labels, tmp_path):
    with pytest.raises(UserError, match="it must have its width, height and frames"):
        cache_case(case(labels[:, :, :-1]), tmp_path / "cache")


def test_an_empty_label_is_refused_and_nothing_is_left(case, labels, tmp_path):
    with pytest.raises(UserError, match="the label of image film is empty"):
        cache_case(case(labels * 0), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_label_that_was_saved_in_a_folder_of_videos_is_a_case(video, labels, tmp_path):
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "saved.nii.gz")
    datastore = open_folder(str(video.parent))
    datastore.save_label("film", str(tmp_path / "saved.nii.gz"), "final", {})
    (found,), left_out = labelled_cases(datastore)
    assert not left_out and found.pair.image == video
    assert cache_case(found, tmp_path / "cache").slices == 10 + 2 * AROUND
