"""A folder or a ZIP of pictures is a video."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.video.open import open_video

from .conftest import SIZE, picture


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.swapaxes(0, 1)).save(folder / name)


@pytest.fixture(params=["folder", "zip"])
def film(request, tmp_path):
    """Writes pictures by name as a folder or as an archive."""

    def write(pictures: dict[str, np.ndarray | bytes]) -> Path:
        folder = tmp_path / "film.frames"
        folder.mkdir()
        for name, pixels in pictures.items():
            if isinstance(pixels, bytes):
                (folder / name).write_bytes(pixels)
            else:
                save(folder, name, pixels)
        if request.param == "folder":
            return folder
        path = tmp_path / "film.frames.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in pictures:
                archive.write(folder / name, f"some folder/{name}")
        return path

    return write


def test_frames_come_in_the_order_in_which_a_person_counts(film):
    names = [f"frame{n}.png" for n in range(12)]
    with open_video(film({name: picture(n) for n, name in enumerate(names)})) as frames:
        assert frames.shape3 == (*SIZE, 12) and frames.kind == "pictures"
        for n in (11, 2, 10, 1):
            np.testing.assert_array_equal(frames[n], picture(n))


def test_what_is_no_picture_is_no_frame(film):
    with open_video(film({"1.png": picture(1), "notes.txt": b"text", ".hidden.png": b"x"})) as frames:
        assert len(frames) == 1


def test_gray_pictures_are_gray_frames(film):
    with open_video(film({"1.png": picture(1)[..., 0], "2.png": picture(2)[..., 0]})) as frames:
        assert not frames.is_rgb
        np.testing.assert_array_equal(frames[1], picture(2)[..., 0])


def test_a_gray_picture_among_colored_ones_is_gray_in_color(film):
    with open_video(film({"1.png": picture(1), "2.png": picture(2)[..., 0]})) as frames:
        np.testing.assert_array_equal(frames[1][..., 2], picture(2)[..., 0])


def test_a_picture_of_another_size_is_named_before_anything_is_done(film):
    pictures = {"1.png": picture(1), "2.png": picture(2), "3.png": picture(3, (64, 32))}
    with pytest.raises(
        Unprocessable, match=r"frame 2 \(.*3.png\) has 64 x 32 pixels, the frames before 48 x 32"
    ):
        open_video(film(pictures))


def test_an_empty_one_is_refused(film):
    with pytest.raises(Unprocessable, match="has no frames: there is no picture in it"):
        open_video(film({"notes.txt": b"text"}))


def test_a_broken_picture_is_named(film):
    with pytest.raises(Unprocessable, match=r"frame 1, .*2.png"):
        open_video(film({"1.png": picture(1), "2.png": b"no picture"}))


def test_a_broken_archive_is_refused(tmp_path):
    (tmp_path / "a.frames.zip").write_bytes(b"no archive")
    with pytest.raises(Unprocessable, match="cannot be read as a ZIP of pictures"):
        open_video(tmp_path / "a.frames.zip")


def test_a_picture_that_was_added_is_a_further_frame(film, tmp_path):
    path = film({"1.png": picture(1)})
    assert len(open_video(path)) == 1
    if path.is_dir():
        save(path, "2.png", picture(2))
        assert len(open_video(path)) == 2
