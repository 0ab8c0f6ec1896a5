"""What Slicer, OHIF, CVAT and plain clients send, and what it comes to mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from lib.errors import UserError
from lib.prompts.dialects import parse, runs
from lib.prompts.prompts import Box, Direction, Point, Prompts

SHAPE = (96, 80, 40)


def read(request: dict, shape=SHAPE, axis=2, dimension=3, **more) -> Prompts:
    return parse(request, shape, axis, dimension, **more)


def refused(request: dict, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        read(request, *args, **kwargs)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300
    return message


# --- MONAI Label and Slicer


def test_slicer_points_are_voxel_indices_of_one_object_called_by_its_label():
    request = {
        "model": "biosam2_3d",
        "image": "spleen_3",
        "label": "spleen",
        "foreground": [[40, 50, 12], [41, 50, 12]],
        "background": [[10, 10, 12]],
        "roi": [],
        "result_extension": ".nrrd",
    }
    prompts = read(request)
    (obj,) = prompts.objects
    assert obj.label == "spleen"
    assert obj.points == (Point((40, 50, 12), True), Point((41, 50, 12), True), Point((10, 10, 12), False))
    assert (prompts.shape, prompts.slice_axis, prompts.direction) == (SHAPE, 2, Direction.BOTH)


def test_slicers_roi_comes_in_unsorted_pairs():
    (obj,) = read({"roi": [35, 25, 55, 45, 7, 17]}).objects
    assert obj.label == "object"
    assert obj.boxes == (Box((25, 45, 7), (35, 55, 17)),)


def test_a_roi_drawn_over_the_edge_is_cut_and_one_beside_the_volume_refused():
    (obj,) = read({"roi": [-12, 25, 55, 45, 30, 70]}).objects
    assert obj.boxes == (Box((-0.5, 45, 30), (25, 55, 39.5)),)
    assert refused({"roi": [100, 125, 55, 45, 7, 17]}).startswith("roi from [100, 45, 7] to [125, 55, 17] is")
    assert "no area" in refused({"roi": [25, 25, 45, 55, 7, 17]})


def test_lists_may_come_as_json_text():
    (obj,) = read({"foreground": "[[1, 2, 3]]", "background": "[]", "roi": ""}).objects
    assert obj.points == (Point((1, 2, 3), True),)
    assert "not valid JSON" in refused({"foreground": "[[1, 2, 3]"})
    assert "not valid JSON" in refused({"foreground": "[" * 100_000})


@pytest.mark.parametrize("nothing", [None, "", [], "[]"])
def test_nothing_sent_in_any_form_is_no_prompt(nothing):
    request = dict.fromkeys(
        ("foreground", "background", "roi", "boxes", "mask", "objects", "points"), nothing
    )
    assert refused(request) == "No prompt was given: send foreground, background, roi, boxes or mask."
    assert refused({}) == refused(request)


def test_a_click_outside_is_refused_and_never_moved():
    message = "foreground point [96, 10, 3] is outside the volume of 96 x 80 x 40 voxels."
    assert refused({"foreground": [[5, 5, 3], [96, 10, 3]]}) == message
    assert refused({"foreground": [[5, 5, 3]], "background": [[5, 5, 41]], "slice": 3}, dimension=2)


def test_background_points_alone_segment_nothing():
    assert "only background points" in refused({"background": [[5, 5, 3]], "label": "liver"})


# --- One slice


def test_slicer_sends_all_points_and_the_slice_it_looks_at():
    request = {"foreground": [[1, 1, 3], [2, 2, 8], [3, 3, 3]], "background": [[9, 9, 8]], "slice": 3}
    (obj,) = read(request, dimension=2).objects
    assert obj.points == (Point((1, 1, 3), True), Point((3, 3, 3), True))
    assert refused(request | {"slice": 5}, dimension=2).startswith("No prompt is on slice 5")
    assert len(read(request, dimension=3).objects[0].points) == 4


def test_without_a_slice_the_last_foreground_point_names_it():
    request = {"foreground": [[1, 1, 3], [2, 2, 8]], "background": [[9, 9, 8], [9, 9, 3]]}
    (obj,) = read(request, dimension=2).objects
    assert obj.points == (Point((2, 2, 8), True), Point((9, 9, 8), False))


def test_a_roi_through_the_slice_is_a_box_on_it():
    request = {"foreground": [[30, 50, 9]], "roi": [35, 25, 55, 45, 7, 17]}
    (obj,) = read(request, dimension=2).objects
    assert obj.boxes == (Box((25, 45, 9), (35, 55, 9)),)
    (alone,) = read({"roi": request["roi"]}, dimension=2).objects
    assert alone.boxes == (Box((25, 45, 12), (35, 55, 12)),)
    (away,) = read(request | {"foreground": [[30, 50, 20]]}, dimension=2).objects
    assert away.boxes == ()


def test_a_mask_on_one_slice_needs_no_slice_and_one_on_several_does():
    mask = np.zeros(SHAPE, bool)
    mask[3:6, 3:6, 4] = True
    prompts = read({"mask": mask}, dimension=2)
    assert prompts.slices(prompts.objects[0]) == [4]
    mask[3:6, 3:6, 5] = True
    assert "mask covers 2 slices" in refused({"mask": mask}, dimension=2)
    prompts = read({"mask": mask, "slice": 5}, dimension=2)
    assert prompts.slices(prompts.objects[0]) == [5]


def test_objects_without_a_prompt_are_left_out_only_when_the_client_chose_the_slice():
    objects = [{"label": "a", "foreground": [[1, 1, 3]]}, {"label": "b", "foreground": [[2, 2, 8]]}]
    assert [obj.label for obj in read({"objects": objects, "slice": 8}, dimension=2).objects] == ["b"]
    assert refused({"objects": objects}, dimension=2).startswith('Object "a" has no prompt on slice 8')


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_counts_along_the_slice_axis(axis):
    request = {"foreground": [[3, 4, 5], [6, 7, 8]], "slice": (3, 4, 5)[axis]}
    assert read(request, axis=axis, dimension=2).objects[0].points == (Point((3, 4, 5), True),)


@pytest.mark.parametrize("bad", [-1, 40, 2.5, "3", True, [3]])
def test_a_slice_that_is_not_one_is_refused(bad):
    assert refused({"foreground": [[1, 1, 3]], "slice": bad}, dimension=2).startswith("slice ")


# --- CVAT and flat images


def test_a_flat_image_takes_x_y_and_cvats_roi_of_four():
    request = {"foreground": [[600, 10]], "background": [[5, 6, 0]], "roi": [20, 700, 10, 5]}
    (obj,) = read(request, shape=(800, 720, 1), dimension=2).objects
    assert obj.points == (Point((600, 10, 0), True), Point((5, 6, 0), False))
    assert obj.boxes == (Box((10, 5, 0), (20, 700, 0)),)


@pytest.mark.parametrize(("axis", "index"), [(0, (7, 1, 2)), (1, (1, 7, 2)), (2, (1, 2, 7))])
def test_x_y_in_a_volume_are_on_the_slice_named(axis, index):
    (obj,) = read({"foreground": [[1, 2]], "slice": 7}, axis=axis).objects
    assert obj.points == (Point(index, True),)


def test_x_y_in_a_volume_without_a_slice_are_refused():
    assert "foreground[0] [1, 2] has no slice" in refused({"foreground": [[1, 2]]})
    assert "roi [1, 2] has no slice" in refused({"roi": [1, 2, 5, 6]})


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_a_roi_of_another_length_is_refused(length):
    assert refused({"roi": [1] * length}).startswith(
        "roi must be [i0, i1, j0, j1, k0, k1] or [x0, y0, x1, y1]"
    )


# --- OHIF


def test_ohifs_deepedit_names_points_by_structure_with_one_background_for_all():
    request = {"spleen": [[1, 1, 3]], "liver": [[2, 2, 3]], "kidney": [], "background": [[9, 9, 3]]}
    prompts = read(request, labels=("liver", "kidney", "spleen", "background"))
    assert [obj.label for obj in prompts.objects] == ["liver", "spleen"]
    assert prompts.objects[0].points == (Point((2, 2, 3), True), Point((9, 9, 3), False))
    assert prompts.objects[1].points == (Point((1, 1, 3), True), Point((9, 9, 3), False))


def test_a_structure_named_like_a_field_is_not_taken_for_points():
    request = {"device": "cpu", "image": "spleen_3", "foreground": [[1, 1, 3]]}
    assert len(read(request, labels=("device", "image", "foreground")).objects) == 1


# --- Plain JSON


def test_objects_each_have_their_own_prompts_and_points_keep_their_order():
    request = {
        "objects": [
            {"label": " liver ", "points": [[1, 1, 3, 1], [2, 2, 3, 0], [3, 3, 3, 1]]},
            {"label": "spleen", "boxes": [[9, 8, 3, 4, 5, 6], {"low": [1, 1, 5], "high": [5, 5, 5]}]},
        ],
        "slice_range": [2, 30],
        "direction": "forward",
    }
    prompts = read(request)
    liver, spleen = prompts.objects
    assert liver.label == "liver"
    assert [point.positive for point in liver.points] == [True, False, True]
    assert spleen.boxes[0] == Box((4, 5, 3), (9, 8, 6))
    assert (prompts.slice_range, prompts.direction) == ((2, 30), Direction.FORWARD)


def test_top_level_prompts_beside_objects_are_one_more_object():
    objects = [{"label": "liver", "foreground": [[1, 1, 3]]}]
    prompts = read({"foreground": [[5, 5, 5]], "label": "spleen", "objects": json.dumps(objects)})
    assert [obj.label for obj in prompts.objects] == ["spleen", "liver"]
    assert [obj.label for obj in read({"label": "spleen", "objects": objects}).objects] == ["liver"]
    assert 'the label "liver"' in refused({"foreground": [[5, 5, 5]], "label": "liver", "objects": objects})


def test_a_box_that_came_through_the_boxes_field_is_named_by_its_place():
    request = {"objects": [{"foreground": [[1, 1, 3]], "boxes": [[0, 0, 50, 5, 5, 60]]}]}
    assert refused(request).startswith("objects[0].boxes[0] from [0, 0, 50] to [5, 5, 60] is outside")


def test_a_misspelt_field_of_an_object_is_not_lost():
    message = refused({"objects": [{"label": "liver", "forground": [[1, 1, 3]]}]})
    assert message.startswith("objects[0] has the unknown field 'forground'")


def test_an_object_without_prompts_is_refused():
    objects = [{"label": "liver", "foreground": [[1, 1, 3]]}, {"label": "spleen"}]
    for dimension in (2, 3):
        assert 'Object "spleen" has no prompt' in refused({"objects": objects}, dimension=dimension)


# --- Masks


def test_a_mask_comes_as_nested_lists_or_runs_or_an_array_or_by_name():
    mask = np.zeros((4, 3, 2), bool)
    mask[1, 2, 1] = mask[2, 0, 0] = True
    forms = [mask.tolist(), mask.astype(float) * 3, runs(mask), json.dumps(runs(mask)), "scan.nii.gz"]
    for form in forms:
        prompts = read({"mask": form}, shape=mask.shape, read_mask={"scan.nii.gz": mask}.__getitem__)
        assert np.array_equal(prompts.objects[0].mask, mask)
    assert "mask must be voxels or runs, not 'scan.nii.gz'" in refused({"mask": "scan.nii.gz"})


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_runs_read_back_as_the_mask_they_came_from(mask):
    # a point keeps the request valid where the mask is empty and counts as not sent
    prompts = read({"foreground": [[0, 0, 0]], "mask": runs(mask)}, shape=mask.shape)
    found = prompts.objects[0].mask
    assert np.array_equal(np.zeros(mask.shape, bool) if found is None else found, mask)


def test_runs_count_voxels_in_c_order():
    prompts = read({"mask": {"shape": [2, 3, 4], "rle": [4, 2]}}, shape=(2, 3, 4))
    assert np.argwhere(prompts.objects[0].mask).tolist() == [[0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(("axis", "flat"), [(0, (5, 6)), (1, (4, 6)), (2, (4, 5))])
def test_a_flat_mask_is_on_the_slice_named(axis, flat):
    prompts = read({"mask": np.ones(flat, bool).tolist(), "slice": 1}, shape=(4, 5, 6), axis=axis)
    assert prompts.slices(prompts.objects[0]) == [1]
    assert prompts.on_slice(prompts.objects[0], 1).mask.all()
    assert "must have the image's 4 x 5 x 6 voxels" in refused(
        {"mask": np.ones(flat, bool).tolist()}, shape=(4, 5, 6), axis=axis
    )


def test_an_empty_mask_says_nothing():
    assert read({"foreground": [[1, 1, 3]], "mask": np.zeros(SHAPE)}).objects[0].mask is None


@pytest.mark.parametrize(
    "bad",
    [
        5,
        True,
        [[1, 2], [3]],
        [["a"]],
        [[[1]]],
        np.full(SHAPE, np.nan),
        {"rle": [0, 1]},
        {"shape": [96, 80, 40], "rle": [0]},
        {"shape": [96, 80, 40], "rle": [0, 96 * 80 * 40 + 1]},
        {"shape": [96, 80, 40], "rle": [-1, 2]},
        {"shape": [96, 80, 40], "rle": [0, 0]},
        {"shape": [96, 80, 40], "rle": ["0", 1]},
        {"shape": [10**9, 10**9, 10**9], "rle": [0, 1]},
        {"shape": 3, "rle": []},
        {"shape": [96], "rle": [0, 1]},
    ],
)
def test_a_mask_that_is_not_one_is_refused(bad):
    assert refused({"foreground": [[1, 1, 3]], "mask": bad}).startswith("mask")
