"""Prompts: checked when made, and seen slice by slice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import UserError
from lib.prompts.geometry import nearest_slice
from lib.prompts.prompts import Box, Direction, ObjectPrompts, Point, Prompts

SHAPE = (512, 512, 100)


def one(*points: Point, boxes: tuple[Box, ...] = (), mask=None, shape=SHAPE, axis=2, **more) -> Prompts:
    obj = ObjectPrompts("spleen", points, boxes, mask)
    return Prompts((obj,), shape, axis, **more)


def on(*index: float) -> Point:
    return Point((index[0], index[1], index[2]), True)


def off(*index: float) -> Point:
    return Point((index[0], index[1], index[2]), False)


def refused(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        one(*args, **kwargs)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_a_point_outside_the_volume_is_named_with_the_size_of_the_volume():
    message = refused(on(600, 10, 3))
    assert message == "foreground point [600, 10, 3] is outside the volume of 512 x 512 x 100 voxels."
    assert refused(on(1, 1, 1), off(5, -1, 3)).startswith("background point [5, -1, 3] is outside")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_finite_is_refused(bad):
    assert "must be 3 finite numbers" in refused(on(10, bad, 3))
    with pytest.raises(UserError, match="must be 3 finite numbers"):
        Box((0, 0, 0), (5, bad, 0))


@pytest.mark.parametrize("edge", [-0.5, 511.5])
def test_the_faces_of_the_outermost_voxels_are_inside(edge):
    assert one(on(edge, 3, 3)).slices is not None
    assert "outside" in refused(on(math.nextafter(edge, edge * 1000), 3, 3))


def test_slices_round_half_up_except_at_the_far_face_of_the_volume():
    assert [nearest_slice(x, 4) for x in (-0.5, 0.49, 0.5, 1.5, 3.49, 3.5)] == [0, 0, 1, 2, 3, 3]
    with pytest.raises(ValueError):
        nearest_slice(3.51, 4)


@given(st.integers(1, 600), st.floats(0, 1))
def test_every_coordinate_inside_a_volume_has_a_slice_within_half_a_voxel(count, part):
    coordinate = min(-0.5 + part * count, count - 0.5)
    index = nearest_slice(coordinate, count)
    assert 0 <= index < count and abs(index - coordinate) <= 0.5


def test_nothing_at_all_is_refused():
    expected = "No prompt was given: send foreground, background, roi, boxes or mask."
    assert refused() == expected
    assert refused(mask=np.zeros(SHAPE, bool)) == expected
    with pytest.raises(UserError, match="No prompt was given"):
        Prompts((), SHAPE, 2)


def test_one_empty_object_among_others_is_named():
    with pytest.raises(UserError, match='Object "liver" has no prompt'):
        Prompts((ObjectPrompts("spleen", (on(1, 1, 1),)), ObjectPrompts("liver")), SHAPE, 2)


def test_only_background_points_are_nothing_to_segment_unless_there_is_a_mask():
    assert refused(off(1, 1, 1)).startswith('Object "spleen" has only background points')
    mask = np.zeros((8, 8, 4), bool)
    mask[2:4, 2:4, 1] = True
    assert one(off(1, 1, 1), mask=mask, shape=(8, 8, 4)).slices is not None


def test_a_slice_may_have_only_background_points_if_another_has_the_object():
    prompts = one(on(1, 1, 1), off(1, 1, 5))
    assert prompts.slices(prompts.objects[0]) == [1, 5]
    assert not prompts.on_slice(prompts.objects[0], 5).positive.any()


def test_labels_are_different():
    with pytest.raises(UserError, match='Two objects have the label "a"'):
        Prompts((ObjectPrompts("a", (on(1, 1, 1),)), ObjectPrompts("a", (on(2, 2, 2),))), SHAPE, 2)


def test_the_object_is_named_when_there_are_several():
    with pytest.raises(UserError, match=r'^foreground point of object "b" \[0, 0, 100\] is outside'):
        Prompts((ObjectPrompts("a", (on(1, 1, 1),)), ObjectPrompts("b", (on(0, 0, 100),))), SHAPE, 2)


@pytest.mark.parametrize("bad", [(5, 4), (-1, 3), (0, 100)])
def test_a_slice_range_is_ordered_and_inside(bad):
    assert refused(on(1, 1, 1), slice_range=bad).startswith(f"slice_range {list(bad)} must be")


def test_points_keep_the_order_in_which_they_arrived():
    prompts = one(on(1.5, 2, 3), off(4, 5, 3.2), on(9, 9, 9), on(7, 8, 2.5))
    found = prompts.on_slice(prompts.objects[0], 3)
    assert found.points.tolist() == [[1.5, 2], [4, 5], [7, 8]]
    assert found.positive.tolist() == [True, False, True]
    assert found.box is None and found.mask is None and not found.is_empty
    empty = prompts.on_slice(prompts.objects[0], 50)
    assert empty.is_empty and empty.points.shape == (0, 2) and empty.positive.shape == (0,)


@pytest.mark.parametrize(("axis", "index", "in_plane"), [(0, 2, [3, 4]), (1, 3, [2, 4]), (2, 4, [2, 3])])
def test_in_plane_axes_are_in_increasing_order_along_any_slice_axis(axis, index, in_plane):
    shape = (10, 11, 12)
    mask = np.zeros(shape, bool)
    mask[2, 3, 4] = True
    box = Box((1, 1, 1), (5, 6, 7)).on_slice(index, axis)
    prompts = one(on(2, 3, 4), boxes=(box,), mask=mask, shape=shape, axis=axis)
    obj = prompts.objects[0]
    assert prompts.slices(obj) == [index]
    found = prompts.on_slice(obj, index)
    assert found.points.tolist() == [in_plane]
    high = [x for a, x in enumerate((5, 6, 7)) if a != axis]
    assert found.box == (1, 1, *high)
    assert found.mask is not None
    assert found.mask.shape == tuple(n for a, n in enumerate(shape) if a != axis)
    assert np.argwhere(found.mask).tolist() == [in_plane]


def test_a_box_through_several_slices_acts_on_the_middle_one_and_limits_propagation():
    prompts = one(boxes=(Box((35, 45, 7), (55, 50, 17)),))
    obj = prompts.objects[0]
    assert prompts.slices(obj) == [12]
    assert prompts.on_slice(obj, 12).box == (35, 45, 55, 50)
    assert prompts.on_slice(obj, 7).is_empty
    assert prompts.slice_limits(obj) == (7, 17)


def test_a_slice_range_cuts_a_box_and_moves_its_middle():
    prompts = one(boxes=(Box((35, 45, 7), (55, 50, 17)),), slice_range=(0, 9))
    assert prompts.slice_limits(prompts.objects[0]) == (7, 9)
    assert prompts.slices(prompts.objects[0]) == [8]
    assert "no slice of the box" in refused(boxes=(Box((35, 45, 7), (55, 50, 17)),), slice_range=(20, 30))


def test_a_box_on_one_slice_limits_nothing():
    prompts = one(boxes=(Box((1, 1, 4), (5, 5, 4)),), slice_range=(2, 60))
    assert prompts.slice_limits(prompts.objects[0]) == (2, 60)
    whole = one(boxes=(Box((1, 1, 4), (5, 5, 4)),))
    assert whole.slice_limits(whole.objects[0]) == (0, 99)


def test_a_prompt_where_the_object_may_not_be_is_refused():
    box = Box((35, 45, 7), (55, 50, 17))
    assert "on slice 30, but" in refused(on(40, 46, 30), boxes=(box,))
    assert "leave only slices 0 to 3" in refused(on(40, 46, 30), slice_range=(0, 3))


def test_boxes_without_area_or_outside_or_two_on_a_slice_are_refused():
    assert "no area" in refused(boxes=(Box((5, 1, 4), (5, 9, 4)),))
    assert "outside the volume" in refused(boxes=(Box((5, 1, 4), (900, 9, 4)),))
    assert "Two boxes act on slice 4" in refused(boxes=(Box((1, 1, 4), (5, 5, 4)), Box((2, 2, 4), (9, 9, 4))))


def test_a_box_over_the_edge_is_cut_to_the_volume_and_one_beside_it_is_refused():
    assert Box((-20, 5, 90), (30, 600, 140)).within(SHAPE) == Box((-0.5, 5, 90), (30, 511.5, 99.5))
    with pytest.raises(UserError, match=r"^roi from .* is outside the volume of 512 x 512 x 100 voxels\.$"):
        Box((0, 0, 120), (5, 5, 130)).within(SHAPE, "roi")


def test_corners_are_sorted_by_between_and_must_be_sorted_otherwise():
    assert Box.between((5, 2, 9), (1, 4, 3)) == Box((1, 2, 3), (5, 4, 9))
    with pytest.raises(UserError, match="low corner first"):
        Box((5, 0, 0), (1, 0, 0))


def test_a_mask_is_bool_on_the_grid_of_the_image():
    assert "must be bool" in refused(mask=np.ones((4, 4, 4), bool))
    assert "must be bool" in refused(mask=np.ones((8, 8, 4), np.uint8), shape=(8, 8, 4))


def test_a_mask_prompts_the_slices_it_covers_and_a_slice_range_picks_among_them():
    mask = np.zeros((8, 8, 6), bool)
    mask[2:4, 2:4, 1:5] = True
    everywhere = one(mask=mask, shape=(8, 8, 6))
    assert everywhere.slices(everywhere.objects[0]) == [1, 2, 3, 4]
    some = one(mask=mask, shape=(8, 8, 6), slice_range=(3, 5))
    assert some.slices(some.objects[0]) == [3, 4]
    assert some.on_slice(some.objects[0], 2).is_empty
    assert "no voxel of the mask" in refused(mask=mask, shape=(8, 8, 6), slice_range=(5, 5))
    assert "only background" in refused(off(1, 1, 5), mask=mask, shape=(8, 8, 6), slice_range=(5, 5))


def test_both_directions_are_the_default():
    assert one(on(1, 1, 1)).direction is Direction.BOTH


def test_a_volume_that_cannot_be_is_an_error_of_ours():
    with pytest.raises(ValueError):
        one(on(1, 1, 1), axis=3)
