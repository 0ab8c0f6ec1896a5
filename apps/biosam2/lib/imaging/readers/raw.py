"""What every reader returns, and how a library's failure becomes one plain sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from lib.errors import Unprocessable, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RawImage:
    """The content of a file before it is checked and becomes a `Volume`.

    Attributes
    ----------
    voxels : np.ndarray
        (I, J, K) or (I, J, K, 3), first index fastest in the file.
    affine : np.ndarray
        4x4, voxel index to RAS+ mm.
    slice_axis : int or None
        The acquisition axis where the format says it, else None.
    modality, window, header, warnings
        As in `Volume`.
    """

    voxels: np.ndarray
    affine: np.ndarray
    slice_axis: int | None = None
    modality: str = ""
    window: tuple[float, float] | None = None
    header: object | None = None
    warnings: tuple[str, ...] = ()


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into `Unprocessable`.

    Parameters
    ----------
    path : Path
        The file; only its name goes into the message, since clients must not learn server paths.
    what : str
        The format, with its article: ``"a NIfTI file"``.

    Raises
    ------
    Unprocessable
        In place of any exception that is not already meant for the person.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise anything from OSError to bare RuntimeError
        logger.info("cannot read %s: %s", path, error)
        raise Unprocessable(
            f"image '{path.name}' cannot be read as {what}: it is truncated, damaged or something else"
        ) from error


def float32_at_most(voxels: np.ndarray) -> np.ndarray:
    """Halve wider floats: no screen and no network tells float64 intensities from float32 ones."""
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 4:
        return voxels.astype(np.float32)
    return voxels


class _Pixels:
    """An ITK buffer as a numpy array that keeps the image alive, so that no second copy is made."""

    def __init__(self, image: Any) -> None:
        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def itk_voxels(image: Any) -> np.ndarray:
    """The pixels of a SimpleITK image as (i, j[, k][, channel]), without a copy.

    SimpleITK gives (k, j, i[, channel]) views that dangle once the image is gone; the array returned
    here holds the image.
    """
    pixels = np.asarray(_Pixels(image))
    n = image.GetDimension()
    return pixels.transpose(*range(n - 1, -1, -1), *range(n, pixels.ndim))


def as_3d(path: Path, voxels: np.ndarray, channels: int) -> np.ndarray:
    """Bring (i, j[, k][, channel]) to (I, J, K) or (I, J, K, 3), alpha dropped.

    Raises
    ------
    Unprocessable
        If voxels have 2 or more than 4 components, which is neither grey nor colour.
    """
    if channels not in (1, 3, 4):
        raise Unprocessable(f"image '{path.name}' has {channels} components a voxel, not 1 or 3")
    if channels > 1:
        voxels = voxels[..., :3]
    if voxels.ndim == 2 + (channels > 1):
        voxels = voxels[:, :, np.newaxis]
    return voxels
