"""A DICOM series -> the NIfTI file that MONAI Label works on, and a note of what NIfTI cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.imaging.answer import write_nifti
from lib.imaging.readers.dicom_note import DicomNote
from lib.imaging.volume import load_volume

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])  # what nibabel calls NIfTI's RGB24


def convert_series(series: Path, image: Path) -> DicomNote:
    """Convert a series by the same reader that opens DICOM folders, in the same voxel order.

    Parameters
    ----------
    series : Path
        A folder with one series.
    image : Path
        The .nii.gz file to write; its note (`lib.imaging.readers.dicom_note`) goes beside it.

    Returns
    -------
    DicomNote
        The note that was written.

    Raises
    ------
    Unprocessable
        If the series is no volume (see `lib.imaging.readers.dicom`).
    """
    volume = load_volume(series)
    voxels = volume.voxels
    if volume.is_rgb:
        if voxels.dtype == np.uint16:
            voxels = voxels >> 8  # NIfTI has no wider colour, and no screen either
        voxels = np.ascontiguousarray(voxels.astype(np.uint8, copy=False)).view(RGB)[..., 0]
    with open(image, "wb") as stream:
        write_nifti(stream, voxels, volume, zipped=True)
    note = DicomNote(
        modality=volume.modality,
        window=volume.window,
        slice_axis=volume.slice_axis,
        warnings=volume.warnings,
        instances=sum(1 for file in series.iterdir() if file.is_file()),
    )
    note.write(image)
    return note
