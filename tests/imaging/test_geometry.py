"""The box that a person means by an ROI along the patient's axes, in volumes of any direction."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.imaging.geometry import voxels_of_roi

SPACING = np.array([0.7, 0.9, 3.0])
angles = st.tuples(*[st.floats(-180, 180)] * 3)


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * SPACING
    affine[:3, 3] = (-40.0, 12.5, 99.0)
    return affine


def roi_around(affine: np.ndarray, centre: np.ndarray, half: np.ndarray) -> tuple:
    """The corners that Slicer's plugin sends for an ROI, its centre in voxels and half its sides in mm."""
    middle = affine[:3, :3] @ centre + affine[:3, 3]
    inverse = np.linalg.inv(affine)
    return tuple(tuple(inverse[:3, :3] @ p + inverse[:3, 3]) for p in (middle - half, middle + half))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_without_a_tilt_it_is_the_box_between_the_corners(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(signs) * SPACING)[:, order]
    assert voxels_of_roi((9, 2, 7), (3, 12, 4), affine) == ((3, 2, 4), (9, 12, 7))


@given(angles)
def test_an_roi_around_a_ball_is_the_box_around_the_ball(degrees):
    affine, centre, radius = turned(degrees), np.array([30.0, 22.0, 8.0]), 6.0
    low, high = voxels_of_roi(*roi_around(affine, centre, np.full(3, radius)), affine)
    np.testing.assert_allclose(low, centre - radius / SPACING, atol=1e-5)
    np.testing.assert_allclose(high, centre + radius / SPACING, atol=1e-5)


@given(angles)
def test_it_has_the_centre_of_the_roi_and_reaches_nowhere_beyond_it(degrees):
    affine, centre, half = turned(degrees), np.array([30.0, 22.0, 8.0]), np.array([9.0, 4.0, 14.0])
    low, high = np.array(voxels_of_roi(*roi_around(affine, centre, half), affine))
    np.testing.assert_allclose((low + high) / 2, centre, atol=1e-5)
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * half
    farthest = np.abs(corners @ np.linalg.inv(affine[:3, :3]).T).max(0)
    assert np.all((high - low) / 2 <= farthest + 1e-5)
