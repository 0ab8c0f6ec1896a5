"""Prompts on one picture: what they mean, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.measure import find_contours

from lib.errors import UserError
from lib.imaging.runs import encode
from lib.prompts.dialects.one_picture import parse

SIZE = (50, 30)


def _square() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:20, 5:9] = True
    return mask


def test_points_keep_their_order_and_side():
    found = parse({"foreground": [[1, 2], [49.5, 29.5]], "background": [[-0.5, 7.25]]}, SIZE)
    assert found.points.tolist() == [[1, 2], [49.5, 29.5], [-0.5, 7.25]]
    assert found.positive.tolist() == [True, True, False]
    assert found.box is None and found.mask is None


@pytest.mark.parametrize("box", [[9.5, 4.5, 19.5, 8.5], [19.5, 8.5, 9.5, 4.5], [9.5, 8.5, 19.5, 4.5]])
def test_a_box_is_its_borders_between_any_two_opposite_corners(box):
    """It goes around the pixels 10 to 19 and 5 to 8."""
    assert parse({"box": box}, SIZE).box == (10, 5, 19, 8)


def test_the_part_of_a_box_in_the_picture_counts():
    assert parse({"box": [-20, -3, 300, 12.5]}, SIZE).box == (0, 0, 49, 12)


def test_the_whole_picture_is_a_box():
    assert parse({"box": [-0.5, -0.5, 49.5, 29.5]}, SIZE).box == (0, 0, 49, 29)


def test_a_mask_is_read_as_runs():
    assert np.array_equal(parse({"mask": encode(_square())}, SIZE).mask, _square())


def test_the_inside_of_a_polygon_is_a_mask():
    corners = [[9.5, 4.5], [19.5, 4.5], [19.5, 8.5], [9.5, 8.5]]
    assert np.array_equal(parse({"polygon": corners}, SIZE).mask, _square())


def test_a_mask_comes_back_from_its_own_outline():
    a, b = np.mgrid[:50, :30]
    for radius in (0.2, 3, 9.5):
        disc = np.hypot(a - 24.3, b - 14.1) < max(radius, 0.6)
        outline = find_contours(np.pad(disc, 1).astype(float), 0.5)[0] - 1
        assert np.array_equal(parse({"polygon": outline.tolist()}, SIZE).mask, disc)


def test_the_part_of_a_polygon_in_the_picture_counts():
    mask = parse({"polygon": [[-99, -99], [9.5, -99], [9.5, 99], [-99, 99]]}, SIZE).mask
    assert mask[:10].all() and not mask[10:].any()


def test_an_empty_mask_beside_a_click_says_nothing():
    assert parse({"foreground": [[3, 3]], "mask": encode(np.zeros(SIZE, bool))}, SIZE).mask is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (None, r'must be an object such as {"foreground": \[\[10, 20\]\]}, not None'),
        ([[1, 2]], "must be an object"),
        ({}, "has no prompt that says where the object is: send foreground, box or mask"),
        ({"background": [[1, 2]]}, "has no prompt that says where"),
        ({"mask": encode(np.zeros(SIZE, bool))}, "has no prompt that says where"),
        ({"forground": [[1, 2]]}, "has the unknown field 'forground'; it may have foreground, background"),
        ({"foreground": [[50, 2]]}, r"foreground\[0\] \[50, 2\] is outside the picture of 50 x 30 pixels"),
        ({"foreground": [[1, 2], [1, -0.6]]}, r"foreground\[1\] \[1, -0.6\] is outside the picture"),
        ({"foreground": [[1, 2]], "background": [[1, 30]]}, r"background\[0\] \[1, 30\] is outside"),
        ({"foreground": [[math.nan, 2]]}, r"foreground\[0\] must be a finite number, not nan"),
        ({"foreground": [[1, math.inf]]}, r"foreground\[0\] must be a finite number, not inf"),
        ({"foreground": [[1, "2"]]}, r"foreground\[0\] must be a finite number, not '2'"),
        ({"foreground": [[1, True]]}, r"foreground\[0\] must be a finite number, not True"),
        ({"foreground": [[1, 2, 3]]}, r"foreground\[0\] must be \[x, y\], not \[1, 2, 3\]"),
        ({"foreground": [1, 2]}, r"foreground\[0\] must be a list, not 1"),
        ({"foreground": 7}, "foreground must be a list, not 7"),
        ({"foreground": [[1, 2]] * 1001}, "foreground has 1001 entries, more than the 1000 allowed"),
        ({"box": [1, 2, 3]}, r"box must be \[x0, y0, x1, y1\], not \[1, 2, 3\]"),
        ({"box": [1, 2, 3, math.nan]}, "box must be a finite number, not nan"),
        ({"box": [1, 2, 1, 5]}, r"box \[1, 2, 1, 5\] has no area"),
        ({"box": [60, 2, 80, 5]}, r"box \[60, 2, 80, 5\] is outside the picture of 50 x 30 pixels"),
        ({"box": [49.5, 2, 80, 5]}, "is outside the picture"),
        ({"box": {"x": 1}}, "box must be a list"),
        ({"mask": [0, 1]}, "mask must have the lists size, bbox and counts"),
        ({"mask": encode(np.ones((30, 50), bool))}, r"mask.size \[30, 50\] is not that of the picture"),
        ({"polygon": [[1, 2], [3, 4]]}, "polygon must have three corners at least, not 2"),
        ({"polygon": [[1, 2], [3, 4], [5, math.inf]]}, r"polygon\[2\] must be a finite number, not inf"),
        ({"polygon": [[1.1, 2.1], [1.2, 2.1], [1.2, 2.2]]}, "polygon has no pixel of the picture"),
        ({"polygon": [[100, 2], [120, 2], [120, 20]]}, "polygon has no pixel of the picture of 50 x 30"),
        ({"polygon": [[1, 2], [9, 2], [9, 9]], "mask": encode(_square())}, "mask and polygon are both given"),
    ],
)
def test_what_is_wrong_is_said(fields, words):
    with pytest.raises(UserError, match=words):
        parse(fields, SIZE)


def test_a_message_names_the_object():
    with pytest.raises(UserError, match=r"objects\[3\].foreground\[0\] \[99, 2\] is outside"):
        parse({"foreground": [[99, 2]]}, SIZE, "objects[3].")
    with pytest.raises(UserError, match=r"objects\[3\] has no prompt"):
        parse({}, SIZE, "objects[3].")
