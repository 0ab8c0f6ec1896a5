"""Views: where on a slice the network looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sam import zoom
from lib.sam.zoom import View

SIZE = 256
SHAPES = st.tuples(st.integers(1, 1500), st.integers(1, 1500))
LADDER = {int(2**n) for n in range(15)} | {3 * 2**n for n in range(14)}


@st.composite
def looked_at(draw):
    """A slice's shape, and inclusive corners somewhere on it, up to the outer borders of its voxels."""
    shape = draw(SHAPES)
    ends = [sorted(draw(st.tuples(*[st.floats(-0.5, n - 0.5)] * 2))) for n in shape]
    return shape, np.array([e[0] for e in ends]), np.array([e[1] for e in ends])


def _block(shape, low, high) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
    return mask


@given(looked_at(), st.sampled_from([64, 256, 512, 1024]), st.floats(0, 3000))
@settings(max_examples=300, deadline=None)
def test_a_view_lies_inside_the_slice_and_contains_what_it_looks_at(what, size, least):
    shape, low, high = what
    view = zoom.around(low, high, shape, size, least)
    assert view.a0 >= 0 and view.a0 + view.na <= shape[0]
    assert view.b0 >= 0 and view.b0 + view.nb <= shape[1]
    assert min(view.na, view.nb) >= 1
    assert view.contains(low, high)


@given(looked_at(), st.floats(0, 3000))
@settings(max_examples=200, deadline=None)
def test_the_side_of_a_view_is_from_the_ladder_unless_the_slice_cuts_it(what, least):
    shape, low, high = what
    view = zoom.around(low, high, shape, SIZE, least)
    if not view.is_whole(shape):
        for count, length in ((view.na, shape[0]), (view.nb, shape[1])):
            assert count in LADDER or count == length
        assert view.side >= least
        assert view.side >= SIZE / zoom.MAX_ENLARGEMENT


@pytest.mark.parametrize(
    ("shape", "low", "high"), [((400, 300), (30, 20), (390, 280)), ((50, 50), (9, 9), (9, 9))]
)
def test_a_structure_that_fills_the_slice_is_seen_on_the_whole_slice(shape, low, high):
    assert zoom.around(np.array(low), np.array(high), shape, SIZE) == zoom.whole(shape)


def test_neighbouring_clicks_share_a_view():
    views = {
        zoom.around(np.array([200.0 + d, 300.0]), np.array([200.0 + d, 300.0]), (512, 512), SIZE)
        for d in range(-8, 9)
    }
    assert len(views) <= 4  # 17 clicks in a row, on a grid of 8 voxels


@pytest.mark.parametrize("corner", [(0, 0), (0, 511), (399, 0), (399, 511)])
def test_a_single_voxel_in_a_corner_has_a_view_in_that_corner(corner):
    at = np.array(corner, float)
    view = zoom.around(at, at, (400, 512), SIZE)
    assert (view.na, view.nb) == (64, 64)
    assert view.contains(at, at)


def test_a_view_of_a_narrow_slice_is_as_wide_as_the_slice():
    view = zoom.around(np.array([3.0, 240.0]), np.array([8.0, 250.0]), (20, 500), SIZE)
    assert (view.na, view.nb) == (20, 64)
    assert view.contains(np.array([3.0, 240.0]), np.array([8.0, 250.0]))


def test_a_long_thin_structure_is_not_cut():
    low, high = np.array([100.0, 10.0]), np.array([101.0, 480.0])
    assert zoom.around(low, high, (512, 512), SIZE).contains(low, high)
    assert zoom.around(low[::-1], high[::-1], (512, 512), SIZE).contains(low[::-1], high[::-1])


def test_the_extent_of_a_mask_is_its_inclusive_corners():
    low, high = zoom.extent(_block((40, 50), (3, 7), (9, 8)))
    assert (tuple(low), tuple(high)) == ((3, 7), (9, 8))
    assert zoom.extent(np.zeros((4, 5), bool)) is None


def test_the_union_of_boxes_holds_all_of_them_and_ignores_missing_ones():
    boxes = [
        (np.array([1.0, 9.0]), np.array([2.0, 9.0])),
        None,
        (np.array([0.0, 10.0]), np.array([1.0, 12.0])),
    ]
    low, high = zoom.union(*boxes)
    assert (tuple(low), tuple(high)) == ((0, 9), (2, 12))
    assert zoom.union(None, None) is None


def test_a_structure_seen_well_needs_no_closer_look():
    mask = _block((512, 512), (100, 100), (163, 120))  # 64 voxels: 64 network pixels in a view of 256
    assert zoom.closer_look(View(0, 0, 256, 256), mask, 256) is None


