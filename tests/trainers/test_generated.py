"""Generated images: what is offered as a target is really there to be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.trainers.generated import acquire, generate_clip, generate_scene, is_seen
from lib.trainers.views import TARGETS_A_CLIP, GeneratedClips, GeneratedViews


def test_the_same_seed_gives_the_same_scene():
    one, other = (generate_scene(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    assert len(one.masks) == len(other.masks)


@pytest.mark.parametrize("seed", range(6))
def test_every_offered_mask_is_one_piece_of_a_sensible_size(seed):
    from scipy import ndimage

    scene = generate_scene(np.random.default_rng(seed))
    for mask in scene.masks:
        assert ndimage.label(mask)[1] == 1
        assert 24 <= mask.sum() <= 0.7 * mask.size


def test_a_structure_of_the_grounds_own_intensity_is_not_seen():
    image = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    assert not is_seen(image, mask)
    image[mask] = 160
    assert is_seen(image, mask)


def test_acquisition_keeps_the_place_of_things():
    rng = np.random.default_rng(2)
    image = np.zeros((256, 256), np.float32)
    image[60:120, 140:200] = 1
    out = acquire(rng, image).astype(float).mean(2)
    inside, outside = out[70:110, 150:190].mean(), out[:40].mean()
    assert abs(inside - outside) > 60


def test_a_structure_of_a_clip_changes_little_from_slice_to_slice_and_may_end():
    rng = np.random.default_rng(11)
    ended, overlaps = False, []
    for _ in range(4):
        images, masks = generate_clip(rng, 5)
        assert all(image.shape == (256, 256, 3) and image.dtype == np.uint8 for image in images)
        for slices in masks:
            areas = [m.sum() for m in slices]
            ended |= areas[0] > 0 and areas[-1] == 0
            for before, after in zip(slices, slices[1:], strict=False):
                if min(before.sum(), after.sum()) > 400:
                    overlaps.append((before & after).sum() / (before | after).sum())
    assert ended
    assert np.median(overlaps) > 0.6


def test_views_show_their_targets_at_the_networks_size():
    views = iter(GeneratedViews(128, targets=3, seed=4))
    for _ in range(12):
        view = next(views)
        assert view.image.shape == (128, 128, 3)
        assert view.masks.shape == (3, 128, 128)
        assert set(np.unique(view.masks)) <= {0, 1}
        assert view.masks[0].sum() > 20


def test_the_first_slice_of_a_clip_has_the_structures():
    clips, several = iter(GeneratedClips(64, frames=3, seed=1)), 0
    for _ in range(12):
        images, masks = next(clips)
        assert images.shape == (3, 64, 64, 3) and masks.shape == (TARGETS_A_CLIP, 3, 64, 64)
        assert masks[:, 0].any((1, 2)).all()
        several += bool((masks[0] != masks[1]).any())
    assert several > 2


@pytest.fixture(autouse=True)
def _threads():
    """Data workers use one thread each; the tests that follow keep theirs."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)
