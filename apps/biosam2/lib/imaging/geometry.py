"""Affines between voxel indices and patient space: LPS/RAS, spacing, validity, acquisition axis."""

from __future__ import annotations

from typing import Any

import numpy as np

Corner = tuple[float, float, float]

LPS_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

# How much coarser than the next axis the slice axis must be before a file without acquisition tags
# is taken to have been acquired along it; below this the difference is rounding or resampling.
COARSER = 1.2


def flip_lps_ras(affine: np.ndarray) -> np.ndarray:
    """Turn an LPS+ affine (DICOM, ITK) into an RAS+ one (NIfTI), or back.

    Parameters
    ----------
    affine : np.ndarray
        4x4, voxel index (0-based, centre of the voxel) to mm.

    Returns
    -------
    np.ndarray
        4x4 float64, the same map with the first two world axes negated.
    """
    return LPS_FLIP @ np.asarray(affine, dtype=np.float64)


def compose(directions: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """Build a 4x4 affine from ITK's three pieces, padding 2D geometry to 3D.

    Parameters
    ----------
    directions : np.ndarray
        (n, n) direction cosines, one column an array axis; n is 2 or 3.
    spacing : tuple of float
        n voxel sizes in mm.
    origin : tuple of float
        n world coordinates in mm of the centre of voxel 0.

    Returns
    -------
    np.ndarray
        4x4 float64 in the world axes of the input.
    """
    n = len(spacing)
    affine = np.eye(4)
    affine[:n, :n] = np.asarray(directions, dtype=np.float64) * np.asarray(spacing, dtype=np.float64)
    affine[:n, 3] = origin
    return affine


def place(image: Any, affine: np.ndarray) -> None:
    """Give a `SimpleITK.Image` its place: the way back from `compose`.

    Parameters
    ----------
    image : SimpleITK.Image
    affine : np.ndarray
        4x4, voxel index to LPS+ mm. Its columns need not be at right angles: ITK keeps them as they are, so
        tilted scans fit too.
    """
    spacing = spacing_of(affine)
    image.SetSpacing(spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.asarray(spacing)).ravel().tolist())


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along each array axis: the norms of the affine's columns."""
    norms = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(norms[0]), float(norms[1]), float(norms[2])


def is_usable(affine: np.ndarray) -> bool:
    """Whether the affine is finite, has positive spacings and can be inverted."""
    if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
        return False
    spacing = spacing_of(affine)
    if min(spacing) <= 0:
        return False
    # The determinant of the unit columns, so that the answer does not depend on the unit of length.
    return bool(abs(np.linalg.det(affine[:3, :3] / np.asarray(spacing))) > 1e-6)


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes are not at right angles (gantry tilt), so that no quaternion can express them."""
    unit = affine[:3, :3] / np.asarray(spacing_of(affine))
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() > 1e-4)


def acquisition_axis(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> int:
    """Guess the array axis that slices were acquired along, for files that do not say.

    Parameters
    ----------
    spacing : tuple of float
        mm per array axis.
    shape : tuple of int
        Voxels per array axis.

    Returns
    -------
    int
        The only axis of length 1, else the axis clearly coarser than the others, else 2.
    """
    single = [axis for axis in range(3) if shape[axis] == 1]
    if single:
        return single[0] if len(single) == 1 else 2
    order = sorted(range(3), key=lambda axis: spacing[axis])
    if spacing[order[2]] >= COARSER * spacing[order[1]]:
        return order[2]
    return 2


def voxels_of_roi(corner: Corner, opposite: Corner, affine: np.ndarray) -> tuple[Corner, Corner]:
    """The box along the voxel axes that is meant by a box along the patient's axes, as Slicer draws its ROI.

    Two opposite corners of such a box say where it is, but in a tilted volume they do not span it along the
    voxel axes. What is meant is what it holds: an ellipsoid that fills it. Where voxel and patient axes are
    the same, in any order and direction, the box stays as it is.

    Parameters
    ----------
    corner, opposite : tuple of float
        Voxel indices (i, j, k) of the corners with the lowest and the highest world coordinates; any two
        opposite ones will do where the volume is not tilted.
    affine : np.ndarray
        4x4, voxel index to mm.

    Returns
    -------
    tuple of two corners
        Voxel indices (i, j, k), the lower ones first.
    """
    first, second = np.asarray(corner), np.asarray(opposite)
    to_mm = affine[:3, :3]
    half = to_mm @ (second - first) / 2
    reach = np.sqrt(np.square(np.linalg.inv(to_mm)) @ np.square(half))
    # Without the rounding an index that was whole comes back a little beside it.
    low, high = (((first + second) / 2 + way * reach).round(6).tolist() for way in (-1, 1))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
