"""Any tool's DICOM SEG -> a label map on the image's own grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from lib.errors import Unprocessable
from lib.imaging import geometry
from lib.imaging.readers import dicom_geometry as tags
from lib.imaging.readers.dicom_layout import Layout
from lib.imaging.seg.segments import Segment
from lib.imaging.seg.write import PRIVATE_CREATOR, PRIVATE_GROUP, PRIVATE_VALUE

logger = logging.getLogger(__name__)

# Share of a pixel, or of the gap between slices, up to which two places count as the same.
SAME_PLACE = 0.05
# A SEG whose slices are this many times as far apart as the image's was made on a coarser grid.
COARSER = 1.5
# More than any scan has: beyond it the SEG's positions are damaged.
MOST_SLICES = 10_000


@dataclass(frozen=True, eq=False)
class Labels:
    """A label map and what its values stand for.

    Attributes
    ----------
    voxels : np.ndarray
        (I, J, K) uint8, or uint16 for values above 255, on the image's grid, first index fastest.
    segments : tuple of Segment
        In the order of the SEG's segment numbers.
    """

    voxels: np.ndarray
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class _Frame:
    """One frame of a SEG.

    Attributes
    ----------
    number : int
        From 0.
    segment : int
        ReferencedSegmentNumber (0062,000B); 0 when the pixels say it (LABELMAP).
    affine : np.ndarray or None
        4x4, (column, row, step along the normal in mm) to LPS mm; None without a place in the patient.
    sources : tuple of (str, int)
        SOPInstanceUID and frame (from 0) of the images it was drawn on.
    """

    number: int
    segment: int
    affine: np.ndarray | None
    sources: tuple[tuple[str, int], ...]


def read_seg(seg: Any, layout: Layout) -> Labels:
    """Read a DICOM SEG onto the grid of the image it was made for.

    Parameters
    ----------
    seg : pydicom.Dataset
        A Segmentation (BINARY, or FRACTIONAL, of which at least half counts) or a Label Map
        Segmentation, with its pixels. Empty slices may have been left out; frames may be in any order.
    layout : Layout
        The image's slices.

    Returns
    -------
    Labels
        A segment has the value that `write_seg` noted, or else its number. Slices are found by their
        place in the patient, or, where image or SEG has none, by the instance and frame they refer to.
        A SEG on another grid is resampled: each voxel takes the nearest one of the SEG. Where segments
        overlap, the last one is kept.

    Raises
    ------
    Unprocessable
        If it is no SEG, or damaged, or says nothing of where its frames lie in this image.
    """
    try:
        segments = _segments(seg)
        frames = _frames(seg)
        highest = max((segment.value for segment in segments.values()), default=0)
        voxels = np.zeros(layout.shape, np.uint8 if highest < 256 else np.uint16, order="F")
        places = _places(seg, frames, layout)
        if places is not None:
            for frame, plane in _planes(seg, frames):
                k = places[frame.number]
                if k is not None:
                    _paint(voxels[:, :, k], plane.T, frame.segment, segments)
        else:
            _resample(seg, frames, segments, layout, voxels)
    except Unprocessable:
        raise
    except Exception as error:  # pydicom and the files of other tools: anything may be missing
        logger.info("cannot read the SEG %s: %s", seg.get("SOPInstanceUID"), error)
        raise Unprocessable("the label in the PACS cannot be read: it is no DICOM SEG or damaged") from error
    return Labels(voxels, tuple(segments.values()))


def _segments(seg: Any) -> dict[int, Segment]:
    """Segment number -> what it stands for."""
    found = {}
    for item in seg.SegmentSequence:
        number = int(item.SegmentNumber)
        if number > 0:  # a Label Map Segmentation may describe its background
            name = str(item.get("SegmentLabel") or item.get("SegmentDescription") or f"segment {number}")
            found[number] = Segment(_value(item, number), name)
    if len({segment.value for segment in found.values()}) < len(found):
        found = {number: Segment(number, segment.name) for number, segment in found.items()}
    return found


def _value(item: Any, number: int) -> int:
    try:
        value = item.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[PRIVATE_VALUE].value
        # An archive that rewrote the file without knowing the element has made bytes of it.
        value = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
        return value if 0 < value < 1 << 16 else number
    except (KeyError, TypeError, ValueError):
        return number


def _frames(seg: Any) -> list[_Frame]:
    by_pixel = seg.get("SegmentationType") == "LABELMAP"
    count = int(seg.get("NumberOfFrames") or 1)
    frames = []
    for n in range(count):
        view = tags.FrameView(seg, n)
        segment = 0 if by_pixel else int(view.get("ReferencedSegmentNumber"))
        frames.append(_Frame(n, segment, _affine(view), _sources(seg, n)))
    return frames


def _affine(view: tags.FrameView) -> np.ndarray | None:
    position, orientation = tags.position_of(view), tags.orientation_of(view)
    if position is None or orientation is None:
        return None
    columns, rows = tags.spacing_of(view)
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * columns
    affine[:3, 1] = np.array(orientation[3:]) * rows
    affine[:3, 2] = np.cross(orientation[:3], orientation[3:])
    affine[:3, 3] = position
    return affine


def _sources(seg: Any, number: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    groups = list((seg.get("PerFrameFunctionalGroupsSequence") or [])[number : number + 1])
    for group in groups + list(seg.get("SharedFunctionalGroupsSequence") or []):
        for derivation in group.get("DerivationImageSequence") or []:
            for source in derivation.get("SourceImageSequence") or []:
                numbers = source.get("ReferencedFrameNumber") or 1
                for n in numbers if hasattr(numbers, "__iter__") else [numbers]:
                    found.append((str(source.ReferencedSOPInstanceUID), int(n) - 1))
    return tuple(found)


def _places(seg: Any, frames: list[_Frame], layout: Layout) -> list[int | None] | None:
    """The slice of the image that each frame lies on; None if the SEG has another grid.

    Raises
    ------
    Unprocessable
        If neither places nor references lead from the SEG to the image.
    """
    same_size = (int(seg.Columns), int(seg.Rows)) == layout.shape[:2]
    if layout.positions is None or any(frame.affine is None for frame in frames):
        # No frame may be lost for want of a reference, but one may be drawn on an image of another series.
        found = [next((layout.index[s] for s in f.sources if s in layout.index), None) for f in frames]
        if not same_size or all(place is None for place in found):
            raise Unprocessable(
                "the label in the PACS says neither where its slices lie in the patient nor which of the "
                "image's slices they were drawn on"
            )
        return found
    if not same_size or _step_of(frames, seg) > COARSER * layout.gap:
        return None
    steps = layout.in_plane
    normal = np.cross(steps[:, 0], steps[:, 1])
    normal /= np.linalg.norm(normal)
    pixel = float(np.linalg.norm(steps, axis=0).min())
    places: list[int | None] = []
    for frame in frames:
        assert frame.affine is not None
        # Over the whole width and height of the slice, so that a spacing of another rounding does not add up.
        drift = np.abs(frame.affine[:3, :2] - steps) @ np.array(layout.shape[:2])
        offset = layout.positions - frame.affine[:3, 3]
        k = int(np.argmin(np.linalg.norm(offset, axis=1)))
        along = abs(float(offset[k] @ normal))
        across = float(np.linalg.norm(offset[k] - (offset[k] @ normal) * normal))
        if max(across, *drift) > SAME_PLACE * pixel or along > max(SAME_PLACE * layout.gap, tags.SAME):
            return None
        places.append(k)
    return places


def _step_of(frames: list[_Frame], seg: Any) -> float:
    """mm between neighbouring slices of a SEG: what its tags say, or the smallest step that it has."""
    view = tags.FrameView(seg, 0)
    said = view.get("SpacingBetweenSlices") or view.get("SliceThickness")
    steps = np.diff(_along(frames))
    steps = steps[steps > tags.SAME]
    smallest = float(steps.min()) if steps.size else None
    if said is not None and float(said) > 0:
        # Thick slices may overlap, and then lie closer than they are thick.
        return float(said) if smallest is None else min(float(said), smallest)
    return smallest or 1.0


def _along(frames: list[_Frame]) -> np.ndarray:
    """Sorted mm along the first frame's normal at which frames lie."""
    normal = _affine_of(frames[0])[:3, 2]
    return np.sort(np.array([_affine_of(frame)[:3, 3] @ normal for frame in frames]))


