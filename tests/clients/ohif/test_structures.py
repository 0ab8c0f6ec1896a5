"""Several structures on one slice: none takes a voxel of another, and each step can be taken back."""

from __future__ import annotations

import numpy as np
import pytest
from clients.ohif.phantoms import LIVER, TUMOUR

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_second_structure_in_the_same_place_overwrites_nothing(viewer, hospital):
    series = hospital.series["ct_flipped"]
    liver = viewer.click_into_the_liver(series)
    viewer.choose("tumour")
    viewer.click(series.world(LIVER, 44, 38))
    masks = viewer.masks(series)
    np.testing.assert_array_equal(masks["liver"], liver)
    assert not (masks["tumour"] & liver).any()


def test_undo_leaves_what_another_tool_has_painted_since(viewer, hospital):
    series = hospital.series["ct_axial"]
    inside = np.argwhere(viewer.click_into_the_liver(series))[5]
    viewer.paint(series, [inside.tolist(), [LIVER, 90, 100]], value=2)
    viewer.key("u")
    viewer.idle()
    masks = viewer.masks(series)
    assert not masks["liver"].any()
    assert {tuple(index) for index in np.argwhere(masks["tumour"])} == {tuple(inside), (LIVER, 90, 100)}


def test_every_step_of_two_structures_is_taken_back_in_turn(viewer, hospital):
    series = hospital.series["mr_sagittal"]
    viewer.open(series)
    viewer.tool("inside")
    seen = []
    for structure, place in (
        ("liver", (LIVER, 40, 36)),
        ("tumour", (TUMOUR, 62, 84)),
        ("liver", (LIVER + 1, 40, 36)),
    ):
        viewer.choose(structure)
        viewer.click(series.world(*place))
        seen.append(viewer.masks(series))
    for expected in reversed(seen[:-1]):
        viewer.key("u")
        viewer.idle()
        masks = viewer.masks(series)
        for name, mask in expected.items():
            np.testing.assert_array_equal(masks[name], mask)
    for expected in seen[1:]:
        viewer.key("y")
        viewer.idle()
        for name, mask in viewer.masks(series).items():
            np.testing.assert_array_equal(expected[name], mask)


def test_clear_empties_one_structure_only(viewer, hospital):
    series = hospital.series["ct_axial"]
    viewer.open(series)
    viewer.tool("inside")
    for structure, place in (("liver", (LIVER, 40, 36)), ("tumour", (TUMOUR, 62, 84))):
        viewer.choose(structure)
        viewer.click(series.world(*place))
    liver = viewer.masks(series)["liver"]
    viewer.press("clear")
    viewer.idle()
    masks = viewer.masks(series)
    assert not masks["tumour"].any()
    np.testing.assert_array_equal(masks["liver"], liver)
