"""DICOM: a folder with one series, or one file of one or more frames, as voxels and an affine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from lib.errors import Unprocessable
from lib.imaging.readers import dicom_geometry as tags
from lib.imaging.readers.raw import RawImage, as_3d, float32_at_most, itk_voxels, reading

logger = logging.getLogger(__name__)

# All that ordering a series needs: reading only these keeps 600 headers within about a second.
SERIES_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "Modality",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "WindowCenter",
    "WindowWidth",
    "RescaleSlope",
    "RescaleIntercept",
]


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries the DICOM prefix: ``DICM`` after 128 bytes (PS3.10 section 7.1)."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom_folder(path: Path) -> RawImage:
    """Read the one series that lies in a folder, not looking into folders inside it.

    Parameters
    ----------
    path : Path
        A folder; files that are no DICOM images are ignored.

    Returns
    -------
    RawImage
        (I, J, K) or (I, J, K, 3): i counts columns, j rows, k slices along the slice normal
        (row direction x column direction). Values are after the rescale slope and intercept.

    Raises
    ------
    Unprocessable
        If there is no image, more than one series, or the slices make no single 3D grid.
    """
    with reading(path, "a DICOM series"):
        slices = scan_series(path, SERIES_TAGS)
        if len(slices) == 1:
            return read_dicom_file(slices[0][0])
        ordered, affine, warnings = tags.arrange(path.name, slices)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(file) for file, _ in ordered])
        if not all(tags.rescales_to_integers(header) for _, header in ordered):
            reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
        voxels = as_3d(path, itk_voxels(image), image.GetNumberOfComponentsPerPixel())
        middle = ordered[len(ordered) // 2][1]
        return _raw(narrowest(voxels), affine, middle, warnings)


def read_dicom_file(path: Path) -> RawImage:
    """Read one DICOM file, grey or colour, of one frame or many.

    Parameters
    ----------
    path : Path
        A DICOM Part 10 file.

    Returns
    -------
    RawImage
        (I, J, K) or (I, J, K, 3): i counts columns, j rows, k frames. Frames keep the file's order
        unless their positions (enhanced CT and MR) are out of order along the normal.

    Raises
    ------
    Unprocessable
        If the file is truncated, has no pixels, or its frames make no single 3D grid.
    """
    with reading(path, "a DICOM image"):
        # force: archives still hold files from before the 128-byte preamble.
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" not in header or "Columns" not in header:
            raise Unprocessable(f"image '{path.name}' is a DICOM file without pixels")
        frames = int(header.get("NumberOfFrames") or 1)
        voxels = narrowest(read_pixels(path))
        if voxels.shape[2] != frames:
            raise Unprocessable(
                f"image '{path.name}' says it has {frames} frames but holds {voxels.shape[2]}"
            )
        order, affine, warnings = tags.frame_grid(path.name, header, frames)
        if order is not None:
            voxels = voxels[:, :, order]
        return _raw(voxels, affine, header, warnings)


def narrowest(voxels: np.ndarray) -> np.ndarray:
    """Undo ITK's widening: int32 values that fit int16 go back, float64 becomes float32.

    A CT stored in 16 signed bits with intercept -1024 *could* reach -33792, so ITK doubles its
    memory; the values there are never do.
    """
    if voxels.dtype == np.int32 and voxels.size:
        limits = np.iinfo(np.int16)
        if limits.min <= voxels.min() and voxels.max() <= limits.max:
            return voxels.astype(np.int16)
    return float32_at_most(voxels)


def scan_series(folder: Path, keywords: list[str] | None = None) -> list[tuple[Path, Any]]:
    """The headers of the one series in a folder, in no particular order.

    Parameters
    ----------
    folder : Path
    keywords : list of str, optional
        The only attributes to read; all but the pixels when not given.

    Returns
    -------
    list of (Path, pydicom.Dataset)
        One or more; when more than one, each is a single frame.

    Raises
    ------
    Unprocessable
        If there is no image, more than one series, or several multi-frame files.
    """
    slices = _scan(folder, keywords)
    if not slices:
        raise Unprocessable(f"image '{folder.name}' is a folder without DICOM images")
    series = {str(header.get("SeriesInstanceUID", "")) for _, header in slices}
    if len(series) > 1:
        raise Unprocessable(
            f"image '{folder.name}' is a folder with {len(series)} DICOM series; it must hold exactly one"
        )
    if len(slices) > 1 and any(int(header.get("NumberOfFrames") or 1) > 1 for _, header in slices):
        raise Unprocessable(
            f"image '{folder.name}' is a series of {len(slices)} files, some with several frames; "
            "only one such file is one volume"
        )
    return slices


def _scan(folder: Path, keywords: list[str] | None) -> list[tuple[Path, Any]]:
    found: dict[str, tuple[Path, Any]] = {}
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name.upper() == "DICOMDIR":
            continue
        try:
            header = pydicom.dcmread(
                file,
                stop_before_pixels=True,
                specific_tags=keywords,
                force=file.suffix.lower() == ".dcm",
            )
        except (InvalidDicomError, EOFError, OSError, ValueError, TypeError, NotImplementedError) as error:
            logger.info("%s is no DICOM file: %s", file, error)
            continue
        if "Rows" in header and "Columns" in header:
            # The same instance exported twice is one slice.
            found.setdefault(str(header.get("SOPInstanceUID") or file), (file, header))
    return list(found.values())


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of one DICOM file as (I, J, K) or (I, J, K, 3), after its rescale slope and intercept.

    Raises
    ------
    Exception
        Of whatever kind a library has for a file that it cannot read; see `reading`.
    """
    try:
        image = sitk.ReadImage(str(path))
        return as_3d(path, itk_voxels(image), image.GetNumberOfComponentsPerPixel())
    except RuntimeError as error:
        # ITK knows more codecs; pydicom forgives more headers (old ACR-NEMA, RT dose).
        logger.info("ITK cannot read %s, trying pydicom: %s", path, error)
        return _pixels_by_pydicom(path)


def _pixels_by_pydicom(path: Path) -> np.ndarray:
    from pydicom.pixel_data_handlers.util import apply_modality_lut, convert_color_space

    dataset = pydicom.dcmread(path, force=True)
    if not hasattr(dataset.file_meta, "TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pixels = dataset.pixel_array
    colour = int(dataset.get("SamplesPerPixel", 1)) == 3
    if colour and str(dataset.PhotometricInterpretation).startswith("YBR"):
        pixels = convert_color_space(pixels, dataset.PhotometricInterpretation, "RGB")
    if not colour:
        pixels = apply_modality_lut(pixels, dataset)
    if pixels.ndim == 2 + colour:
        pixels = pixels[np.newaxis]
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return np.asarray(pixels.transpose((2, 1, 0, 3) if colour else (2, 1, 0)))


def _raw(voxels: np.ndarray, affine: np.ndarray, header: Any, warnings: tags.Warnings) -> RawImage:
    return RawImage(
        voxels=voxels,
        affine=affine,
        slice_axis=2,
        modality=str(header.get("Modality") or "").strip().upper(),
        window=tags.window_of(header),
        warnings=warnings,
    )
