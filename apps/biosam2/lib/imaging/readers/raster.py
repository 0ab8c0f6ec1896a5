"""PNG, JPEG, TIFF and BMP pictures, as one slice that a client's (x, y) indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.geometry import LPS_FLIP
from lib.imaging.readers.raw import RawImage, reading

TIFF = (".tif", ".tiff")
GREY = ("L", "I", "F")


def read_raster(path: Path) -> RawImage:
    """Read a picture.

    Parameters
    ----------
    path : Path
        PNG, JPEG, TIFF (one page) or BMP.

    Returns
    -------
    RawImage
        (W, H, 1), or (W, H, 1, 3) for colour: the order MONAI Label's LoadImage gives, (x, y) being
        column and row. Palettes become RGB, alpha is dropped, 16-bit grey is kept. EXIF orientation is
        not applied, because MONAI Label does not either and points come in its pixels. The affine is
        the identity in LPS, where ITK, and Slicer with it, puts a picture.

    Raises
    ------
    Unprocessable
        If the file is truncated or no picture, or a TIFF has several pages.
    """
    with reading(path, "a picture"), Image.open(path) as picture:
        pages = getattr(picture, "n_frames", 1)
        if pages > 1 and path.suffix.lower() in TIFF:
            raise Unprocessable(f"image '{path.name}' has {pages} pages; only single pictures can be read")
        pixels = pixels_of(picture)
    return RawImage(voxels=pixels[:, :, np.newaxis], affine=LPS_FLIP.copy(), slice_axis=2)


def pixels_of(picture: Image.Image) -> np.ndarray:
    """The pixels of an open picture, (W, H) or (W, H, 3): see `read_raster`."""
    if picture.mode in GREY or picture.mode.startswith("I;16"):
        pixels = np.asarray(picture)
    elif picture.mode in ("1", "LA"):
        pixels = np.asarray(picture.convert("L"))
    else:
        pixels = np.asarray(picture.convert("RGB"))
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return pixels.swapaxes(0, 1)
