"""The measuring itself: Dice of known masks, and clicks by the field's rule."""

from __future__ import annotations

import numpy as np
import pytest

from lib.evaluation import cases
from lib.evaluation.measure import _deepest, _largest, dice


def test_dice_counts_voxels():
    truth = np.zeros((10, 10), bool)
    truth[:, :4] = True
    mask = np.zeros((10, 10), bool)
    mask[:, 2:6] = True
    assert dice(mask, truth) == pytest.approx(0.5)
    assert dice(truth, truth) == 1
    assert dice(~truth, truth) == 0


def test_the_next_click_is_the_deepest_point_of_the_largest_error():
    error = np.zeros((40, 40), bool)
    error[2:5, 2:5] = True
    error[10:31, 10:21] = True
    point = _deepest(_largest(error))
    assert point is not None
    assert 15 <= point[0] <= 25 and point[1] == 15


def test_the_icbm_slices_hold_tissue_inside_the_head():
    found = list(cases.icbm_tissue(step=40))
    assert len(found) >= 3
    for case in found:
        assert case.plane.shape == case.truth.shape == (197, 233)
        assert 0.01 < case.truth.mean() < 0.6
        assert case.plane[case.truth].mean() > case.plane[~case.truth].mean()


def test_generated_cases_are_the_same_each_time():
    one, other = (next(iter(cases.generated(1))) for _ in range(2))
    np.testing.assert_array_equal(one.plane, other.plane)
    np.testing.assert_array_equal(one.truth, other.truth)
