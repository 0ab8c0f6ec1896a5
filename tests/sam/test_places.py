"""Where a structure lies, and on which slices."""

from __future__ import annotations

import numpy as np
import pytest

from lib.sam import zoom
from lib.sam.places import PRICE, Region, regions, run_of_slices

SHAPE = (20, 100, 80)
BOXES = {1: ((2, 10, 10), (6, 20, 20)), 2: ((4, 40, 40), (9, 60, 50)), 3: ((10, 60, 20), (18, 90, 30))}


def label_map() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for value, (low, high) in BOXES.items():
        labels[tuple(slice(*side) for side in zip(low, high, strict=True))] = value
    return labels


def test_a_region_is_in_shares_of_the_image():
    found = regions(label_map())
    assert set(found) == {1, 2, 3}
    np.testing.assert_allclose(found[2].low, [4 / 20, 40 / 100, 40 / 80])
    np.testing.assert_allclose(found[2].high, [9 / 20, 60 / 100, 50 / 80])
    np.testing.assert_allclose(found[2].centre, found[2].middle)
    finer = regions(np.kron(label_map(), np.ones((2, 3, 1), np.uint8)))[2]
    np.testing.assert_allclose(
        [finer.low, finer.high, finer.centre], [found[2].low, found[2].high, found[2].centre]
    )


def test_a_region_goes_back_to_pixels_and_slices():
    one = regions(label_map())[2]
    low, high = one.corners((100, 80))
    np.testing.assert_allclose([low, high], [(40, 40), (59, 49)])
    assert list(one.slices(20)) == list(range(1, 12))  # 4 to 8 and an eighth of all on each side
    assert one.slices(200)[0] == 15 and one.slices(200)[-1] == 114
    assert list(one.slices(1)) == [0]


@pytest.mark.parametrize("far", [-0.9, 0.9])
def test_a_place_beside_the_image_is_looked_at_from_within(far):
    one = regions(label_map())[2]
    one = Region(one.low + far, one.high + far, one.centre + far)
    view = zoom.around(*one.corners((100, 80)), (100, 80), 256, least=30)
    rows, columns = view.window
    assert 0 <= rows.start < rows.stop and 0 <= columns.start < columns.stop
    assert rows.start < 100 and columns.start < 80
    assert all(0 <= index < 20 for index in one.slices(20))


def test_a_structure_is_on_one_run_of_slices():
    where = Region(np.array([0.3, 0, 0]), np.array([0.6, 1, 1]), np.array([0.45, 0.5, 0.5]))
    sure, no = 3.0, -3.0
    seen = dict(enumerate([no, no, no, sure, sure, sure, no, no, no, no]))
    assert run_of_slices(seen, where, 10) == range(3, 6)
    # a slice in doubt in the middle of it is filled, and so is one at the end that is expected
    assert run_of_slices(seen | {4: -1.0}, where, 10) == range(3, 6)
    assert run_of_slices(seen | {5: -PRICE / 2}, where, 10) == range(3, 6)
    # what is surely seen counts more than what is expected
    assert run_of_slices(seen | {6: sure, 7: sure}, where, 10) == range(3, 8)
    assert run_of_slices(seen | {3: no}, where, 10) == range(4, 6)
    # elsewhere it has not been looked for
    assert run_of_slices({k: sure for k in (4, 5)}, where, 10) == range(4, 6)


def test_what_is_seen_nowhere_is_on_no_slice():
    where = Region(np.array([0.3, 0, 0]), np.array([0.6, 1, 1]), np.array([0.45, 0.5, 0.5]))
    assert len(run_of_slices({k: -3.0 for k in range(10)}, where, 10)) == 0
    assert len(run_of_slices({}, where, 10)) == 0


def test_what_most_patients_have_is_there_until_something_speaks_against_it():
    where = Region(np.array([0.3, 0, 0]), np.array([0.6, 1, 1]), np.full(3, 0.5))
    unsure = {3: -1.0, 4: -0.5, 5: -1.0}
    assert len(run_of_slices(unsure, where, 10, 0.5)) == len(run_of_slices(unsure, where, 10, 0.4)) == 0
    assert run_of_slices(unsure, where, 10, 0.8) == range(3, 6)
    assert len(run_of_slices({k: v - 2 for k, v in unsure.items()}, where, 10, 0.8)) == 0
