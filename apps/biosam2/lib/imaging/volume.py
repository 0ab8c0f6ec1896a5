"""Volume: voxels, affine and slice axis of one image file, whatever its format."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import index as as_index
from pathlib import Path
from typing import Literal

import numpy as np

from lib.errors import NotFound, Unprocessable, UserError
from lib.imaging import geometry
from lib.imaging.readers.dicom import is_dicom_file, read_dicom_file, read_dicom_folder
from lib.imaging.readers.dicom_note import read_note
from lib.imaging.readers.nifti import read_nifti
from lib.imaging.readers.nrrd import read_nrrd
from lib.imaging.readers.raster import read_raster
from lib.imaging.readers.raw import RawImage

logger = logging.getLogger(__name__)

Kind = Literal["nifti", "nrrd", "dicom", "raster"]

NIFTI = (".nii.gz", ".nii")
NRRD = (".nrrd", ".nhdr", ".mha", ".mhd")
RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = (".dcm", ".dicom")

# Modality (0008,0060) of what is a video when it has several frames: ultrasound, angiography, fluoroscopy,
# endoscopy, microscopy, photographs.
OVER_TIME = ("US", "XA", "RF", "ES", "GM", "XC")
# Percentiles are read from at most this many voxels: enough for 0.5 % tails, 30 times fewer than a CT.
SAMPLE_VOXELS = 4_000_000
# A range below this is rounding, and its inverse would overflow single precision.
TINY = 1e-20


@dataclass(frozen=True)
class Statistics:
    """Intensities of a volume, from a regular subsample of its finite voxels.

    Attributes
    ----------
    minimum, maximum : float
        Over all sampled voxels.
    low, high : float
        0.5 and 99.5 percentile of the sampled non-zero voxels; always ``low < high``.
    whole : bool
        Whether every sampled voxel is a whole number.
    """

    minimum: float
    maximum: float
    low: float
    high: float
    whole: bool


@dataclass(frozen=True, eq=False)
class Volume:
    """One image: voxels on a grid in patient space.

    Attributes
    ----------
    voxels : np.ndarray
        (I, J, K), or (I, J, K, 3) for RGB, in the array order nibabel gives, read-only (volumes are
        shared between requests). The dtype of the file, except that float64 becomes float32.
    affine : np.ndarray
        4x4 float64, voxel index (0-based, centre of the voxel) to RAS+ mm.
    slice_axis : int
        0, 1 or 2: the array axis slices were acquired along.
    modality : str
        DICOM Modality (0008,0060), such as ``"CT"``, or ``""`` when the file does not say.
    window : tuple of float or None
        (level, width) from DICOM WindowCenter (0028,1050) and WindowWidth (0028,1051).
    path : Path
        Where it was read from.
    kind : str
        ``"nifti"``, ``"nrrd"`` (also MetaImage), ``"dicom"`` (also a NIfTI file with a note beside it
        that it was made of DICOM: `lib.imaging.readers.dicom_note`) or ``"raster"``.
    header : object or None
        The NIfTI header, which `answer` copies; None for the other kinds, whose affine says all.
    warnings : tuple of str
        Sentences for the person: slices that are missing, a tilted gantry.
    """

    voxels: np.ndarray
    affine: np.ndarray
    slice_axis: int
    modality: str
    window: tuple[float, float] | None
    path: Path
    kind: Kind
    header: object | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("voxels", "affine"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @property
    def shape3(self) -> tuple[int, int, int]:
        """Voxels along each array axis, (I, J, K)."""
        return self.voxels.shape[0], self.voxels.shape[1], self.voxels.shape[2]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        return geometry.spacing_of(self.affine)

    @property
    def n_slices(self) -> int:
        """Number of slices along the acquisition axis."""
        return self.shape3[self.slice_axis]

    @property
    def is_rgb(self) -> bool:
        """Whether each voxel is a colour."""
        return self.voxels.ndim == 4

    @property
    def in_plane_axes(self) -> tuple[int, int]:
        """The two array axes of a slice, in increasing order."""
        first, second = (axis for axis in range(3) if axis != self.slice_axis)
        return first, second

    def thickness(self, axis: int) -> float | None:
        """From slice to slice along `axis`, in pixels of a slice; None where slices mostly follow in time."""
        if self.modality in OVER_TIME and axis == self.slice_axis:
            return None
        a, b = (other for other in range(3) if other != axis)
        return float(self.spacing[axis] / np.sqrt(self.spacing[a] * self.spacing[b]))

    @property
    def nbytes(self) -> int:
        """Memory of the voxels, in bytes."""
        return int(self.voxels.nbytes)

    def plane(self, index: int, axis: int | None = None) -> np.ndarray:
        """One slice, in array order.

        Parameters
        ----------
        index : int
            0-based slice number.
        axis : int, optional
            Array axis to slice along; the acquisition axis when not given.

        Returns
        -------
        np.ndarray
            (A, B) or (A, B, 3), a read-only view; A and B are the two other axes, increasing.

        Raises
        ------
        UserError
            If the index is not a whole number inside the volume, or the axis not 0, 1 or 2.
        """
        axis = self.slice_axis if axis is None else axis
        if axis not in (0, 1, 2):
            raise UserError(f"slice axis {axis!r} is not 0, 1 or 2")
        count = self.shape3[axis]
        try:
            number = as_index(index)
        except TypeError:
            raise UserError(f"slice {index!r} is not a whole number") from None
        if not 0 <= number < count:
            raise UserError(f"slice {number} is outside the image, which has slices 0 to {count - 1}")
        return self.voxels[(slice(None),) * axis + (number,)]

    @property
    def percentiles(self) -> tuple[float, float]:
        """0.5 and 99.5 percentile of the non-zero voxels, (low, high) with low < high."""
        return self.statistics.low, self.statistics.high

    @cached_property
    def statistics(self) -> Statistics:
        """Intensities of a regular subsample of at most about 4 million voxels; NaN and Inf ignored."""
        return _statistics(self.voxels)


def _statistics(voxels: np.ndarray) -> Statistics:
    steps = [1, 1, 1]
    # Thin the longest axis first: one flat stride would fall into step with the rows.
    while (counts := [-(-n // s) for n, s in zip(voxels.shape[:3], steps, strict=True)]) and (
        np.prod(counts) > SAMPLE_VOXELS
    ):
        steps[int(np.argmax(counts))] += 1
    sample = voxels[tuple(slice(None, None, s) for s in steps)].ravel(order="K")
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return Statistics(0.0, 0.0, 0.0, 1.0, False)
    minimum, maximum = float(sample.min()), float(sample.max())
    whole = sample.dtype.kind in "iub" or bool(np.all(sample == np.rint(sample)))
    nonzero = sample[sample != 0]
    low, high = minimum, maximum
    if nonzero.size:
        robust = np.percentile(nonzero, (0.5, 99.5))
        if robust[1] - robust[0] > TINY:
            low, high = float(robust[0]), float(robust[1])
    if not high - low > TINY:
        # A constant image has no contrast to choose: any window around its value will do.
        high = low + max(1.0, abs(low) * 1e-3)
    return Statistics(minimum, maximum, low, high, whole)


def load_volume(path: Path | str) -> Volume:
    """Read an image file, or a folder that holds one DICOM series.

    Parameters
    ----------
    path : Path or str
        NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), DICOM (a .dcm file, a file
        without extension, a folder), or PNG, JPEG, TIFF, BMP, which become (W, H, 1) or (W, H, 1, 3):
        a client's (x, y) indexes them directly.

    Returns
    -------
    Volume
        With the whole file in memory.

    Raises
    ------
    NotFound
        If there is nothing at `path`.
    Unprocessable
        If the file is damaged, not of a known format, not 3D, or its geometry cannot be inverted.
        Messages name the file, never the folder it lies in.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound(f"image '{path.name}' does not exist")
    kind, read = _reader(path)
    raw = read(path)
    note = read_note(path) if kind == "nifti" else None
    if note is not None:
        kind, raw = "dicom", note.applied(raw)
    return _assemble(path, kind, raw)


