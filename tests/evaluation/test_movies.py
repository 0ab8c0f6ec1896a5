"""Generated movies: the same every time, and what each kind is named for does happen."""

from __future__ import annotations

import numpy as np
import pytest

from lib.evaluation.movies import HIDDEN, KINDS, movie, movies

SIZE, FRAMES = (112, 96), 24


@pytest.fixture(scope="module")
def made() -> dict:
    return {kind: movie(kind, 0, size=SIZE, frames=FRAMES) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_masks_lie_on_the_same_grid(made, kind):
    one = made[kind]
    assert one.frames.dtype == np.uint8 and one.frames.shape[:3] == (FRAMES, *SIZE)
    assert one.truths.dtype == bool and one.truths.shape == (2 if kind == "crowded" else 1, FRAMES, *SIZE)
    assert one.truths[:, 0].any((1, 2)).all()


def test_a_movie_is_the_same_however_many_are_asked_for():
    *_, last = movies("moving", 2, 5, size=SIZE, frames=4)
    again = movie("moving", 5, 1, size=SIZE, frames=4)
    np.testing.assert_array_equal(last.frames, again.frames)
    np.testing.assert_array_equal(last.truths, again.truths)
    assert not np.array_equal(last.frames, movie("moving", 6, 1, size=SIZE, frames=4).frames)


@pytest.mark.parametrize("kind", ["occluded", "leaving"])
def test_an_object_is_away_for_some_frames_and_comes_back(made, kind):
    there = made[kind].truths[0].any((1, 2))
    assert HIDDEN[0] <= (~there).sum() <= 2 * HIDDEN[1]
    assert there[0] and there[-1]


def test_what_leaves_goes_over_an_edge_of_the_picture(made):
    truth = made["leaving"].truths[0]
    last = int(np.flatnonzero(~truth.any((1, 2)))[0]) - 1
    rim = truth[last].copy()
    rim[1:-1, 1:-1] = False
    assert rim.any()


def test_objects_do_not_overlap(made):
    assert made["crowded"].truths.sum(0).max() == 1


def test_an_unknown_kind_is_our_error():
    with pytest.raises(ValueError, match="'sleeping'"):
        movie("sleeping", 0)
