"""Pictures as bytes that the server reads, without loss."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from biosam2_cvat.errors import BadRequest

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # what the server reads: the others that CVAT has are sent as PNG
KEPT_MODES = ("L", "RGB", "I;16")  # these are sent as they are, and every other one but deep grey as RGB
DEEP_MODES = ("I", "F", "I;16B")
MOST = (1 << 16) - 1


@dataclass(frozen=True)
class Picture:
    """A picture that can be sent, and sent again.

    Attributes
    ----------
    content : bytes
        A PNG, JPEG, WebP or BMP file.
    size : (W, H)
    """

    content: bytes
    size: tuple[int, int]

    @property
    def id(self) -> str:
        """The server's name for it, known before it is sent."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def from_base64(cls, text: Any) -> Picture:
        """The picture that CVAT puts in a request to a nuclio function.

        Raises
        ------
        BadRequest
            If there is none, or it is no picture.
        """
        if not isinstance(text, (str, bytes)) or not text:
            raise BadRequest("the request has no image.")
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("image is not in base64.") from None
        try:
            with Image.open(io.BytesIO(content)) as image:
                return cls(content, image.size) if image.format in FORMATS else cls.from_image(image)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            raise BadRequest(f"image, {len(content)} bytes, is not a picture that can be read.") from None

    @classmethod
    def from_image(cls, image: Image.Image) -> Picture:
        """The picture that CVAT's agents give to their functions.

        Raises
        ------
        BadRequest
            If its pixels cannot be read.
        """
        buffer = io.BytesIO()
        try:
            kept = image if image.mode in KEPT_MODES else _converted(image)
            kept.save(buffer, "PNG", compress_level=1)  # it goes a short way once
        except (OSError, ValueError, SyntaxError) as error:
            raise BadRequest(f"the picture cannot be read: {error}") from None
        return cls(buffer.getvalue(), kept.size)


def _converted(image: Image.Image) -> Image.Image:
    """RGB, or of deep grey 16 bit: numbers that are not whole ones of these are stretched over them."""
    if image.mode not in DEEP_MODES:
        return image.convert("RGB")
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > MOST:
        values = _stretched(values.astype(float))
    return Image.fromarray(values.astype(np.uint16))


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    shares = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1)
    return np.round(shares * MOST)
