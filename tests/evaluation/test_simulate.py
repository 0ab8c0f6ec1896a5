"""Prompts by the field's rules: the deepest point of the largest error, boxes that are a little too large."""

from __future__ import annotations

import numpy as np

from lib.evaluation.simulate import box_around, click_by_click, generator, largest, next_click


def blocks() -> np.ndarray:
    """A small block of 3 x 3 and a large one of 21 x 11."""
    mask = np.zeros((40, 40), bool)
    mask[2:5, 2:5] = True
    mask[10:31, 10:21] = True
    return mask


def test_the_next_click_is_the_deepest_point_of_the_largest_error():
    point = next_click(np.zeros((40, 40), bool), blocks())
    assert point is not None
    assert 15 <= point[0] <= 25 and point[1] == 15


def test_the_border_of_the_image_is_a_border_of_the_error():
    truth = np.zeros((40, 40), bool)
    truth[:20] = True
    assert next_click(np.zeros_like(truth), truth) in [(9, b) for b in range(40)] + [
        (10, b) for b in range(40)
    ]


def test_what_is_too_much_is_clicked_on_as_well_as_what_is_missing():
    truth = blocks()
    mask = np.zeros_like(truth)
    mask[2:5, 2:5] = True
    mask[10:31, 10:40] = True  # leaks over 19 columns
    point = next_click(mask, truth)
    assert point is not None and not truth[point] and mask[point]
    assert next_click(truth, truth) is None


def test_depth_is_measured_in_millimetres():
    """A plate one slice thick and a narrow column: the slices' distance says which is deeper."""
    truth = np.zeros((9, 40, 40), bool)
    truth[4, 9:39, 9:39] = True
    truth[1:8, 1:10, 1:10] = True
    thick = next_click(np.zeros_like(truth), truth, spacing=(10, 1, 1))
    assert thick is not None and thick[0] == 4 and min(thick[1:]) > 9
    thin = next_click(np.zeros_like(truth), truth, spacing=(0.5, 1, 1))
    assert thin is not None and thin[0] == 4 and max(thin[1:]) <= 9


def test_a_jittered_click_is_near_and_on_the_same_piece():
    truth = blocks()
    empty = np.zeros_like(truth)
    deepest = next_click(empty, truth)
    assert deepest is not None
    found = {next_click(empty, truth, 8, generator(0, n)) for n in range(60)}
    assert len(found) > 20
    piece = largest(truth)
    for point in found:
        assert point is not None and piece[point]
        assert max(abs(p - d) for p, d in zip(point, deepest, strict=True)) <= 8


def test_a_jittered_click_in_a_volume_stays_on_its_slice():
    truth = np.zeros((5, 30, 30), bool)
    truth[1:4, 5:25, 5:25] = True
    points = [next_click(np.zeros_like(truth), truth, 5, generator(0, n)) for n in range(30)]
    assert {p[0] for p in points if p} == {2}


def test_a_box_without_jitter_holds_the_structure_exactly():
    assert box_around(blocks(), 0, generator(0)) == (2, 2, 30, 20)


def test_a_jittered_box_is_only_ever_too_large_and_stays_on_the_slice():
    boxes = np.array([box_around(blocks(), 6, generator(0, n)) for n in range(80)])
    slack = (boxes - [2, 2, 30, 20]) * [-1, -1, 1, 1]
    assert slack.min() == 0
    assert set(np.unique(slack[:, 3])) == set(range(7))
    assert boxes[:, :2].min() == 0 and slack[:, :2].max() == 2  # the image ends there
    assert len({tuple(row) for row in slack[:, 2:]}) > 20  # each edge by itself


def test_clicks_follow_the_answers():
    """An answer that takes everything is corrected beside the structure, one that takes nothing on it."""
    truth = blocks()
    answers = iter([np.ones_like(truth), np.zeros_like(truth), truth])
    found = list(click_by_click(truth, truth, 5, lambda plane, prompts: next(answers), 0, generator(0)))
    assert len(found) == 3  # the third answer has no error left
    last, mask = found[-1]
    assert last.positive.tolist() == [True, False, True]
    assert [bool(truth[int(a), int(b)]) for a, b in last.points] == [True, False, True]
    assert mask is truth
    assert [len(prompts.points) for prompts, _ in found] == [1, 2, 3]


def test_random_numbers_depend_on_the_names_alone():
    assert generator(3, "case", "liver").random() == generator(3, "case", "liver").random()
    numbers = {generator(*k).random() for k in [(3, "a", "bc"), (3, "ab", "c"), (4, "a", "bc"), (3, "a")]}
    assert len(numbers) == 4
