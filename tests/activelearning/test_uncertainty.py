"""Each sign of doubt raises the number."""

from __future__ import annotations

import numpy as np
import pytest

from lib.activelearning.uncertainty import ASKED_AGAIN, BOXES, SLACK, score_structure
from lib.sam.search import Found

SHAPE = (40, 30)
MASK = np.zeros(SHAPE, bool)
MASK[10:20, 8:16] = True
NONE = np.zeros(SHAPE, bool)


def found(mask=MASK, presence=8.0, score=1.0, disagreement=0.0) -> Found:
    return Found(mask, np.where(mask, 5.0, -5.0), presence, score, disagreement)


def same(index, prompts) -> np.ndarray:
    return MASK


def score(slices, segment=same):
    return score_structure(slices, segment, np.random.default_rng(0))


def test_what_is_sure_is_sure():
    assert score([found(), found()]).uncertainty == pytest.approx(0, abs=0.01)
    assert score([found(), found()]).present == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sign", [{"score": 0.4}, {"disagreement": 0.6}, {"presence": 0.1}])
def test_a_sign_of_doubt(sign):
    assert score([found(**sign), found()]).uncertainty > score([found(), found()]).uncertainty + 0.02


def test_boxes_that_give_other_masks_are_a_sign():
    asked: list[tuple[int, tuple]] = []

    def other(index, prompts) -> np.ndarray:
        asked.append((index, tuple(prompts.box)))
        return np.roll(MASK, 20 * len(asked) // BOXES % 20, 0)

    large = np.ones(SHAPE, bool)
    assert score([found(), found(large), found(), found()], other).uncertainty > 0.1
    assert len(asked) == ASKED_AGAIN * BOXES
    assert asked[0][0] == 1  # the largest mask comes first
    for _, (a0, b0, a1, b1) in asked[BOXES:]:
        assert 10 - SLACK <= a0 <= 10 and 19 <= a1 <= 19 + SLACK
        assert 8 - SLACK <= b0 <= 8 and 15 <= b1 <= 15 + SLACK


def test_what_is_surely_absent_is_sure_and_what_may_be_there_is_not():
    absent, perhaps = score([found(NONE, -8.0)]), score([found(NONE, -0.1)])
    assert absent.uncertainty == absent.present == pytest.approx(0, abs=0.01)
    assert perhaps.uncertainty == perhaps.present > 0.4
