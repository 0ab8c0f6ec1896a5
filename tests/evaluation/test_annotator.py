"""A simulated person: where it clicks, what it undoes, and what it counts; the server is a stand-in here."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lib.evaluation.annotator import Annotator, Rule

BALL = np.sum((np.indices((9, 30, 30)) - np.array([4, 15, 15])[:, None, None, None]) ** 2, 0) <= 16
OTHER = np.roll(BALL, 8, 2)
SMALL = BALL & (np.abs(np.arange(9) - 4) <= 2)[:, None, None]


class Perfect:
    """Gives the truth of what it is asked about, and remembers what it was asked."""

    def __init__(self, truth: np.ndarray) -> None:
        self.truth, self.asked = truth, []

    def on_slice(self, structure, clicks, positive, mask):
        self.asked.append(("slice", structure, list(clicks), list(positive), mask))
        return self.truth[clicks[0][0]].copy()

    def through(self, structure, clicks, positive, mask=None, slices=None):
        self.asked.append(("through", structure, list(clicks), list(positive), mask, slices))
        return self.truth.copy()


class Useless(Perfect):
    """Finds nothing, whatever it is asked."""

    def on_slice(self, *asked):
        super().on_slice(*asked)
        return np.zeros(self.truth.shape[1:], bool)

    def through(self, *asked):
        super().through(*asked)
        return np.zeros_like(self.truth)


def test_from_nothing_the_first_click_is_on_the_largest_slice_and_is_propagated():
    server = Perfect(BALL)
    work = Annotator().annotate(server, "ball", BALL)
    assert work.clicks == 1 and work.curve == [0.0, 1.0]
    assert server.asked == [("through", "ball", [(4, 15, 15)], [True], None, None)]
    np.testing.assert_array_equal(work.mask, BALL)


def test_what_was_begun_badly_is_clicked_on_again_on_the_same_slice_and_propagated_anew():
    class Leaking(Perfect):
        """Finds everything at the first click."""

        def through(self, structure, clicks, positive, mask=None, slices=None):
            found = super().through(structure, clicks, positive, mask, slices)
            return np.ones_like(found) if len(clicks) == 1 else found

    server = Leaking(BALL)
    work = Annotator().annotate(server, "ball", BALL)
    assert work.clicks == 2 and work.curve[1] < 0.3 and work.curve[2] == 1.0
    (_, _, first, *_), (kind, _, clicks, positive, mask, _) = server.asked
    assert kind == "through" and mask is None and clicks[:1] == first
    assert [k for k, *_ in clicks] == [4, 4] and positive == [True, False]


def test_a_mask_that_is_right_needs_no_click():
    server = Perfect(BALL)
    work = Annotator().annotate(server, "ball", BALL, BALL)
    assert work.clicks == 0 and not server.asked


@pytest.mark.parametrize("rule", [Rule.SLICE, Rule.NEARBY])
def test_a_mask_is_mended_on_the_slice_of_its_largest_error_with_the_mask_of_that_slice(rule):
    start = BALL.copy()
    start[4] = False
    start[4, 14:16, 10:20] = True
    server = Perfect(BALL)
    work = Annotator(rule, target=0.99).annotate(server, "ball", BALL, start)
    kind, _, clicks, positive, mask = server.asked[0]
    assert kind == "slice" and clicks[0][0] == 4 and positive == [True]
    np.testing.assert_array_equal(mask, start[4])
    assert work.clicks == 1 and work.curve[-1] == 1.0


def test_what_is_too_much_is_clicked_away():
    start = BALL | OTHER
    server = Perfect(BALL)
    work = Annotator(Rule.SLICE, target=1.0).annotate(server, "ball", BALL, start)
    assert all(not any(positive) for _, _, _, positive, _ in server.asked)
    assert work.clicks == OTHER.any((1, 2)).sum()  # a click for each slice of it


def test_a_slice_without_a_mask_is_not_asked_about_beside_the_structure():
    """The server takes no request that says only where the structure is not."""
    truth, start = BALL.copy(), BALL | OTHER
    server = Perfect(truth)
    start[4, 15, 15] = truth[4, 15, 15]
    Annotator(Rule.SLICE, target=1.0).annotate(server, "ball", truth, start)
    assert all(mask is not None for *_, mask in server.asked)


def test_nearby_slices_are_done_again_from_the_mended_one_but_not_those_that_were_clicked_on():
    start = np.zeros_like(BALL)
    start[2:7, 13:18, 13:18] = BALL[2:7, 13:18, 13:18]
    server = Perfect(BALL)
    work = Annotator(Rule.NEARBY, target=1.0).annotate(server, "ball", BALL, start)
    kind, _, clicks, _, mask, slices = server.asked[1]
    assert kind == "through" and not clicks
    first = server.asked[0][2][0][0]
    assert slices == (first - 3, first + 3)
    assert mask.any((1, 2)).nonzero()[0].tolist() == [first]
    assert work.clicks < Annotator(Rule.SLICE, target=1.0).annotate(Perfect(BALL), "ball", BALL, start).clicks


def test_everywhere_the_mended_slice_is_propagated_through_the_volume_if_that_is_better():
    start = np.zeros_like(BALL)
    start[2:7, 13:18, 13:18] = BALL[2:7, 13:18, 13:18]
    server = Perfect(BALL)
    work = Annotator(Rule.EVERYWHERE, target=1.0).annotate(server, "ball", BALL, start)
    assert [kind for kind, *_ in server.asked] == ["slice", "through"]
    assert server.asked[1][-1] == (0, 8)
    assert work.clicks == 1


def test_everywhere_all_slices_that_were_mended_are_propagated():
    class Near(Perfect):
        """From a slice it reaches only the next ones."""

        def through(self, structure, clicks, positive, mask=None, slices=None):
            found = super().through(structure, clicks, positive, mask, slices)
            return found & ndimage.binary_dilation(mask.any((1, 2)))[:, None, None]

    start = np.zeros_like(BALL)
    start[2:7, 13:18, 13:18] = BALL[2:7, 13:18, 13:18]
    server = Near(BALL)
    work = Annotator(target=1.0).annotate(server, "ball", BALL, start)
    sent = [mask.any((1, 2)).nonzero()[0].tolist() for kind, *_, mask, _ in server.asked if kind == "through"]
    assert work.curve[-1] == 1.0 and sent[0] == [4] and max(map(len, sent)) > 1


def test_what_is_beyond_an_end_is_cut_off_with_one_click():
    start = SMALL.copy()
    start[:2], start[7:] = SMALL[2], SMALL[6]  # two slices too many at each end
    server = Perfect(SMALL)
    work = Annotator(target=1.0).annotate(server, "ball", SMALL, start)
    assert work.clicks == 2 and work.curve[-1] == 1.0 and not any(clicks for _, _, clicks, *_ in server.asked)


def test_a_slice_is_carried_on_as_far_as_that_is_better():
    class Straying(Perfect):
        """Finds something else from the second slice on."""

        def through(self, structure, clicks, positive, mask=None, slices=None):
            found = super().through(structure, clicks, positive, mask, slices)
            found[np.abs(np.arange(9) - np.flatnonzero(mask.any((1, 2)))[0]) > 1] = OTHER[4]
            return found

    start = BALL & ~ndimage.binary_erosion(BALL, np.ones((1, 3, 3)))
    work = Annotator(Rule.NEARBY, target=1.0, most=1).annotate(Straying(BALL), "ball", BALL, start)
    right = [
        k for k in range(9) if np.array_equal(work.mask[k], BALL[k]) and not np.array_equal(BALL[k], start[k])
    ]
    assert len(right) == 3 and np.ptp(right) == 2 and not (work.mask & OTHER & ~BALL).any()


def test_in_the_volume_all_clicks_and_the_starting_mask_are_sent_each_time():
    start = BALL.copy()
    start[:4] = False
    server = Perfect(BALL)
    Annotator(Rule.VOLUME).annotate(server, "ball", BALL, start)
    ((kind, _, clicks, positive, mask, slices),) = server.asked
    assert kind == "through" and len(clicks) == 1 and positive == [True] and slices is None
    np.testing.assert_array_equal(mask, start)


def test_what_does_not_help_is_undone_counts_and_is_not_clicked_again():
    server = Useless(BALL)
    work = Annotator(Rule.SLICE, most=6).annotate(server, "ball", BALL, np.roll(BALL, 1, 2))
    assert work.clicks == 6 and work.curve == [work.curve[0]] * 7
    np.testing.assert_array_equal(work.mask, np.roll(BALL, 1, 2))
    places = [tuple(clicks[-1]) for _, _, clicks, _, _ in server.asked]
    assert len(set(places)) == len(places) == 6


def test_where_a_click_was_undone_the_other_slices_come_first():
    server = Useless(BALL)
    Annotator(Rule.SLICE, most=6).annotate(server, "ball", BALL, np.roll(BALL, 1, 2))
    assert len({clicks[0][0] for _, _, clicks, *_ in server.asked}) == 6


def test_where_nothing_helps_the_most_clicks_are_counted():
    truth = np.zeros((1, 8, 8), bool)
    truth[0, 3, 3] = True
    work = Annotator(most=20).annotate(Useless(truth), "dot", truth)
    assert work.clicks == 20


def test_a_mask_that_is_far_off_is_deleted_and_begun_anew():
    server = Perfect(BALL)
    work = Annotator().annotate(server, "ball", BALL, OTHER)
    assert server.asked[0][0] == "through" and server.asked[0][4] is None
    assert work.clicks == 1


def test_a_mask_where_nothing_is_costs_a_click_and_nothing_where_nothing_is_costs_none():
    none = np.zeros_like(BALL)
    offered, empty = (Annotator().annotate(Perfect(none), "ball", none, m) for m in (BALL, none))
    assert offered.clicks == 1 and not offered.mask.any()
    assert empty.clicks == 0
    assert Annotator().annotate(Perfect(none), "ball", none).clicks == 0


def test_a_flat_image_is_annotated_on_its_slice():
    truth = BALL[4:5]
    server = Perfect(truth)
    assert Annotator().annotate(server, "disc", truth).clicks == 1
    assert [kind for kind, *_ in server.asked] == ["slice"]
