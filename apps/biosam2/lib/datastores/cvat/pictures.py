"""A frame as CVAT sends it -> a PNG or JPEG file whose pixels are those that annotations are drawn on."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lib.datastores.cvat.catalogue import Frame
from lib.errors import Unprocessable

KEPT = {"PNG": ".png", "JPEG": ".jpg"}
ORIENTATION = 0x0112  # EXIF
EXACT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG holds
DEEP = ("I", "F")  # grey of 32 bit
MOST = (1 << 16) - 1


def write_picture(content: bytes, frame: Frame, folder: Path, what: str) -> Path:
    """Check a frame and write it: PNG and JPEG as they are, everything else as PNG.

    Parameters
    ----------
    content : bytes
    frame : Frame
        What CVAT says of it.
    folder : Path
    what : str
        Which frame it is, for the sentences of errors.

    Returns
    -------
    Path
        A new file in the folder.

    Raises
    ------
    Unprocessable
        If it is no picture, or of another size than CVAT says: labels would not lie on it.
    """
    size = frame.width, frame.height
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.size not in (size, size[::-1]):  # before it is unpacked
                raise Unprocessable(f"{what} is {_by(picture.size)} pixels, and CVAT says {_by(size)}.")
            picture.load()
            format = picture.format or ""
            # CVAT shows a picture as its EXIF orientation says, the readers here as its pixels lie
            turned = picture.getexif().get(ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(picture) if turned else picture
            if upright.size != size:
                raise Unprocessable(f"{what} is {_by(upright.size)} pixels, and CVAT says {_by(size)}.")
            if format in KEPT and not turned and getattr(picture, "n_frames", 1) == 1:
                place = folder / f"picture{KEPT[format]}"
                place.write_bytes(content)
                return place
            place = folder / "picture.png"
            _as_png_holds_it(upright).save(place, exif=b"")
            return place
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unprocessable(f"{what} cannot be read as a picture ({error}).") from None


def _as_png_holds_it(picture: Image.Image) -> Image.Image:
    """Grey stays grey: numbers that are not whole ones of 16 bit are stretched over these."""
    if picture.mode in EXACT:
        return picture
    if picture.mode not in DEEP and not picture.mode.startswith("I;16"):
        return picture.convert("RGB")
    values = np.asarray(picture)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > MOST:
        values = _stretched(values.astype(float))
    return Image.fromarray(values.astype(np.uint16))


def _stretched(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    shares = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1)
    return np.round(shares * MOST)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
