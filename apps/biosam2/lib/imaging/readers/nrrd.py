"""NRRD and MetaImage files, read by ITK and turned from its LPS to RAS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from lib.errors import Unprocessable
from lib.imaging import geometry
from lib.imaging.readers.raw import RawImage, as_3d, float32_at_most, itk_voxels, reading


def read_nrrd(path: Path) -> RawImage:
    """Read a .nrrd, .nhdr, .mha or .mhd file.

    Parameters
    ----------
    path : Path
        For detached headers (.nhdr, .mhd) the data file must lie where the header says.

    Returns
    -------
    RawImage
        Voxels in the dtype on disk, first index fastest; a 2D file becomes one slice.

    Raises
    ------
    Unprocessable
        If the file is truncated or damaged, or has a real fourth dimension.
    """
    with reading(path, "an NRRD or MetaImage file"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = tuple(reader.GetSize())
        if any(n > 1 for n in size[3:]):
            raise Unprocessable(f"image '{path.name}' has shape {size}; only 3D images can be segmented")
        if len(size) > 3:
            # ITK collapses an axis when it is asked for none of it.
            reader.SetExtractSize(list(size[:3]) + [0] * (len(size) - 3))
        image = reader.Execute()
        voxels = as_3d(path, itk_voxels(image), image.GetNumberOfComponentsPerPixel())
        return RawImage(voxels=float32_at_most(voxels), affine=itk_affine(image))


def itk_affine(image: Any) -> np.ndarray:
    """4x4 voxel index to RAS+ mm of a 2D or 3D SimpleITK image."""
    n = image.GetDimension()
    directions = np.asarray(image.GetDirection()).reshape(n, n)
    return geometry.flip_lps_ras(geometry.compose(directions, image.GetSpacing(), image.GetOrigin()))
