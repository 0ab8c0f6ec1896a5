"""What is unlikely costs logits: lying far off, growing, going on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.sam import prior
from lib.sam.segment import as_logits


def _square(side: int) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[20 : 20 + side, 20 : 20 + side] = True
    return mask


def test_what_lies_far_from_the_mask_of_the_slice_before_must_be_surer():
    mask = _square(20)
    price = prior.price_of_distance(as_logits(torch.from_numpy(mask).float()[None, None]))[0, 0].numpy()
    radius = np.sqrt(mask.sum() / np.pi)
    assert not price[mask].any()
    free = prior.FREE_SHARE * radius + prior.FREE_CELLS  # cells beside the mask that cost nothing
    assert price[30, 39 + int(free)] == 0 < price[30, 41 + int(free)]
    assert (np.diff(price[30, 39:]) >= 0).all() and price.max() == prior.HIGHEST_DISTANCE_PRICE
    assert price[30, 39 + int(free + radius / 2)] == pytest.approx(prior.DISTANCE_PRICE / 2, abs=1)
    assert not prior.price_of_distance(torch.full((1, 1, 64, 64), -10.0)).any()


@pytest.mark.parametrize("side", [10, 15, 20])
def test_a_mask_no_larger_than_the_known_one_pays_nothing_for_its_size(side):
    logits = torch.where(torch.from_numpy(_square(side)), 1.0, -5.0)[None, None]
    assert prior.price_of_size(logits, usual=400) == 0


def test_a_larger_mask_keeps_the_pixels_that_are_sure_and_as_many_of_the_others_as_are_usual():
    unsure, sure = _square(40), _square(20)
    faint = torch.where(torch.from_numpy(unsure), 1.0, -5.0)[None, None] + torch.rand(1, 1, 64, 64)
    kept = int((faint > prior.price_of_size(faint, usual=400)).sum())
    assert 400 <= kept < 2 * 400  # of 1600
    plain = torch.where(torch.from_numpy(unsure), 2 + prior.HIGHEST_SIZE_PRICE, -5.0)[None, None]
    assert int((plain > prior.price_of_size(plain, usual=100)).sum()) == 1600  # whatever is usual
    both = torch.where(torch.from_numpy(sure), 9.0, faint)
    left = both > prior.price_of_size(both, usual=400)
    assert left[0, 0][torch.from_numpy(sure)].all()


def test_presence_costs_more_the_farther_from_where_it_is_known_but_not_along_time():
    prices = [prior.price_of_presence(slices, 2.0, 10.0) for slices in range(0, 40)]
    free = int(prior.FREE_REACHES * 10 / 2)
    assert not any(prices[: free + 1]) and prices[free + 2] > 0
    assert prices == sorted(prices) and prices[-1] == prior.HIGHEST_PRESENCE_PRICE
    assert prior.price_of_presence(39, None, 10.0) == 0
    assert prior.price_of_presence(39, 2.0, 0) == 0


def test_looking_otherwise_costs_far_from_the_prompt_only_and_nothing_along_time():
    far, near = 40, 6  # slices of 1 pixel, from the prompt of a structure that reaches 10 pixels
    alike, strange = 0.97, 0.75
    assert prior.price_of_strangeness(far, 1.0, 10.0, alike) == 0
    assert prior.price_of_strangeness(near, 1.0, 10.0, strange) == 0
    price = prior.price_of_strangeness(far, 1.0, 10.0, strange)
    assert price > 10 > prior.price_of_strangeness(12, 1.0, 10.0, strange) > 0
    assert prior.price_of_strangeness(far, 0.5, 10.0, strange) < price
    assert prior.price_of_strangeness(far, None, 10.0, strange) == 0


def test_what_is_known_of_a_long_structure_is_its_length():
    mask = np.zeros((64, 40), bool)
    mask[10:50, 7:12] = True
    assert prior.Known.of(mask) == prior.Known(area=200, reach=20.0)
    assert prior.Known.of(np.zeros((4, 4), bool)) == prior.Known(0, 0)


def test_what_was_surely_there_has_ended_where_it_is_there_by_a_share_only():
    assert not prior.has_ended(3.2, [5.0, 4.0])
    assert prior.has_ended(1.5, [5.0, 4.0])
    assert not prior.has_ended(0.5, [5.0])  # too short a way to tell
    assert not prior.has_ended(0.3, [1.8, 1.5, 1.2])  # it was faint all along
    assert not prior.has_ended(4.6, [9.0, 8.5, 8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0])  # slowly
    assert not prior.has_ended(0.3, [])


def disc(a: float, b: float, radius: float) -> np.ndarray:
    grid = np.mgrid[:60, :80]
    return np.hypot(grid[0] - a, grid[1] - b) <= radius


def test_a_motion_is_the_way_of_the_middle_unless_it_is_next_to_nothing():
    np.testing.assert_allclose(prior.motion(disc(20, 30, 6), disc(24, 27, 6)), (4, -3))
    assert not prior.motion(disc(20, 30, 15), disc(21, 30, 15)).any()
    assert not prior.motion(disc(20, 30, 6), np.zeros((60, 80), bool)).any()


def test_a_way_counts_where_a_shift_explains_it_and_not_where_a_mask_grew_on_one_side():
    start = disc(20, 30, 8)
    np.testing.assert_allclose(prior.way_from(start, disc(32, 50, 6)), (12, 20))
    leaked = start | disc(20, 42, 14)
    assert np.hypot(*prior.shift_between(start, leaked)) > 8
    assert not prior.way_from(start, leaked).any()


def test_a_moved_mask_loses_what_leaves_the_slice():
    mask = disc(20, 30, 6)
    np.testing.assert_array_equal(prior.moved(mask, np.array([4.4, -2.6])), disc(24, 27, 6))
    assert not prior.moved(mask, np.array([0, -60.0])).any()


def test_what_is_known_of_many_slices_is_their_indexes_and_the_largest_sizes():
    known = prior.KnownSlices()
    for index, side in ((40, 10), (5, 20), (90, 14)):
        known.add(index, prior.Known.of(_square(side)))
    assert (known.area, known.reach) == (400, 10)
    assert [known.from_nearest(index) for index in (0, 5, 30, 42, 60, 70, 200)] == [5, 0, 10, 2, 20, 20, 110]
