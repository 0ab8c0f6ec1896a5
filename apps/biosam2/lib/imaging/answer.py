"""Masks to the file's own grid: NIfTI, NRRD and PNG."""

from __future__ import annotations

import gzip
import os
import tempfile
from io import BufferedWriter
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from lib.errors import UserError
from lib.imaging import geometry
from lib.imaging.volume import Volume

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".png")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
PNG_DTYPES = ("uint8", "uint16")
# A mask is long runs of few values: higher levels take many times longer and save little.
COMPRESSION = 1
SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT


def write_mask(
    mask: np.ndarray,
    volume: Volume,
    extension: str,
    dtype: str = "uint8",
    compress: bool = True,
    folder: Path | None = None,
) -> Path:
    """Write a label map onto the grid of the image it was made for.

    Parameters
    ----------
    mask : np.ndarray
        (I, J, K) whole numbers or bool, in the volume's array order; (A, B) when the volume has one
        slice only. First index fastest (``order="F"``, as `place_plane` gives) writes several times
        faster, since that is the order in the file.
    volume : Volume
        The image; its affine, and for NIfTI its header, go into the file.
    extension : str
        ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.png``, with or without the dot (``result_extension``).
        ``.png`` needs one slice and is written with x across and y down.
    dtype : str
        Voxel type in the file (``result_dtype``).
    compress : bool
        False writes NRRD raw, which OHIF needs, and .nii.gz stored rather than deflated.
    folder : Path, optional
        Where the file goes; the system's temporary folder when not given.

    Returns
    -------
    Path
        A new file with an unguessable name; the caller deletes it.

    Raises
    ------
    UserError
        If the extension or the type is not known, or the labels or the geometry do not fit it.
    ValueError
        If the mask is not whole numbers on the volume's grid: a bug of the caller, not of a person.
    """
    suffix = _extension(extension)
    mask = _on_grid(mask, volume)
    voxels = _typed(mask, dtype, suffix)
    if suffix == ".png" and volume.n_slices != 1:
        raise UserError(
            f"result_extension '{extension}' holds one slice and the image has {volume.n_slices}; "
            "use .nii.gz or .nrrd"
        )
    handle, name = tempfile.mkstemp(suffix=suffix, prefix="mask-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            if suffix == ".png":
                picture = voxels.take(0, axis=volume.slice_axis)
                Image.fromarray(np.ascontiguousarray(picture.T)).save(stream, format="PNG")
            elif suffix != ".nrrd":
                write_nifti(stream, voxels, volume, suffix == ".nii.gz", compress)
        if suffix == ".nrrd":
            _write_nrrd(path, voxels, volume, compress)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def place_plane(plane: np.ndarray, volume: Volume, index: int, axis: int | None = None) -> np.ndarray:
    """Put the mask of one slice into an otherwise empty mask of the whole volume.

    Parameters
    ----------
    plane : np.ndarray
        (A, B), the two other axes of the volume in increasing order.
    volume : Volume
        The image the slice was taken from.
    index : int
        0-based slice number.
    axis : int, optional
        Array axis the slice was taken along; the acquisition axis when not given.

    Returns
    -------
    np.ndarray
        (I, J, K) in the dtype of `plane`, first index fastest, as files want it.

    Raises
    ------
    UserError
        If the index is outside the volume.
    ValueError
        If `plane` has another shape than the slice.
    """
    expected = volume.plane(index, axis).shape[:2]
    if plane.shape != expected:
        raise ValueError(f"mask of shape {plane.shape} is not a slice of shape {expected}")
    mask = np.zeros(volume.shape3, dtype=plane.dtype, order="F")
    mask[(slice(None),) * (volume.slice_axis if axis is None else axis) + (index,)] = plane
    return mask


def _extension(extension: object) -> str:
    suffix = extension.strip().lower() if isinstance(extension, str) else ""
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    if suffix not in EXTENSIONS:
        known = ", ".join(EXTENSIONS)
        raise UserError(f"result_extension {extension!r} is not supported; use one of {known}")
    return suffix


def _on_grid(mask: np.ndarray, volume: Volume) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim == 2 and volume.n_slices == 1:
        mask = np.expand_dims(mask, volume.slice_axis)
    if mask.shape != volume.shape3:
        raise ValueError(f"mask of shape {mask.shape} is not on the image's grid {volume.shape3}")
    if mask.dtype.kind not in "iub":
        raise ValueError(f"mask of type {mask.dtype} does not hold whole numbers")
    return mask


def _typed(mask: np.ndarray, dtype: object, suffix: str) -> np.ndarray:
    allowed = PNG_DTYPES if suffix == ".png" else DTYPES
    name = dtype.strip().lower() if isinstance(dtype, str) else ""
    if name not in allowed:
        known = ", ".join(allowed)
        raise UserError(f"result_dtype {dtype!r} is not supported for {suffix}; use one of {known}")
    target = np.dtype(name)
    largest, smallest = int(mask.max()), int(mask.min())
    if target.kind == "f":
        # The mantissa: beyond it neighbouring labels would melt into one.
        high, low = 2 ** (np.finfo(target).nmant + 1), -(2 ** (np.finfo(target).nmant + 1))
    else:
        high, low = int(np.iinfo(target).max), int(np.iinfo(target).min)
    if largest > high or smallest < low:
        raise UserError(f"result_dtype '{name}' cannot hold the labels {smallest} to {largest}")
    return mask.astype(target, order="F", copy=False)


def write_nifti(
    stream: BufferedWriter, voxels: np.ndarray, volume: Volume, zipped: bool, compress: bool = True
) -> None:
    """Write voxels (I, J, K) on the grid of a volume, with the volume's own header if it has one."""
    image = nib.Nifti1Image(voxels, volume.affine)
    if isinstance(volume.header, nib.Nifti1Header):  # NIfTI-2 headers are a subclass
        header = volume.header.copy()
        # What the image's numbers meant is not true of labels; extensions may even name the patient.
        header.extensions.clear()
        header.set_intent("none")
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        header.set_data_dtype(voxels.dtype)
        # nibabel keeps both transforms and their codes as long as they say this affine.
        two = isinstance(header, nib.Nifti2Header)
        image = (nib.Nifti2Image if two else nib.Nifti1Image)(voxels, volume.affine, header)
    else:
        image.header.set_xyzt_units("mm")
        image.set_sform(volume.affine, SCANNER)
        # A quaternion cannot say shear, and some readers would believe it before the sform.
        image.set_qform(volume.affine, 0 if geometry.is_sheared(volume.affine) else SCANNER)
    if not zipped:
        image.to_stream(stream)
        return
    # No name and no time in the gzip header: equal masks make equal files.
    with gzip.GzipFile("", "wb", COMPRESSION if compress else 0, stream, mtime=0) as packed:
        image.to_stream(packed)


def _write_nrrd(path: Path, voxels: np.ndarray, volume: Volume, compress: bool) -> None:
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    geometry.place(image, geometry.flip_lps_ras(volume.affine))
    sitk.WriteImage(image, str(path), useCompression=compress, compressionLevel=COMPRESSION)
