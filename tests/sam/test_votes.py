"""Which of several patients' masks is taken."""

from __future__ import annotations

import numpy as np
import pytest

from lib.sam.votes import SOFT, Vote, elect, weights

SHAPE = (40, 40)


def square(start: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[start : start + side, start : start + side] = True
    return mask


def vote(mask: np.ndarray, presence: float = 1.0, laid: np.ndarray | None = None) -> Vote:
    return Vote(mask, laid, np.where(mask, 4.0, -4.0), presence, 0.8)


def test_the_surer_count_more():
    assert weights([vote(square(0))]) == pytest.approx([1])
    one, other = weights([vote(square(0), 1.0 + SOFT), vote(square(0), 1.0)])
    assert one / other == pytest.approx(np.e) and one + other == pytest.approx(1)
    assert np.isfinite(weights([vote(square(0), 1e4), vote(square(0), -1e4)])).all()


def test_what_most_agree_with_is_taken():
    mask, agreement = elect([vote(square(25), 1.5), vote(square(4)), vote(square(5)), vote(square(6))])
    np.testing.assert_array_equal(mask, square(5))
    assert 0.4 < agreement < 0.9
    assert elect([vote(square(5))])[1] == 1


def test_one_is_taken_that_is_much_surer_than_the_others():
    mask, _ = elect([vote(square(25), 9.0), vote(square(4)), vote(square(5)), vote(square(6))])
    np.testing.assert_array_equal(mask, square(25))


def test_where_it_must_be_decides_between_two():
    here, there = square(5), square(25)
    laid = [square(24), square(26), square(25)]
    mask, agreement = elect([vote(here, 1.2, laid[0]), vote(there, 1.0, laid[1]), vote(here, -2.0, laid[2])])
    np.testing.assert_array_equal(mask, there)
    assert agreement < 0.8


def test_an_outline_is_taken_where_the_masks_are_pieces_of_it():
    pieces = [square(5, 6), square(9, 6)]
    mask, _ = elect([vote(piece, laid=square(5)) for piece in pieces])
    np.testing.assert_array_equal(mask, square(5))


def test_where_nobody_sees_anything():
    nothing = np.zeros(SHAPE, bool)
    mask, agreement = elect([vote(nothing), vote(square(5, 2))])
    assert mask.shape == SHAPE and not mask.any() and agreement == 0
    # one that does is followed
    mask, _ = elect([vote(nothing), vote(square(5))])
    np.testing.assert_array_equal(mask, square(5))