def test_a_structure_seen_with_too_few_pixels_is_looked_at_from_closer():
    mask = _block((512, 512), (100, 100), (120, 110))
    closer = zoom.closer_look(zoom.whole((512, 512)), mask, 256)
    assert closer.side == 64
    assert closer.contains(*zoom.extent(mask))


def test_a_closer_look_keeps_the_prompts_in_sight_or_is_not_taken():
    mask = _block((512, 512), (100, 100), (110, 110))
    near, far = np.array([150.0, 105.0]), np.array([480.0, 480.0])
    closer = zoom.closer_look(zoom.whole((512, 512)), mask, 256, (near, near))
    assert closer.contains(near, near) and closer.contains(*zoom.extent(mask))
    assert zoom.closer_look(zoom.whole((512, 512)), mask, 256, (far, far)) is None


def test_nothing_found_gives_neither_a_closer_nor_a_wider_look():
    nothing = np.zeros((512, 512), bool)
    assert zoom.closer_look(View(0, 0, 128, 128), nothing, 256) is None
    assert zoom.wider_look(View(0, 0, 128, 128), nothing, 256) is None


def test_a_mask_that_ends_inside_the_view_needs_no_wider_look():
    assert zoom.wider_look(View(64, 64, 128, 128), _block((512, 512), (65, 65), (190, 190)), 256) is None


@pytest.mark.parametrize(
    ("low", "high"),
    [((64, 90), (80, 99)), ((90, 64), (99, 80)), ((180, 90), (191, 99)), ((90, 180), (99, 191))],
)
def test_a_mask_that_runs_into_a_border_of_the_view_is_looked_at_wider(low, high):
    view = View(64, 64, 128, 128)
    wider = zoom.wider_look(view, _block((512, 512), low, high), 256)
    assert wider.side >= 1.5 * view.side
    assert wider.contains(np.array(low), np.array(high))


def test_a_mask_that_ends_where_the_slice_ends_needs_no_wider_look():
    assert zoom.wider_look(View(0, 0, 128, 128), _block((512, 512), (0, 0), (90, 90)), 256) is None


def test_a_wider_look_keeps_the_prompts_in_sight():
    mask = _block((512, 512), (64, 64), (70, 70))
    click = np.array([400.0, 70.0])
    assert zoom.wider_look(View(64, 64, 128, 128), mask, 256, (click, click)).contains(click, click)


@given(SHAPES, st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_looking_wider_and_wider_ends_at_the_whole_slice(shape, a, b):
    at = np.array([a % shape[0], b % shape[1]], float)
    view = zoom.around(at, at, shape, SIZE)
    everything = np.ones(shape, bool)
    for _ in range(20):
        seen = np.zeros(shape, bool)
        seen[view.window] = everything[view.window]
        wider = zoom.wider_look(view, seen, SIZE)
        if wider is None:
            break
        assert wider.na * wider.nb > view.na * view.nb
        view = wider
    assert view.is_whole(shape)


@given(SHAPES, st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_distances_go_from_close_to_the_whole_slice_and_all_show_the_click(shape, a, b):
    at = np.array([a % shape[0], b % shape[1]], float)
    views = zoom.distances(at, at, shape, SIZE)
    assert views[0].is_whole(shape) and len(set(views)) == len(views) <= 12
    assert all(view.contains(at, at) for view in views)
    sides = [view.side for view in views[1:]]
    assert sides == sorted(sides) and all(side >= min(SIZE / 4, max(shape)) for side in sides)


@given(looked_at(), st.sampled_from([64, 256, 1024]))
@settings(max_examples=200, deadline=None)
def test_a_farther_look_holds_all_that_the_near_one_does(what, size):
    shape, low, high = what
    near = zoom.around(low, high, shape, size)
    far = zoom.farther(near, shape, size)
    assert far == near or far.side > near.side
    last = np.array([near.na - 1, near.nb - 1])
    assert far.contains(np.array([near.a0, near.b0]), np.array([near.a0, near.b0]) + last)
    assert far != near or near.is_whole(shape)


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_a_moved_view_keeps_its_size_and_stays_in_the_slice(da, db):
    shape, view = (200, 150), zoom.View(60, 20, 96, 96)
    moved = zoom.moved(view, np.array([da, db]), shape)
    assert (moved.na, moved.nb) == (view.na, view.nb)
    assert 0 <= moved.a0 <= shape[0] - moved.na and 0 <= moved.b0 <= shape[1] - moved.nb
    wanted = np.clip([60 + da, 20 + db], 0, [shape[0] - 96, shape[1] - 96])
    assert np.abs(np.subtract(wanted, [moved.a0, moved.b0])).max() <= 96 / 16 / 2
    assert zoom.moved(zoom.whole(shape), np.array([da, db]), shape) == zoom.whole(shape)
