"""Pictures that were sent: read once, known by the sha256 of their file, and gone after a while."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from lib.errors import NotFound, Unprocessable
from lib.streams import pictures as module
from lib.streams.pictures import Pictures


def _png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((10, 20), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def reads(monkeypatch) -> list[bytes]:
    """The files that were read."""
    seen: list[bytes] = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda data: seen.append(data) or real(data))
    return seen


def test_a_picture_has_the_signature_of_its_file(reads):
    pictures = Pictures(1000, 30)
    added = pictures.add(_png(7))
    assert added.id == hashlib.sha256(_png(7)).hexdigest()
    assert added.size == (20, 10) and (added.pixels == 7).all()
    assert pictures.get(added.id) is added


def test_the_same_file_is_read_once(reads):
    pictures = Pictures(1000, 30)
    assert pictures.add(_png(7)) is pictures.add(_png(7))
    assert len(reads) == 1


def test_pixels_are_bounded():
    pictures = Pictures(500, 30)
    first, *others = [pictures.add(_png(n)) for n in range(3)]
    with pytest.raises(NotFound, match=f'picture "{first.id}" has expired or never was: send it again'):
        pictures.get(first.id)
    assert [pictures.get(one.id) for one in others] == others
    assert pictures.store.nbytes == 400


def test_a_picture_expires():
    now = [0.0]
    pictures = Pictures(1000, 30, lambda: now[0])
    added = pictures.add(_png(1))
    now[0] = 29 * 60
    assert pictures.get(added.id) is added
    now[0] += 31 * 60
    with pytest.raises(NotFound, match="has expired or never was"):
        pictures.get(added.id)


@pytest.mark.parametrize("id", ["", "../../etc/passwd", "A" * 64, None, 5, ["x"], "x" * 5000])
def test_what_is_no_signature_is_not_found(id):
    with pytest.raises(NotFound, match="has expired or never was"):
        Pictures(1000, 30).get(id)


def test_what_cannot_be_read_is_not_kept():
    pictures = Pictures(1000, 30)
    with pytest.raises(Unprocessable):
        pictures.add(b"no picture")
    assert len(pictures.store) == 0
