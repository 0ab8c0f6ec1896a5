"""The cases that the default checkpoint is measured on."""

from __future__ import annotations

import numpy as np

from lib.evaluation import cases


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
