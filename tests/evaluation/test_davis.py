"""J and F of hand-made masks, and what is said of objects that go and come back."""

from __future__ import annotations

import numpy as np
import pytest

from lib.evaluation.davis import boundary_accuracy, followed, region_similarity


def square(low: int, high: int, side: int = 100) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[low:high, low:high] = True
    return mask


def test_region_similarity_is_intersection_over_union():
    left, right = np.zeros((2, 10, 10), bool)
    left[:6], right[4:] = True, True
    assert region_similarity(left, right) == pytest.approx(20 / 100)
    assert region_similarity(left, left) == 1.0


def test_two_empty_masks_agree_and_one_alone_does_not():
    empty, full = square(0, 0), square(20, 60)
    for measure in (region_similarity, boundary_accuracy):
        assert measure(empty, empty) == 1.0
        assert measure(empty, full) == measure(full, empty) == 0.0


def test_borders_within_the_tolerance_are_the_same():
    # 0.008 of the diagonal of 100 x 100 is 1.13 pixels: two are near, three are not
    assert boundary_accuracy(square(22, 58), square(20, 60)) > 0.95  # all but the very corners
    assert boundary_accuracy(square(23, 57), square(20, 60)) == 0.0


def test_boundary_accuracy_is_the_harmonic_mean_of_precision_and_recall():
    truth, mask = square(20, 60), square(20, 60)
    mask[70:90, 70:90] = True  # a second piece, whose border of half the length is wrong
    share = boundary_accuracy(mask, truth)
    precision = 160 / (160 + 80)
    assert share == pytest.approx(2 * precision / (1 + precision), abs=0.01)


def test_the_prompted_frame_is_not_counted():
    truth = np.stack([square(20, 60)] * 3)
    masks = truth.copy()
    masks[0] = False
    found = followed(masks, truth)
    assert found.region == found.boundary == found.both == 1.0
    assert found.empty is None and found.refound is None


def test_absences_and_returns_are_told_apart():
    there, gone = square(20, 60), square(0, 0)
    truth = np.stack([there, gone, gone, there, there, gone, there])
    masks = np.stack([there, gone, there, gone, there, gone, gone])
    found = followed(masks, truth)
    assert found.empty == pytest.approx(2 / 3)
    assert found.refound == 0.5  # the first time a frame late, the second time never


def test_masks_of_other_frames_are_refused():
    with pytest.raises(ValueError, match="not the same"):
        followed(np.zeros((3, 8, 8), bool), np.zeros((4, 8, 8), bool))
