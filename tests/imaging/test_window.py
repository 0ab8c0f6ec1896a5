"""Which intensities are shown as black and white, and how they become 8 bit."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lib.errors import UserError
from lib.imaging.window import PRESETS, Window, choose_window, equalised, looks_like_ct, stretched, to_uint8


@pytest.fixture
def head() -> np.ndarray:
    """Air, water and bone as a CT stores them."""
    values = np.full((16, 16, 16), -1000, np.int16)
    values[4:12] = 30
    values[6:8] = 1200
    return values


@pytest.fixture
def mr() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (16, 16, 16)).astype(np.int16)


def test_a_request_comes_before_everything_else(make_volume, head):
    volume = make_volume(head, modality="CT", window=(1, 2))
    assert choose_window(volume, "lung") == Window(-1350, 150)
    assert choose_window(volume, "Soft tissue") == Window(-160, 240)
    assert choose_window(volume, {"level": 10, "width": 20}) == Window(0, 20)
    assert choose_window(volume, (10, 20)) == Window(0, 20)
    assert choose_window(volume, [10.0, np.float32(20)]) == Window(0, 20)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_can_be_asked_for(make_volume, head, name):
    level, width = PRESETS[name]
    assert choose_window(make_volume(head), name) == Window(level - width / 2, level + width / 2)


@pytest.mark.parametrize(
    ("request_value", "named"),
    [
        ("kidney", "kidney"),
        ("", "''"),
        ({"level": 40}, "level"),
        ({"level": 40, "width": 0}, "0"),
        ((40, -5), "-5"),
        ((40, float("nan")), "nan"),
        ((float("inf"), 400), "inf"),
        ((1e308, 400), "1e+308"),
        ((0, 1e-300), "1e-300"),
        ((40,), "40"),
        (("40", "400"), "400"),
        ((True, 400), "True"),
        (40, "40"),
    ],
)
def test_a_bad_request_names_the_field_and_the_value(make_volume, head, request_value, named):
    with pytest.raises(UserError, match="^window") as caught:
        choose_window(make_volume(head), request_value)
    assert named in str(caught.value)


def test_dicom_tags_come_before_the_ct_default(make_volume, head):
    assert choose_window(make_volume(head, modality="CT", window=(-600, 1500))) == Window(-1350, 150)
    assert choose_window(make_volume(head, modality="CT", window=(40, 0))) == Window(-160, 240)


def test_ct_gets_the_soft_tissue_window(make_volume, head):
    assert choose_window(make_volume(head, modality="CT")) == Window(-160, 240)


def test_hounsfield_units_are_recognised_without_a_tag(make_volume, head):
    assert looks_like_ct(make_volume(head))
    assert looks_like_ct(make_volume(head.astype(np.float32)))
    assert choose_window(make_volume(head)) == Window(-160, 240)


def test_other_intensities_are_not_taken_for_ct(make_volume, head, mr):
    assert not looks_like_ct(make_volume(mr))
    assert not looks_like_ct(make_volume(head, modality="MR"))
    assert not looks_like_ct(make_volume(head / np.float32(7)))
    assert not looks_like_ct(make_volume(np.minimum(head, 100)))
    phase = np.linspace(-4096, 4095, 4096).astype(np.int16).reshape(16, 16, 16)
    assert not looks_like_ct(make_volume(phase))


def test_other_modalities_get_percentiles(make_volume, mr):
    volume = make_volume(mr, modality="MR")
    assert choose_window(volume) == Window(*volume.percentiles)


def test_8_bit_pictures_keep_their_range(make_volume):
    dark = np.full((8, 8, 1), 10, np.uint8)
    assert choose_window(make_volume(dark, kind="raster")) == Window(0, 255)
    assert choose_window(make_volume(np.zeros((8, 8, 1, 3), np.uint8), kind="raster")) == Window(0, 255)
    ultrasound = make_volume(np.zeros((8, 8, 4), np.uint8), kind="dicom", modality="US")
    assert choose_window(ultrasound) == Window(0, 255)


def test_a_constant_volume_has_a_window(make_volume):
    assert choose_window(make_volume(np.zeros((4, 4, 4), np.int16))).high > 0
    noise = np.random.default_rng(0).random((4, 4, 4)).astype(np.float32) * np.float32(1e-35)
    assert choose_window(make_volume(noise)).high > 0


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("nan")), (float("-inf"), 0)])
def test_an_empty_window_cannot_be_made(low, high):
    with pytest.raises(ValueError, match="window"):
        Window(low, high)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_values_are_scaled_and_clipped(dtype):
    plane = np.array([[-2000, -160, 40], [240, 3000, 139]], dtype)
    expected = [[0, 0, 128], [255, 255, 191]]
    result = to_uint8(plane, Window(-160, 240))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_the_extremes_of_a_type_do_not_wrap_around():
    plane = np.array([[-32768, 32767]], np.int16)
    np.testing.assert_array_equal(to_uint8(plane, Window(-160, 240)), [[0, 255]])


def test_nan_is_black_and_infinity_is_clipped():
    plane = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    np.testing.assert_array_equal(to_uint8(plane, Window(-1, 1)), [[0, 255, 0, 255]])


def test_8_bit_grey_is_unchanged_by_its_full_range():
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_uint8(plane, Window(0, 255)), plane)


def test_colour_is_not_windowed():
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(colour, Window(-160, 240)), colour)
    np.testing.assert_array_equal(to_uint8(colour.astype(np.uint16) * 257, Window(-160, 240)), colour)


def test_a_ct_slice_takes_a_few_milliseconds():
    plane = np.random.default_rng(0).integers(-1000, 1500, (512, 512)).astype(np.int16)
    to_uint8(plane, Window(-160, 240))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        to_uint8(plane, Window(-160, 240))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02


def test_a_faint_part_is_stretched_to_black_and_white_and_hues_stay():
    rng = np.random.default_rng(0)
    faint = rng.integers(100, 140, (50, 60)).astype(np.uint8)
    wide = stretched(faint)
    assert wide.min() == 0 and wide.max() == 255
    assert (np.diff(wide.ravel()[np.argsort(faint, axis=None)].astype(int)) >= 0).all()
    flat = np.full((5, 5), 77, np.uint8)
    assert np.ptp(stretched(flat)) == 0
    noise = stretched(rng.integers(100, 102, (50, 60)).astype(np.uint8))
    assert np.ptp(noise.astype(int)) < 64  # noise of two grey levels stays faint
    colour = np.stack([faint, faint // 2, np.zeros_like(faint)], -1)
    red, green, blue = np.moveaxis(stretched(colour).astype(int), -1, 0)
    assert (red > green).all() and (green > blue).all()


def test_each_place_is_equalised_in_its_own_contrast():
    """Two discs, a little brighter than what is around them, one in the dark and one in the light."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((64, 128))
    ground = np.where(columns < 64, 40, 200) + rng.normal(0, 2, (64, 128))
    discs = [(rows - 32) ** 2 + (columns - middle) ** 2 < 100 for middle in (32, 96)]
    pixels = (ground + 6 * (discs[0] | discs[1])).astype(np.uint8)
    shown, wide = equalised(pixels), stretched(pixels)
    assert shown.dtype == np.uint8 and shown.shape == pixels.shape
    for one, side in zip(discs, (columns < 64, columns >= 64), strict=True):
        gap, before = (found[one].mean() - found[side & ~one].mean() for found in (shown, wide))
        assert gap > 1.3 * before
    flat = np.full((20, 20, 3), 77, np.uint8)
    np.testing.assert_array_equal(equalised(flat), flat)
    colour = np.stack([pixels, pixels // 2, pixels // 4], -1)
    red, green, blue = np.moveaxis(equalised(colour).astype(int), -1, 0)
    assert (red >= green).all() and (green >= blue).all()