def _reader(path: Path) -> tuple[Kind, Callable[[Path], RawImage]]:
    if path.is_dir():
        return "dicom", read_dicom_folder
    name = path.name.lower()
    if name.endswith(NIFTI):
        return "nifti", read_nifti
    if name.endswith(NRRD):
        return "nrrd", read_nrrd
    if name.endswith(RASTER):
        return "raster", read_raster
    # Scanners and archives often write DICOM without an extension, or with a UID as the name.
    if name.endswith(DICOM) or is_dicom_file(path):
        return "dicom", read_dicom_file
    known = ", ".join(NIFTI + NRRD + (".dcm",) + RASTER)
    raise Unprocessable(f"image '{path.name}' is of no known format; known are {known} and DICOM folders")


def _assemble(path: Path, kind: Kind, raw: RawImage) -> Volume:
    if 0 in raw.voxels.shape:
        raise Unprocessable(f"image '{path.name}' is empty: its shape is {raw.voxels.shape}")
    affine = np.array(raw.affine, dtype=np.float64)
    if not geometry.is_usable(affine):
        raise Unprocessable(f"image '{path.name}' has an affine that cannot be inverted or a zero spacing")
    slice_axis = raw.slice_axis
    if slice_axis is None:
        i, j, k = raw.voxels.shape[:3]
        slice_axis = geometry.acquisition_axis(geometry.spacing_of(affine), (i, j, k))
    for warning in raw.warnings:
        logger.warning("%s: %s", path.name, warning)
    return Volume(
        voxels=raw.voxels,
        affine=affine,
        slice_axis=slice_axis,
        modality=raw.modality,
        window=raw.window,
        path=path,
        kind=kind,
        header=raw.header,
        warnings=raw.warnings,
    )