def _affine_of(frame: _Frame) -> np.ndarray:
    assert frame.affine is not None
    return frame.affine


def _planes(seg: Any, frames: list[_Frame]) -> Iterator[tuple[_Frame, np.ndarray]]:
    """Each frame with its pixels (rows, columns): bool, or segment numbers for a LABELMAP."""
    rows, columns = int(seg.Rows), int(seg.Columns)
    size = rows * columns
    packed = int(seg.BitsAllocated) == 1
    if packed:
        # Frame by frame, since a byte for every bit of a large SEG would take gigabytes.
        bits = np.frombuffer(seg.PixelData, np.uint8)
        if bits.size * 8 < size * len(frames):
            raise Unprocessable("the label in the PACS is truncated: it has fewer pixels than it says")
    else:
        pixels = seg.pixel_array.reshape(len(frames), rows, columns)
    threshold = 1
    if seg.get("SegmentationType") == "FRACTIONAL":
        threshold = (int(seg.get("MaximumFractionalValue") or 255) + 1) // 2
    for frame in frames:
        if packed:
            first = frame.number * size
            piece = np.unpackbits(bits[first // 8 : -(-(first + size) // 8)], bitorder="little")
            yield frame, piece[first % 8 : first % 8 + size].reshape(rows, columns).astype(bool)
        elif frame.segment:
            yield frame, pixels[frame.number] >= threshold
        else:
            yield frame, pixels[frame.number]


def _paint(into: np.ndarray, plane: np.ndarray, number: int, segments: dict[int, Segment]) -> None:
    """Put a frame's segment, or all segments of a LABELMAP frame, into a slice (I, J) of the label map."""
    if number:
        into[plane] = segments[number].value
        return
    for n, segment in segments.items():
        into[plane == n] = segment.value


def _resample(
    seg: Any, frames: list[_Frame], segments: dict[int, Segment], layout: Layout, voxels: np.ndarray
) -> None:
    """Paint a SEG on a grid of its own: each voxel of the image takes the nearest one of the SEG."""
    first = _affine_of(frames[0])
    for frame in frames:
        if np.abs(_affine_of(frame)[:3, :2] - first[:3, :2]).max() > tags.SAME:
            raise Unprocessable("the label in the PACS has frames that point in different directions")
    along = _along(frames)
    step = _step_of(frames, seg)
    count = round(float(along[-1] - along[0]) / step) + 1
    if count > MOST_SLICES:
        raise Unprocessable(f"the label in the PACS has slices {step:.3g} mm apart over {count} of them")
    normal = first[:3, 2]
    # The SEG's own slices, those that were left out for being empty put in again.
    own = np.zeros((count, int(seg.Rows), int(seg.Columns)), voxels.dtype)
    lowest = min(frames, key=lambda frame: float(_affine_of(frame)[:3, 3] @ normal))
    highest = max(frames, key=lambda frame: float(_affine_of(frame)[:3, 3] @ normal))
    for frame, plane in _planes(seg, frames):
        n = round(float(_affine_of(frame)[:3, 3] @ normal - along[0]) / step)
        _paint(own[n], plane, frame.segment, segments)
    affine = first.copy()
    affine[:3, 3] = _affine_of(lowest)[:3, 3]
    # The mean step rather than the normal: a tilted series is sheared.
    affine[:3, 2] = normal * step
    if count > 1:
        affine[:3, 2] = (_affine_of(highest)[:3, 3] - _affine_of(lowest)[:3, 3]) / (count - 1)
    moving = sitk.GetImageFromArray(own)
    geometry.place(moving, affine)
    positions = layout.positions
    assert positions is not None
    grid = geometry.flip_lps_ras(layout.affine)
    for k in range(layout.shape[2]):
        # Slice by slice, since the slices of the image may be unevenly spaced.
        grid[:3, 3] = positions[k]
        target = sitk.Image(layout.shape[0], layout.shape[1], 1, moving.GetPixelID())
        geometry.place(target, grid)
        nearest = sitk.Resample(moving, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        voxels[:, :, k] = sitk.GetArrayViewFromImage(nearest)[0].T
