"""What CVAT's coordinates say, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import find_contours

from lib.datastores.cvat.draw import draw
from lib.errors import Unprocessable

from .double import _written, runs, shape

NAMES = {1: "a", 2: "b", 3: "Background"}
VALUES = {"a": 1, "b": 300}
W, H = 20, 14


def drawn(*shapes: dict, size: tuple[int, int] = (W, H)) -> np.ndarray:
    """The label map (W, H) of shapes as CVAT's JSON has them, by way of the text of an export."""
    kept = [{"kind": one["type"], **{k: str(v) for k, v in _written(one, NAMES).items()}} for one in shapes]
    about = {"width": str(size[0]), "height": str(size[1]), "shapes": kept}
    return draw(about, *size, VALUES.__getitem__, "frame 0")


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (7, 9)))
def test_a_mask_is_the_same_to_the_pixel(mask: np.ndarray):
    if not mask.any():
        return
    found = drawn(shape("mask", 0, 2, runs(mask)), size=(9, 7))
    assert found.dtype == np.uint16
    assert np.array_equal(found, 300 * mask.T)


def test_the_corner_of_the_picture_is_zero_and_not_the_centre_of_its_first_pixel():
    found = drawn(shape("polygon", 0, 1, [0, 0, 3, 0, 3, 2, 0, 2]))
    expected = np.zeros((W, H))
    expected[0:3, 0:2] = 1
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("shift", [-0.45, -0.2, 0.2, 0.45])
def test_a_pixel_belongs_to_a_polygon_if_its_centre_does(shift: float):
    square = [x + shift for x in (2, 3, 9, 3, 9, 8, 2, 8)]
    expected = np.zeros((W, H))
    expected[2:9, 3:8] = 1
    assert np.array_equal(drawn(shape("polygon", 0, 1, square)), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_outline_of_a_mask_gives_the_mask_again(seed: int):
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:W, :H]
    mask = (x - rng.uniform(6, 12)) ** 2 + 1.7 * (y - rng.uniform(5, 9)) ** 2 < rng.uniform(4, 25)
    if not mask.any():
        return
    (outline,) = find_contours(np.pad(mask, 1), 0.5)
    corners = outline - 1 + 0.5  # pixel indices -> CVAT's coordinates
    assert np.array_equal(drawn(shape("polygon", 0, 1, corners.ravel().tolist())) == 1, mask)


def test_an_ellipse_turns_clockwise():
    # upwards of its centre by 3, and 8 to the right; turned by 90 degrees it stands
    found = drawn(shape("ellipse", 0, 1, [10, 7, 18, 4]))
    assert (found.any(1).sum(), found.any(0).sum()) == (16, 6)
    standing = drawn(shape("ellipse", 0, 1, [10, 7, 16, 4], rotation=90.0))
    assert (standing.any(1).sum(), standing.any(0).sum()) == (6, 12)
    leaning = drawn(shape("ellipse", 0, 1, [10, 7, 17, 6], rotation=30.0))
    right = np.argwhere(leaning)[:, 0].max()
    assert leaning[right].nonzero()[0].mean() > 7.5  # y grows downwards: its right end went down


def test_what_lies_beyond_the_picture_is_cut_off():
    found = drawn(
        shape("polygon", 0, 1, [-5, -5, 4, -5, 4, 3, -5, 3]), shape("ellipse", 0, 2, [20, 14, 24, 10])
    )
    assert found[:4, :3].all() and (found == 1).sum() == 12
    assert (found == 300)[17:, 11:].any() and not (found == 300)[:16].any()
    assert not drawn(shape("polygon", 0, 1, [30, 30, 40, 30, 40, 40])).any()


def test_the_later_and_the_higher_lies_on_top_and_background_uncovers():
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    below = shape("polygon", 0, 1, square, z=1)
    assert set(np.unique(drawn(below, shape("polygon", 0, 2, square, z=0)))) == {0, 1}
    assert set(np.unique(drawn(below, shape("polygon", 0, 2, square, z=1)))) == {0, 300}
    assert not drawn(below, shape("polygon", 0, 3, square, z=2)).any()


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "mask", "label": "a", "rle": "0, 4", "left": "18", "top": "0", "width": "4", "height": "1"},
        {"kind": "mask", "label": "a", "rle": "0, 3", "left": "0", "top": "0", "width": "4", "height": "1"},
        {"kind": "mask", "label": "a", "rle": "8, -4", "left": "0", "top": "0", "width": "4", "height": "1"},
        {"kind": "mask", "label": "a", "rle": "", "left": "0", "top": "0", "width": "4", "height": "1"},
        {
            "kind": "mask",
            "label": "a",
            "rle": f"{10**30}",
            "left": "0",
            "top": "0",
            "width": "4",
            "height": "1",
        },
        {"kind": "polygon", "label": "a", "points": "1,2;nan,4;5,6"},
        {"kind": "polygon", "label": "a", "points": "1,2;3"},
        {"kind": "ellipse", "label": "a", "cx": "3", "cy": "3", "rx": "0", "ry": "2"},
        {"kind": "ellipse", "label": "a", "cx": "3", "cy": "3"},
        {"kind": "polygon", "points": "1,2;3,4;5,6"},
    ],
)
def test_a_shape_that_makes_no_sense_is_a_sentence(broken: dict):
    with pytest.raises(Unprocessable, match="what CVAT has of frame 0 cannot be drawn"):
        draw({"width": "20", "height": "14", "shapes": [broken]}, W, H, VALUES.__getitem__, "frame 0")


def test_a_frame_of_another_size_than_the_picture_is_a_sentence():
    with pytest.raises(Unprocessable, match="it is 21 x 14, the picture 20 x 14"):
        draw({"width": "21", "height": "14", "shapes": []}, W, H, VALUES.__getitem__, "frame 0")
