"""Metrics of shapes whose answer is known on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.evaluation.metrics import area_under, clicks_needed, dice, interval, iou, nsd


def slab(last: int, shape=(30, 20, 20)) -> np.ndarray:
    """Everything up to a plane across the first axis."""
    mask = np.zeros(shape, bool)
    mask[:last] = True
    return mask


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float, spacing) -> np.ndarray:
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) <= radius**2


def test_dice_and_iou_count_voxels():
    truth, mask = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    truth[:, :4] = True
    mask[:, 2:6] = True
    assert dice(mask, truth) == pytest.approx(0.5)
    assert iou(mask, truth) == pytest.approx(1 / 3)
    assert dice(truth, truth) == iou(truth, truth) == 1
    assert dice(~truth, truth) == iou(~truth, truth) == 0


def test_two_empty_masks_agree_and_one_empty_mask_is_wrong():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    for metric in (dice, iou, lambda a, b: nsd(a, b, (1, 1, 1), 2)):
        assert metric(empty, empty) == 1
        assert metric(empty, full) == 0
        assert metric(full, empty) == 0


def test_a_moved_disc_is_right_where_its_border_is_near():
    """Discs of radius R, d apart: the border's distance is about d |cos|, so NSD is 2/pi asin(t / d)."""
    shape, spacing = (240, 240), (0.5, 0.5)
    one, other = ball(shape, (110, 120), 40, spacing), ball(shape, (130, 120), 40, spacing)  # 10 mm
    for tolerance in (2.0, 5.0, 8.0):
        expected = 2 / math.pi * math.asin(tolerance / 10)
        assert nsd(one, other, spacing, tolerance) == pytest.approx(expected, abs=0.06)
    assert nsd(one, other, spacing, 10.0) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_moved_ball_in_anisotropic_voxels_gives_the_same_share_along_every_axis(axis):
    """Balls of radius R, d apart: NSD is about t / d (Archimedes: equal zones have equal areas)."""
    shape, spacing = (144, 144, 72), (0.5, 0.5, 1.0)
    centre = [72.0, 72.0, 36.0]
    moved = list(centre)
    moved[axis] += 8 / spacing[axis]
    one, other = ball(shape, centre, 25, spacing), ball(shape, moved, 25, spacing)
    assert nsd(one, other, spacing, 4.0) == pytest.approx(4 / 8, abs=0.1)
    assert nsd(one, other, spacing, 8.0) == 1


def test_concentric_balls_agree_exactly_from_the_difference_of_their_radii_on():
    shape, spacing, centre = (72, 72, 36), (1.0, 1.0, 2.0), (36, 36, 18)
    one, other = ball(shape, centre, 20, spacing), ball(shape, centre, 24, spacing)
    assert nsd(one, other, spacing, 2.0) < 0.05
    assert nsd(one, other, spacing, 6.0) == 1


def test_the_tolerance_is_in_millimetres_of_the_axis_that_is_off():
    """Planes 3 voxels apart, 1.5 or 6 mm; only the plane itself is off, the four sides agree."""
    one, other = slab(10), slab(13)
    assert nsd(one, other, (0.5, 1, 1), 2.0) == 1
    apart = nsd(one, other, (2.0, 1, 1), 2.0)
    assert 0.2 < apart < 0.95


def test_a_volume_of_one_slice_is_a_slice():
    one, other = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    one[5:20, 5:20] = other[9:24, 5:20] = True
    flat = nsd(one, other, (1, 2), 1.5)
    assert 0 < flat < 1
    assert nsd(one[:, :, None], other[:, :, None], (1, 2, 5), 1.5) == flat


def test_the_number_of_clicks_is_the_first_that_reaches_the_threshold():
    assert clicks_needed([0.3, 0.85, 0.8, 0.91], 0.85) == 2
    assert clicks_needed([0.3, 0.85, 0.8, 0.91], 0.90) == 4
    assert clicks_needed([0.3, 0.4], 0.85) == 20


def test_the_area_under_a_curve_is_a_share_of_the_largest():
    assert area_under([1, 1, 1, 1]) == 1
    assert area_under([0, 0, 0]) == 0
    assert area_under([0, 0.5, 1]) == pytest.approx(0.5)
    assert area_under([0.2, 0.8, 0.8]) == pytest.approx((0.5 + 0.8) / 2)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    low, high = interval(values.tolist(), [str(i) for i in range(400)], np.mean)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.002)
    assert high == pytest.approx(values.mean() + error, abs=0.002)
    assert interval(values.tolist(), [str(i) for i in range(400)], np.mean) == (low, high)


def test_ten_slices_of_a_case_are_no_ten_cases():
    values = np.repeat(np.random.default_rng(1).normal(0.7, 0.1, 40), 10).tolist()
    cases = [str(i) for i in range(40) for _ in range(10)]
    of_cases = interval(values, cases, np.mean)
    of_slices = interval(values, [str(i) for i in range(400)], np.mean)
    assert np.diff(of_cases)[0] > 2.5 * np.diff(of_slices)[0]


def test_one_case_has_no_interval():
    assert np.isnan(interval([0.5, 0.7], ["a", "a"], np.mean)).all()
    assert np.isnan(interval([0.5, 0.7], ["a", "b"], np.mean, resamples=0)).all()
