"""A picture that a client sends as the bytes of a file -> 8 bit pixels, as one of the datastore is shown."""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.geometry import LPS_FLIP
from lib.imaging.readers.raster import pixels_of
from lib.imaging.volume import Volume
from lib.imaging.window import choose_window, to_uint8

logger = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_BYTES = 128 << 20
MOST_PIXELS = 64_000_000  # 192 MB in colour; an 8K frame has 33 million
NOT_READ = f"image cannot be read: it must be a whole picture as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."


def decode(data: bytes) -> np.ndarray:
    """The pixels of a picture.

    Parameters
    ----------
    data : bytes
        PNG, JPEG, WebP or BMP.

    Returns
    -------
    ndarray uint8, (W, H) or (W, H, 3), read-only
        [x, y]. Palettes become RGB and alpha is dropped; grey of 16 bit is windowed as in a file of the
        datastore. EXIF orientation is not applied, as nowhere here: points and masks are in the stored
        pixels. (CVAT turns such pictures itself when they are uploaded, and hands on the turned ones.)

    Raises
    ------
    Unprocessable
        If there are no bytes, or too many, or too many pixels, or these are no such picture, a truncated one
        or an animation.
    """
    if not data:
        raise Unprocessable("image is empty: send the bytes of a picture.")
    if len(data) > MOST_BYTES:
        raise Unprocessable(f"image has {len(data)} bytes, more than the {MOST_BYTES} that are read.")
    try:
        with warnings.catch_warnings():
            # what Pillow warns of or refuses is refused below, before any pixel is made
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data), formats=FORMATS)
        with picture:
            _check(picture)
            pixels = pixels_of(picture)
    except Unprocessable:
        raise
    except Image.DecompressionBombError:
        raise Unprocessable(_too_large()) from None
    except Exception as error:  # Pillow's readers raise anything
        logger.info("a picture cannot be read: %s", error)
        raise Unprocessable(NOT_READ) from error
    shown = np.ascontiguousarray(_as_shown(pixels))
    shown.flags.writeable = False
    return shown


def _check(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise Unprocessable(_too_large(f", not {width} x {height}"))
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":  # cameras put a preview behind a JPEG
        raise Unprocessable(f"image has {pages} frames: send one picture at a time.")


def _as_shown(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    volume = Volume(pixels[:, :, None], LPS_FLIP, 2, "", None, Path("image"), "raster")
    return to_uint8(volume.plane(0), choose_window(volume))


def _too_large(what: str = "") -> str:
    return f"image may have {MOST_PIXELS // 1_000_000} million pixels{what}."
