"""Pictures are indexed by x and y, as MONAI Label and every client do."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lib.errors import Unprocessable
from lib.imaging.volume import load_volume


@pytest.mark.parametrize("extension", [".png", ".tif", ".bmp"])
def test_a_picture_is_indexed_by_x_and_y(tmp_path, extension):
    photo = skimage.data.astronaut()[:300, :200]
    Image.fromarray(photo).save(tmp_path / f"a{extension}")
    volume = load_volume(tmp_path / f"a{extension}")
    assert volume.voxels.shape == (200, 300, 1, 3)
    np.testing.assert_array_equal(volume.voxels[150, 40, 0], photo[40, 150])
    np.testing.assert_array_equal(volume.affine, np.diag([-1, -1, 1, 1]))  # the identity of ITK's LPS
    assert (volume.kind, volume.slice_axis) == ("raster", 2)


def test_a_jpeg_is_read_like_pillow_reads_it(tmp_path):
    Image.fromarray(skimage.data.astronaut()[:64, :48]).save(tmp_path / "a.jpg")
    expected = np.asarray(Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(load_volume(tmp_path / "a.jpg").plane(0), expected.swapaxes(0, 1))


@pytest.mark.slow
def test_a_picture_has_the_order_that_monai_gives_it(tmp_path):
    from monai.transforms import LoadImage

    photo = skimage.data.astronaut()[:30, :20]
    Image.fromarray(photo).save(tmp_path / "a.png")
    expected = LoadImage(image_only=True)(str(tmp_path / "a.png")).numpy()
    np.testing.assert_array_equal(load_volume(tmp_path / "a.png").plane(0), expected)


def test_sixteen_bit_grey_is_kept(tmp_path):
    grey = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    Image.fromarray(grey).save(tmp_path / "a.png")
    volume = load_volume(tmp_path / "a.png")
    assert volume.voxels.shape == (10, 6, 1) and not volume.is_rgb
    np.testing.assert_array_equal(volume.voxels[:, :, 0].T, grey)


@pytest.mark.parametrize(
    ("mode", "colour"), [("P", True), ("RGBA", True), ("CMYK", True), ("LA", False), ("1", False)]
)
def test_palettes_become_rgb_and_alpha_is_dropped(tmp_path, mode, colour):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(skimage.data.astronaut()[:30, :20]).convert(mode).save(path)
    assert load_volume(path).voxels.shape == ((20, 30, 1, 3) if colour else (20, 30, 1))


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    page = Image.new("L", (5, 4))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    with pytest.raises(Unprocessable, match="3 pages"):
        load_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_truncated_picture_is_refused(tmp_path, extension, unreadable):
    path = tmp_path / f"a{extension}"
    Image.fromarray(skimage.data.astronaut()).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    unreadable(path)
