"""What an object looks like is learnt from a picture and found again in another one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.sam.likeness import Likeness, features_of, mean_over, peaks

SIDE = 24


def _features(place: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells of which a square differs in one of three features, and that square."""
    rng = np.random.default_rng(seed)
    shape = torch.zeros(1, 1, SIDE, SIDE)
    shape[..., place[0] : place[0] + 5, place[1] : place[1] + 5] = 1
    features = torch.from_numpy(rng.normal(0, 0.3, (3, SIDE, SIDE))).float()
    features[1] += 2 * shape[0, 0]
    return torch.cat([features, torch.ones(1, SIDE, SIDE)]), shape


def test_an_object_that_has_moved_is_liked_where_it_is_now():
    likeness = Likeness()
    likeness.learn(*_features((3, 4), 0), lasting=True)
    features, shape = _features((15, 10), 1)
    alike = likeness.of(features)
    assert alike.shape == (1, 1, SIDE, SIDE) and alike.abs().max() <= 1
    assert mean_over(alike, shape) > 0.5 > -0.5 > mean_over(alike, 1 - shape)
    (place, value), *_ = peaks(alike[0, 0].numpy(), 2.5, 2)
    assert np.hypot(place[0] - 17, place[1] - 12) < 2 and value > 0.3


def test_peaks_lie_apart():
    alike = np.full((SIDE, SIDE), -1.0)
    alike[2:6, 2:6] = alike[14:18, 14:18] = 1
    (first, _), (second, _) = peaks(alike, 2.0, 2)
    assert np.hypot(first[0] - second[0], first[1] - second[1]) > 5


def test_what_was_learnt_last_counts_and_what_a_person_showed_is_never_forgotten():
    likeness = Likeness()
    features, shape = _features((3, 4), 0)
    likeness.learn(features, shape, lasting=True)
    for seed in range(9):
        later, there = _features((8, 8), seed)
        later[1] -= 2 * there[0, 0]
        later[2] += 2 * there[0, 0]  # it looks otherwise by now
        likeness.learn(later, there)
    assert mean_over(likeness.of(later), there) > 0.3
    assert mean_over(likeness.of(features), shape) > 0.3


def test_nothing_is_learnt_from_a_picture_without_the_object():
    likeness = Likeness()
    features, shape = _features((3, 4), 0)
    likeness.learn(features, 0 * shape)
    assert not likeness.is_known
    with pytest.raises(ValueError):
        likeness.of(features)


def test_light_that_fades_changes_no_features_of_colour(model):
    rng = np.random.default_rng(0)
    pixels = rng.integers(80, 240, (64, 64), np.uint8)
    embedding, _ = model.embed(pixels)
    bright, dark = (features_of(embedding, p) for p in (pixels, pixels // 2))
    assert bright.shape[1:] == (model.size // 4,) * 2
    torch.testing.assert_close(bright, dark, atol=0.1, rtol=0.1)
