"""Where a person clicks and draws in Slicer, and which voxels the plugin makes of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

# where the first, second and third axis point to, more or less
AXES = {
    "ras": "RAS",
    "lps": "LPS",
    "oblique": "RAS",
    "oblique_lps": "LPS",
    "turned_far": "RAS",
    "sagittal": "RAS",
}


@pytest.mark.parametrize("name", AXES)
def test_slicer_opens_a_volume_in_the_order_and_at_the_place_of_its_file(person, volumes, name):
    volume = volumes[name]
    person.open_file(volume.path)
    assert "".join(nib.aff2axcodes(volume.affine)) == AXES[name]
    np.testing.assert_array_equal(person.voxels, volume.voxels)
    for voxel in ((0, 0, 0), volume.centre["tumour"], [n - 1 for n in volume.voxels.shape]):
        np.testing.assert_allclose(person.ras(voxel), (volume.affine @ [*voxel, 1])[:3], atol=1e-3)


@pytest.mark.parametrize("name", AXES)
def test_a_point_placed_in_a_voxel_is_sent_as_that_voxel(person, volumes, name):
    person.open_file(volumes[name].path)
    voxels = [[7, 3, 2], list(volumes[name].centre["vessel"]), [1, 9, 8]]
    for i, j, k in voxels:
        person.click([i + 0.3, j - 0.4, k + 0.2], update=False)
    assert person.sent_points == voxels


@pytest.mark.parametrize("name", ["ras", "lps"])
def test_an_roi_is_sent_as_its_voxels_in_pairs_that_are_not_sorted(person, volumes, name):
    person.open_file(volumes[name].path)
    person.draw_roi([30, 12, 2], [41, 33, 7])
    # the plugin sends the corner that is most to the left, back and below first
    assert person.sent_roi == ([30, 41, 12, 33, 2, 7] if name == "ras" else [41, 30, 33, 12, 2, 7])


def test_slicer_reverses_the_slices_of_a_left_handed_volume(person, volumes):
    volume = volumes["las"]
    person.open_file(volume.path)
    np.testing.assert_array_equal(person.voxels, volume.voxels[:, :, ::-1])
    person.click([7, 3, 2], update=False)
    assert person.sent_points == [[7, 3, volume.voxels.shape[2] - 1 - 2]]
