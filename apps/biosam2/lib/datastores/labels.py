"""A label file that a client sends -> voxels on the image's grid, and what their values stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from lib.errors import UserError
from lib.imaging import geometry
from lib.imaging.seg.segments import Rgb, Segment
from lib.imaging.volume import Volume, load_volume

HIGHEST = (1 << 16) - 1


def read_label(path: Path, volume: Volume) -> np.ndarray:
    """Read a label file onto the grid of its image.

    Parameters
    ----------
    path : Path
        NIfTI, NRRD, or .bin: a byte for every voxel of the image, i fastest, as OHIF keeps them.
    volume : Volume
        The image.

    Returns
    -------
    np.ndarray
        (I, J, K) uint16, first index fastest. A label on another grid is resampled: each voxel takes the
        nearest one of the label.

    Raises
    ------
    UserError
        If it does not hold whole numbers from 0 to 65535, or lies outside the image.
    """
    if path.suffix == ".bin":
        found = np.fromfile(path, np.uint8)
        if found.size != np.prod(volume.shape3):
            raise UserError(f"the label has {found.size} voxels and the image {int(np.prod(volume.shape3))}.")
        return found.reshape(volume.shape3, order="F").astype(np.uint16)
    label = load_volume(path)
    voxels = label.voxels
    if label.is_rgb:
        raise UserError("the label is a colour picture: send whole numbers, one a voxel.")
    if voxels.min() < 0 or voxels.max() > HIGHEST or not np.array_equal(voxels, np.rint(voxels)):
        raise UserError(f"the label must hold whole numbers from 0 to {HIGHEST}.")
    voxels = np.asfortranarray(voxels.astype(np.uint16))
    if label.shape3 == volume.shape3 and _same_place(label.affine, volume):
        return voxels
    placed = _resampled(voxels, label.affine, volume)
    if voxels.any() and not placed.any():
        raise UserError("the label lies outside the image: it was made for another one.")
    return placed


def segments_of(labels: np.ndarray, info: Mapping[str, Any]) -> list[Segment]:
    """What the values of a label map stand for.

    Parameters
    ----------
    labels : np.ndarray
        (I, J, K).
    info : mapping
        What clients send along: `label_info`, a list of `{"name", "idx", "color"}`, or an answer's own
        `params.label_names`, `{name: value}`.

    Returns
    -------
    list of Segment
        One for each value that occurs; for an empty map, one for each that is named, or one at all, since
        "nothing here" is a label too.
    """
    named: dict[int, Segment] = {}
    answered = (info.get("params") or {}).get("label_names") or {}
    for name, value in answered.items():
        _name(named, value, name, None)
    for number, item in enumerate(info.get("label_info") or [], 1):
        if isinstance(item, Mapping):
            _name(named, item.get("idx", number), item.get("name"), item.get("color"))
    present = [int(value) for value in np.flatnonzero(np.bincount(labels.ravel(order="K"))) if value]
    if not present:
        return list(named.values()) or [Segment(1, "structure")]
    return [named.get(value, Segment(value, f"structure {value}")) for value in present]


def _name(named: dict[int, Segment], value: object, name: object, color: object) -> None:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return
    if 0 < number <= HIGHEST:
        named[number] = Segment(number, str(name or f"structure {number}"), _color(color))


def _color(color: object) -> Rgb | None:
    try:
        red, green, blue = (min(255, max(0, int(part))) for part in list(color)[:3])  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return red, green, blue


def _same_place(affine: np.ndarray, volume: Volume) -> bool:
    """Whether no corner of the grid lies more than half a voxel from the image's."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in volume.shape3), [1])).reshape(4, -1)
    apart = np.linalg.norm((affine - volume.affine)[:3] @ ends, axis=0)
    return bool(apart.max() < 0.5 * min(volume.spacing))


def _resampled(voxels: np.ndarray, affine: np.ndarray, volume: Volume) -> np.ndarray:
    moving = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    target = sitk.Image(*volume.shape3, sitk.sitkUInt8)
    for image, grid in ((moving, affine), (target, volume.affine)):
        geometry.place(image, geometry.flip_lps_ras(grid))
    nearest = sitk.Resample(moving, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt16)
    return sitk.GetArrayFromImage(nearest).transpose(2, 1, 0)
