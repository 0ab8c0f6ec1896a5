"""Pictures as bytes: what is read, as what, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.picture import MOST_BYTES, decode
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window, to_uint8

PHOTO = skimage.data.astronaut()[:30, :20]


def _bytes(picture: Image.Image, format: str = "PNG", **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **how)
    return file.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("format", "how"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})]
)
def test_the_four_formats_are_read(format, how):
    pixels = decode(_bytes(Image.fromarray(PHOTO), format, **how))
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8 and not pixels.flags.writeable
    most = 40 if format == "JPEG" else 0
    assert np.abs(pixels[7, 11].astype(int) - PHOTO[11, 7]).max() <= most


def test_sixteen_bit_grey_is_shown_as_in_the_datastore(tmp_path):
    grey = (np.arange(600, dtype=np.uint16) * 90).reshape(20, 30)
    Image.fromarray(grey).save(tmp_path / "a.png")
    volume = load_volume(tmp_path / "a.png")
    shown = to_uint8(volume.plane(0), choose_window(volume))
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes()), shown)
    assert shown.max() == 255


def test_a_palette_becomes_its_colours():
    picture = Image.fromarray(PHOTO).quantize(16)
    assert np.array_equal(decode(_bytes(picture)).swapaxes(0, 1), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 0), ("L", 0), ("1", 0)])
def test_alpha_is_dropped_and_grey_stays_grey(mode, channels):
    pixels = decode(_bytes(Image.fromarray(PHOTO).convert(mode)))
    assert pixels.shape == ((20, 30, 3) if channels else (20, 30))


def test_a_turned_jpeg_is_read_as_it_is_stored():
    """EXIF orientation 6: to be shown turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(_bytes(Image.fromarray(PHOTO), "JPEG", exif=exif)).shape[:2] == (20, 30)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "image is empty"),
        (b"no picture at all", "image cannot be read: it must be a whole picture as PNG, JPEG, WEBP or BMP"),
        (_bytes(Image.fromarray(PHOTO))[:-300], "image cannot be read"),
        (_bytes(Image.fromarray(PHOTO), "JPEG")[:-300], "image cannot be read"),
        (_bytes(Image.fromarray(PHOTO), "TIFF"), "image cannot be read"),
        (_bytes(Image.fromarray(PHOTO), "GIF"), "image cannot be read"),
        (_png_header(5, 5), "image cannot be read"),
        (_png_header(9000, 9000), "image may have 64 million pixels, not 9000 x 9000"),
        (_png_header(60000, 60000), "image may have 64 million pixels"),
        (bytes(MOST_BYTES + 1), f"image has {MOST_BYTES + 1} bytes, more than the {MOST_BYTES}"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "tiff", "gif", "no pixels", "large", "bomb", "bytes"],
)
def test_what_cannot_be_read_is_said(data, words):
    with pytest.raises(Unprocessable, match=words):
        decode(data)


def test_an_animation_is_refused():
    frames = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1])]
    with pytest.raises(Unprocessable, match="image has 2 frames: send one picture at a time"):
        decode(_bytes(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
