"""Where a structure must be by where the others are."""

from __future__ import annotations

import numpy as np
import pytest

from lib.sam import zoom
from lib.sam.places import LANDMARKS, PRICE, Region, expected, landmarks, regions, run_of_slices

SHAPE = (20, 100, 80)
BOXES = {1: ((2, 10, 10), (6, 20, 20)), 2: ((4, 40, 40), (9, 60, 50)), 3: ((10, 60, 20), (18, 90, 30))}
NAMES = {1: "liver", 2: "spleen", 3: "kidney"}


def label_map(shift: tuple[int, int, int] = (0, 0, 0), shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for value, (low, high) in BOXES.items():
        labels[tuple(slice(a + d, b + d) for a, b, d in zip(low, high, shift, strict=True))] = value
    return labels


def layout(shift: tuple[int, int, int] = (0, 0, 0), **moved: tuple[float, float, float]) -> dict[str, Region]:
    found = {NAMES[value]: one for value, one in regions(label_map(shift)).items()}
    for name, by in moved.items():
        one, far = found[name], np.array(by)
        found[name] = Region(one.low + far, one.high + far, one.centre + far)
    return found


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
    assert list(one.slices(20)) == list(range(13))  # 4 to 8 and a fifth of all on each side
    assert one.slices(200)[0] == 0 and one.slices(200)[-1] == 129
    assert list(one.slices(1)) == [0]


def test_the_neighbours_say_where_it_is():
    shift = (2, 8, -6)
    there = {name: one for name, one in layout(shift).items() if name != "spleen"}
    found = expected("spleen", [layout(), layout()], there, dict.fromkeys(there, 0.8))
    truth = layout(shift)["spleen"]
    np.testing.assert_allclose([found.low, found.high], [truth.low, truth.high], atol=1e-9)


def test_the_nearer_and_surer_neighbour_counts_more():
    patients = [layout()]
    there = layout(liver=(0, 0.1, 0))
    del there["spleen"]

    def moved(**sure: float) -> float:
        return float((expected("spleen", patients, there, sure).low - patients[0]["spleen"].low)[1])

    assert (
        0 < moved(liver=0.2, kidney=0.9) < moved(liver=0.9, kidney=0.9) < moved(liver=0.9, kidney=0.2) < 0.1
    )
    assert moved(liver=0.9, kidney=0) == pytest.approx(0.1)


def test_where_it_was_found_itself_counts_as_far_as_that_is_sure():
    patients, there = [layout()], layout(spleen=(0, 0.2, 0))

    def moved(own: float) -> float:
        sure = {"liver": 0.8, "kidney": 0.8, "spleen": own}
        return float((expected("spleen", patients, there, sure).low - patients[0]["spleen"].low)[1])

    assert moved(0) == pytest.approx(0)
    assert moved(0.1) < 0.1 and 0.15 < moved(0.9) < 0.2
    # nobody else was found: then the places are those where it was seen, slice by slice
    assert expected("spleen", patients, {"spleen": there["spleen"]}, {"spleen": 0.8}) is None


def test_nobody_knows_where_a_lesion_is():
    there = {"liver": layout()["liver"]}
    anywhere = [layout(spleen=(0, far, 0)) for far in (-0.35, 0.0, 0.35)]
    assert expected("spleen", anywhere, there, {"liver": 0.8}) is None
    alike = [layout(spleen=(0, far, 0)) for far in (-0.05, 0.0, 0.05)]
    assert expected("spleen", alike, there, {"liver": 0.8}) is not None


def test_without_neighbours_nothing_is_said():
    assert expected("spleen", [layout()], {}, {}) is None
    assert expected("spleen", [], {"liver": layout()["liver"]}, {"liver": 0.8}) is None
    alone = [{"spleen": layout()["spleen"]}, {"liver": layout()["liver"]}]
    assert expected("spleen", alone, {"liver": layout()["liver"]}, {"liver": 0.8}) is None


def test_the_landmarks_are_the_nearest_ones():
    many = {f"s{n}": Region(*[np.full(3, n / 50)] * 3) for n in range(2 * LANDMARKS)}
    assert landmarks("s0", [many]) == [f"s{n}" for n in range(1, LANDMARKS + 1)]
    assert landmarks("kidney", [many]) == []


@pytest.mark.parametrize("far", [-0.9, 0.9])
def test_a_place_beside_the_image_is_looked_at_from_within(far):
    one = layout(spleen=(far, far, far))["spleen"]
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
