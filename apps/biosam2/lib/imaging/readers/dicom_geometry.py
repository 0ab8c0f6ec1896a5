"""Where DICOM slices and frames lie: order, affine and display window from the tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import Unprocessable
from lib.imaging import geometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# Positions closer than this (mm) are the same; scanners round to about 1e-3.
SAME = 1e-3
# Direction cosines of one series agree to this; localizers differ by much more.
SAME_DIRECTION = 1e-3
# A step may differ from the median one by this share before slices count as unevenly spaced.
UNEVEN = 0.1
# A step of this many median ones is a gap: slices are missing in it.
GAP = 1.5
# Degrees between the slice step and the normal; below it is the rounding of positions.
TILTED = 0.5

Warnings = tuple[str, ...]
"""Sentences for the person about a series that opens but is not as it should be."""


def arrange(name: str, slices: list[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], np.ndarray, Warnings]:
    """Sort the slices of a series along their normal and build the affine of the stack.

    Parameters
    ----------
    name : str
        Name of the folder, for messages.
    slices : list of (Path, pydicom.Dataset)
        At least two, with Rows, Columns and, where known, ImageOrientationPatient (0020,0037),
        ImagePositionPatient (0020,0032) and PixelSpacing (0028,0030).

    Returns
    -------
    ordered : list of (Path, pydicom.Dataset)
        Ascending along row direction x column direction (PS3.3 C.7.6.2.1.1).
    affine : np.ndarray
        4x4, (column, row, slice) index to RAS+ mm. The slice step is last minus first position over
        the number of steps, so a tilted gantry gives a sheared affine rather than a wrong one.
    warnings : tuple of str
        Missing slices, uneven steps, a tilted gantry.

    Raises
    ------
    Unprocessable
        If sizes or orientations differ, or several slices share a position (a time series).
    """
    sizes = {(int(header.Columns), int(header.Rows)) for _, header in slices}
    if len(sizes) > 1:
        raise Unprocessable(f"image '{name}' has slices of {len(sizes)} different sizes: {sorted(sizes)}")
    if any(position_of(header) is None for _, header in slices):
        # Photographs and scanned film carry no positions: the order they were taken in is all there is.
        ordered = sorted(slices, key=lambda item: (int(item[1].get("InstanceNumber") or 0), item[0].name))
        affine = _affine(np.zeros(3), np.array(AXIAL), spacing_of(slices[0][1]), None, slices[0][1])
        return ordered, affine, ()

    orientations = np.array([_orientation(header) for _, header in slices])
    if np.abs(orientations - orientations[0]).max() > SAME_DIRECTION:
        raise Unprocessable(f"image '{name}' has slices that point in different directions")
    positions = np.array([position_of(header) for _, header in slices])
    order, step, warnings = _stack(name, positions, orientations[0])
    ordered = [slices[n] for n in order]
    first = ordered[0][1]
    affine = _affine(positions[order[0]], orientations[0], spacing_of(first), step, first)
    return ordered, affine, warnings


def frame_grid(name: str, header: Any, frames: int) -> tuple[list[int] | None, np.ndarray, Warnings]:
    """Order and affine of the frames in one file.

    Parameters
    ----------
    name : str
        Name of the file, for messages.
    header : pydicom.Dataset
        Its header; positions are read from the functional groups (5200,9229) and (5200,9230) where
        there are any (PS3.3 C.7.6.16), else from the top level.
    frames : int
        NumberOfFrames (0028,0008).

    Returns
    -------
    order : list of int or None
        Frame numbers in slice order, None when the file's own order is right.
    affine : np.ndarray
        4x4, (column, row, frame) index to RAS+ mm; a cine, whose frames share one position, steps
        along the normal by the slice thickness.
    warnings : tuple of str
        As for `arrange`.

    Raises
    ------
    Unprocessable
        If only some frames share a position: space and time in one file.
    """
    views = [FrameView(header, n) for n in range(frames)]
    first = views[0]
    orientation = np.array(_orientation(first))
    given = [position_of(view) for view in views]
    known = [position for position in given if position is not None]
    start = np.array(known[0]) if known else np.zeros(3)
    if frames == 1 or len(known) < frames or np.ptp(np.array(known), axis=0).max() <= SAME:
        return None, _affine(start, orientation, spacing_of(first), None, first), ()
    positions = np.array(known)
    order, step, warnings = _stack(name, positions, orientation)
    kept: list[int] | None = order
    if order == list(range(frames)):
        kept = None
    elif order == list(range(frames))[::-1]:
        kept, step = None, -step
    begin = positions[0 if kept is None else kept[0]]
    return kept, _affine(begin, orientation, spacing_of(first), step, first), warnings


def window_of(header: Any) -> tuple[float, float] | None:
    """(level, width) from WindowCenter (0028,1050) and WindowWidth (0028,1051), the first of several.

    None when they are missing or no window can be made of them.
    """
    view = FrameView(header, 0)
    level, width = _floats(view, "WindowCenter", 1), _floats(view, "WindowWidth", 1)
    if level is None or width is None or width[0] <= 0:
        return None
    return level[0], width[0]


def rescales_to_integers(header: Any) -> bool:
    """Whether RescaleSlope (0028,1053) and RescaleIntercept (0028,1052) keep whole numbers whole."""
    slope, intercept = _floats(header, "RescaleSlope", 1), _floats(header, "RescaleIntercept", 1)
    return all(value is None or value[0].is_integer() for value in (slope, intercept))


class FrameView:
    """Attributes of one frame, wherever an enhanced object keeps them: frame, shared or top level."""

    def __init__(self, header: Any, frame: int) -> None:
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        shared = header.get("SharedFunctionalGroupsSequence") or []
        groups = list(per_frame[frame : frame + 1]) + list(shared[:1])
        self._places = [item for group in groups for element in group for item in _items(element)]
        self._places.append(header)

    def get(self, keyword: str) -> Any:
        """The first value found, None if there is none."""
        for place in self._places:
            if keyword in place:
                return place.get(keyword)
        return None


def position_of(header: Any) -> list[float] | None:
    """ImagePositionPatient (0020,0032) of a header or a `FrameView`: LPS mm, centre of the first pixel."""
    return _floats(header, "ImagePositionPatient", 3)


def orientation_of(header: Any) -> list[float] | None:
    """ImageOrientationPatient (0020,0037): the direction along a row, then that down a column."""
    return _floats(header, "ImageOrientationPatient", 6)


def _items(element: Any) -> list[Any]:
    return list(element.value[:1]) if element.VR == "SQ" and element.value else []


def _floats(header: Any, keyword: str, count: int) -> list[float] | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        values = [float(v) for v in (value if hasattr(value, "__iter__") else [value])][:count]
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.all(np.isfinite(values)) else None


def _orientation(header: Any) -> tuple[float, ...]:
    return tuple(orientation_of(header) or AXIAL)


def spacing_of(header: Any) -> tuple[float, float]:
    """Pixel size in mm, (between columns, between rows), 1 where no tag says it."""
    # PixelSpacing is (between rows, between columns): the second belongs to the column index i.
    rows, columns = (
        _floats(header, "PixelSpacing", 2) or _floats(header, "ImagerPixelSpacing", 2) or (1.0, 1.0)
    )
    return columns, rows


def _stack(
    name: str, positions: np.ndarray, orientation: np.ndarray
) -> tuple[list[int], np.ndarray, Warnings]:
    """Order of positions (N, 3) along the normal, the mean step (3,) in mm between them, and warnings."""
    normal = np.cross(orientation[:3], orientation[3:])
    along = positions @ normal
    order = [int(n) for n in np.argsort(along, kind="stable")]
    steps = np.diff(along[order])
    if steps.min() <= SAME:
        places = int(np.sum(steps > SAME)) + 1
        raise Unprocessable(
            f"image '{name}' has {len(order)} slices at {places} positions; a time series is not one volume"
        )
    mean = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    return order, mean, _uneven(steps) + _tilt(mean, normal)


def _uneven(steps: np.ndarray) -> Warnings:
    """What is wrong with the steps (N - 1,) in mm between slices in order."""
    typical = float(np.median(steps))
    gaps = np.flatnonzero(steps > GAP * typical)
    if gaps.size:
        missing = int(sum(round(float(step) / typical) - 1 for step in steps[gaps]))
        after = ", ".join(str(gap) for gap in gaps[:5]) + (", ..." if gaps.size > 5 else "")
        count = f"{missing} slice{'s are' if missing > 1 else ' is'} missing"
        return (
            f"{count} (a gap after slice {after}, counted from 0, where slices are {typical:.4g} mm apart): "
            "the volume shows the slices that are there as if they were evenly spaced.",
        )
    if np.abs(steps - typical).max() > UNEVEN * typical:
        return (
            f"Slices are unevenly spaced, {steps.min():.4g} to {steps.max():.4g} mm apart: "
            "the volume shows them as if they were evenly spaced.",
        )
    return ()


def _tilt(step: np.ndarray, normal: np.ndarray) -> Warnings:
    along = float(step @ normal)
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(step - along * normal), abs(along))))
    if degrees <= TILTED:
        return ()
    return (
        f"The gantry was tilted by {degrees:.3g} degrees: each slice is shifted against the one before, "
        "and a viewer that knows no shear shows the volume askew.",
    )


def _affine(
    position: np.ndarray,
    orientation: np.ndarray,
    spacing: tuple[float, float],
    step: np.ndarray | None,
    header: Any,
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * spacing[0]
    affine[:3, 1] = orientation[3:] * spacing[1]
    if step is None:
        gap = _floats(header, "SpacingBetweenSlices", 1) or _floats(header, "SliceThickness", 1)
        thickness = gap[0] if gap and gap[0] > 0 else 1.0
        step = np.cross(orientation[:3], orientation[3:]) * thickness
    affine[:3, 2] = step
    affine[:3, 3] = position
    return geometry.flip_lps_ras(affine)
