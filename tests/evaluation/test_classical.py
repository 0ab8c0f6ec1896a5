"""Otsu and the random walker on pictures that they must get right, and on such that nobody can."""

from __future__ import annotations

import numpy as np
import pytest

from lib.evaluation.classical import CLASSICAL, look_in_box, otsu_in_box
from lib.evaluation.metrics import dice
from lib.evaluation.simulate import clicks

A, B = np.mgrid[:60, :50]
DISC = (A - 30) ** 2 + (B - 22) ** 2 <= 12**2
BOX = (14.0, 6.0, 46.0, 38.0)


def picture(inside: float, outside: float, noise: float = 6.0) -> np.ndarray:
    """A disc in noise, uint8 (60, 50)."""
    rng = np.random.default_rng(0)
    plane = np.where(DISC, inside, outside) + rng.normal(0, noise, DISC.shape)
    return np.clip(plane, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", CLASSICAL.values(), ids=CLASSICAL)
@pytest.mark.parametrize(("inside", "outside"), [(180, 60), (60, 180)])
def test_a_disc_is_found_whether_bright_or_dark(method, inside, outside):
    mask = method(picture(inside, outside), BOX)
    assert mask.dtype == bool and mask.shape == (60, 50)
    assert dice(mask, DISC) > 0.95


@pytest.mark.parametrize("method", CLASSICAL.values(), ids=CLASSICAL)
def test_nothing_outside_the_box_is_taken(method):
    mask = method(picture(180, 60), (24.0, 16.0, 60.0 - 1, 50.0 - 1))
    outside = np.ones_like(mask)
    outside[24:, 16:] = False
    assert not (mask & outside).any()


def test_otsu_fills_holes_and_drops_other_pieces():
    plane = picture(180, 60, noise=0)
    plane[28:31, 20:23] = 60
    plane[15:17, 7:9] = 180
    np.testing.assert_array_equal(otsu_in_box(plane, BOX), DISC)


def test_otsu_takes_the_side_that_the_rim_is_not_on_even_when_it_is_the_larger_one():
    """A disc fills most of a tight box: the rim decides, not the area."""
    tight = (18.0, 10.0, 42.0, 34.0)
    assert DISC[18:43, 10:35].mean() > 0.6
    assert dice(otsu_in_box(picture(60, 180), tight), DISC) > 0.95


@pytest.mark.parametrize("method", CLASSICAL.values(), ids=CLASSICAL)
def test_a_box_of_one_intensity_holds_nothing(method):
    assert not method(np.full((60, 50), 90, np.uint8), BOX).any()


@pytest.mark.parametrize("method", CLASSICAL.values(), ids=CLASSICAL)
@pytest.mark.parametrize("box", [(0, 0, 59, 49), (5, 5, 5, 5), (5, 5, 6, 20), (0, 0, 0, 49), (57, 9, 59, 9)])
def test_boxes_of_any_size_have_an_answer(method, box):
    mask = method(picture(180, 60), tuple(map(float, box)))
    assert mask.shape == (60, 50)
    assert not mask[: box[0]].any() and not mask[box[2] + 1 :].any()


@pytest.mark.parametrize("name", CLASSICAL)
def test_colour_is_looked_at_as_grey(name):
    grey = picture(180, 60)
    colour = np.repeat(grey[:, :, None], 3, 2)
    look = look_in_box(name)
    np.testing.assert_array_equal(look(colour, clicks([], [], box=BOX)), look(grey, clicks([], [], box=BOX)))
