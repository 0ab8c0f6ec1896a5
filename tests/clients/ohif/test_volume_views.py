"""Views that reformat the volume: the mode of MONAI Label opens three of them."""

from __future__ import annotations

import numpy as np
import pytest
from clients.ohif.phantoms import LIVER, assert_in_place, only

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODE = "monai-label"
# the view of each series that shows its slices as they were acquired
ACQUIRED = {"ct_axial": "mpr-axial", "ct_descending": "mpr-axial", "mr_sagittal": "mpr-sagittal"}


@pytest.mark.parametrize("name", ACQUIRED)
def test_a_click_in_a_view_of_the_volume_gives_the_mask_of_its_slice(viewer, hospital, keep, name):
    series = hospital.series[name]
    viewer.open(series, MODE)
    viewer.choose("liver")
    viewer.tool("inside")
    viewer.click(series.world(LIVER, 40, 36), ACQUIRED[name])
    assert_in_place(viewer.masks(series)["liver"], only(series.truth["liver"], LIVER), 0.9)
    keep(f"{name}_volume_views")


def test_a_click_in_a_view_across_the_acquisition_segments_that_views_slice(viewer, hospital):
    series = hospital.series["ct_axial"]
    viewer.open(series, MODE)
    viewer.choose("liver")
    viewer.tool("inside")
    viewer.click(series.world(LIVER, 40, 36), "mpr-coronal")
    found = viewer.masks(series)["liver"]
    expected = np.zeros_like(found)
    expected[:, 40] = series.truth["liver"][:, 40]
    assert found.any()
    assert not np.delete(found, 40, axis=1).any()
    assert_in_place(found, expected, 0.6)


def test_a_box_in_a_view_that_cuts_across_the_slices_is_refused_and_a_click_is_not(viewer, hospital):
    series = hospital.series["mr_oblique"]
    viewer.open(series, MODE)
    viewer.choose("liver")
    viewer.tool("box")
    viewer.drag(series.world(LIVER, 25, 25), series.world(LIVER, 55, 50), "mpr-axial")
    assert "cuts across the slices" in viewer.said
    assert not viewer.masks(series)["liver"].any()
    viewer.tool("inside")
    viewer.click(series.world(LIVER, 40, 36), "mpr-axial")
    assert_in_place(viewer.masks(series)["liver"], only(series.truth["liver"], LIVER), 0.9)
