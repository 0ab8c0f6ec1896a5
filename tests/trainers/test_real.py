"""Samples from labelled scans: the right voxels, as inference sees them."""

from __future__ import annotations

import json
from itertools import islice

import nibabel as nib
import numpy as np
import pytest

from lib.trainers.real import RealClips, RealScans, RealViews
from lib.trainers.views import TARGETS_A_CLIP, Mixed

SIZE = 64


def _data_set(folder, shape, spacing):
    """A scan with a bright ball (label 3) and a dark one (label 5) on grey: a Decathlon data set."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape).astype(float)

    def ball(centre, radius):
        return sum((g - c * n) ** 2 for g, c, n in zip(grid, centre, shape, strict=True)) < radius**2

    labels = np.zeros(shape, np.uint8)
    labels[ball((0.35, 0.4, 0.5), 0.2 * min(shape[:2]))] = 3
    labels[ball((0.7, 0.6, 0.5), 0.15 * min(shape[:2]))] = 5
    pixels = 100 + 60.0 * (labels == 3) - 60 * (labels == 5) + rng.normal(0, 4, shape)
    for part, array in (("image", pixels.astype(np.float32)), ("label", labels)):
        nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1])), folder / f"{part}.nii.gz")
    about = {"labels": {"3": "bright", "5": "dark"}, "training": [{"image": "image.nii.gz"}]}
    about["training"][0]["label"] = "label.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def scans(tmp_path) -> RealScans:
    return RealScans([_data_set(tmp_path, (80, 72, 70), (1, 1, 1))])


def test_a_volume_of_even_spacing_is_cut_along_all_axes(scans):
    (scan,) = scans.sets[0]
    assert scan.axes == [0, 1, 2]
    for axis in scan.axes:
        for index in scan.used[axis]:
            image, labels = scan.slice(axis, int(index))
            assert image.shape == (*labels.shape, 3) and labels.shape[0] == labels.shape[1]
            assert labels.any()
            bright, dark, ground = (image[labels == v] for v in (3, 5, 0))
            assert not len(bright) or np.median(bright) > np.median(ground)
            assert not len(dark) or np.median(dark) < np.median(ground)


def test_thick_slices_are_cut_as_they_were_scanned(tmp_path):
    (scan,) = RealScans([_data_set(tmp_path, (80, 90, 70), (1, 1, 5))]).sets[0]
    assert scan.axes == [2]
    assert scan.slice(2, 35)[0].shape == (90, 90, 3)
    assert not scan.slice(2, 35)[0][80:].any()  # padded to a square


def test_views_show_structures_that_differ_from_their_surroundings(scans):
    for view in islice(RealViews(scans, SIZE, seed=4), 40):
        assert view.image.shape == (SIZE, SIZE, 3) and view.image.dtype == np.uint8
        assert view.masks.shape == (4, SIZE, SIZE) and set(np.unique(view.masks)) <= {0, 1}
        grey = view.image.mean(2)
        mask = view.masks[0].astype(bool)
        assert mask.any()
        if not mask.all():
            assert abs(np.median(grey[mask]) - np.median(grey[~mask])) > 2


def test_the_same_seed_gives_the_same_samples(scans):
    for kind in (RealViews, RealClips):
        one, other = (list(islice(kind(scans, SIZE, seed=2), 4)) for _ in range(2))
        for a, b in zip(one, other, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_clip_follows_structures_through_slices(scans):
    changes = []
    for images, masks in islice(RealClips(scans, SIZE, frames=4, seed=1), 12):
        assert images.shape == (4, SIZE, SIZE, 3) and masks.shape == (TARGETS_A_CLIP, 4, SIZE, SIZE)
        assert masks[:, 0].any((1, 2)).all()
        area = masks.sum((2, 3)).astype(int)
        assert (np.abs(np.diff(area)) < 0.6 * SIZE**2).all()
        changes.append(np.median(np.abs(np.diff(images.astype(int), axis=0))))
    # the same look at the same place: what lies still changes little from slice to slice, but for the noise
    assert np.median(changes) < 20


def test_samples_of_two_streams_are_mixed_in_their_share():
    mixed = Mixed(iter(lambda: 0, 1), iter(lambda: 1, 0), share=0.3)
    assert 0.25 < np.mean(list(islice(mixed, 2000))) < 0.35
