"""Masks, polygons and boxes between CVAT's coordinates and the server's: what is drawn is what is meant."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from biosam2_cvat import coordinates, runs, shapes
from biosam2_cvat.errors import BadRequest, BioSAM2Error
from biosam2_cvat.pictures import Picture
from biosam2_cvat.prompts import read_prompts
from biosam2_cvat.server import Server
from clients.cvat.nuclio_double import CLIENT
from cvat_sdk.masks import decode_mask, encode_mask
from PIL import Image
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage.draw import polygon2mask

SIZE = (61, 47)


@pytest.fixture(params=range(6))
def mask(request) -> np.ndarray:
    """Pieces of every kind: with holes, touching at corners, at the picture's rim; (H, W)."""
    noise = np.random.default_rng(request.param).normal(size=SIZE[::-1])
    smooth = gaussian_filter(noise, 0.4 + request.param)
    return smooth > np.quantile(smooth, 0.7)


def test_the_centre_of_a_pixel_is_half_a_pixel_further_in_cvat():
    assert coordinates.points([[0.5, 0.5], [10.25, 3]]) == [[0, 0], [9.75, 2.5]]
    assert coordinates.to_cvat([(0, 0), (9.75, 2.5)]) == [0.5, 0.5, 10.25, 3]


def test_a_box_is_the_same_whichever_corners_are_drawn():
    expected = [9.5, 3.5, 19.5, 7.5]
    assert coordinates.box([[10, 4], [20, 8]]) == expected
    assert coordinates.box([20, 4, 10, 8]) == expected


def test_the_box_around_a_mask_goes_from_edge_to_edge():
    mask = np.zeros(SIZE[::-1], bool)
    mask[4:8, 10:20] = True
    assert shapes.rectangle(mask) == [10, 4, 20, 8]
    assert shapes.tracked_object("rectangle", shapes.rectangle(mask), SIZE) == {"box": [9.5, 3.5, 19.5, 7.5]}


def test_masks_go_to_the_server_and_back_unchanged(mask):
    assert np.array_equal(runs.decode(runs.encode(mask)), mask)


def test_masks_are_written_as_cvats_own_sdk_writes_them(mask):
    written = shapes.run_mask(mask)
    assert written == encode_mask(mask)
    assert np.array_equal(decode_mask(written, image_width=SIZE[0], image_height=SIZE[1]), mask)
    assert np.array_equal(shapes.from_run_mask(written, SIZE), mask)


def test_a_detectors_mask_is_every_pixel_of_its_box_and_the_box(mask):
    *pixels, x0, y0, x1, y1 = shapes.flat_mask(mask)
    again = np.zeros_like(mask)
    again[y0 : y1 + 1, x0 : x1 + 1] = np.reshape(pixels, (y1 - y0 + 1, x1 - x0 + 1))
    assert np.array_equal(again, mask)


def _drawn(outlines: list[list[float]]) -> np.ndarray:
    """The pixels whose centres are inside a polygon of CVAT's, (H, W)."""
    corners = [np.reshape(outline, (-1, 2))[:, ::-1] - 0.5 for outline in outlines]
    return np.any([polygon2mask(SIZE[::-1], one) for one in corners], axis=0)


def test_polygons_hold_the_pixels_of_the_mask_and_of_its_holes(mask):
    drawn = _drawn(shapes.polygons(mask, tolerance=0))
    assert np.array_equal(drawn, binary_fill_holes(mask))


def test_a_polygon_runs_between_pixels():
    mask = np.zeros(SIZE[::-1], bool)
    mask[20, 30] = True
    corners = np.reshape(shapes.polygons(mask, tolerance=0)[0], (-1, 2))
    assert sorted(map(tuple, corners)) == [(30, 20.5), (30.5, 20), (30.5, 21), (31, 20.5)]


def test_the_largest_piece_is_the_first_polygon():
    mask = np.zeros(SIZE[::-1], bool)
    mask[2:5, 2:5] = mask[20:40, 20:50] = True
    first, second = shapes.polygons(mask)
    assert min(first) == 20 and max(second) == 5
    assert shapes.shape("polygon", mask) == {"type": "polygon", "points": first}


def test_a_tolerant_polygon_has_few_corners_and_hardly_another_area():
    rows, columns = np.mgrid[:200, :200]
    disk = (rows - 99) ** 2 + (columns - 101) ** 2 <= 80**2
    exact, simple = shapes.polygons(disk, 0)[0], shapes.polygons(disk)[0]
    assert len(simple) < len(exact) / 4
    drawn = polygon2mask(disk.shape, np.reshape(simple, (-1, 2))[:, ::-1] - 0.5)
    assert (drawn & disk).sum() / (drawn | disk).sum() > 0.99


def test_a_mask_without_a_pixel_has_no_shape():
    nothing = np.zeros(SIZE[::-1], bool)
    assert [shapes.shape(kind, nothing) for kind in shapes.TRACKED] == [None] * 3
    assert np.array_equal(runs.decode(runs.encode(nothing)), nothing)


@pytest.mark.parametrize(
    ("kind", "points", "words"),
    [
        ("ellipse", [1, 2, 3, 4], 'shape of type "ellipse" cannot be tracked'),
        ("rectangle", [1, 2, 3], "rectangle has 3 numbers instead of 4"),
        ("rectangle", [5, 5, 5, 9], "is empty"),
        ("rectangle", [1, "a", 3, 4], "rectangle is not made of numbers"),
        ("polygon", [1, 1, 2, 2], "polygon has 4 numbers"),
        ("mask", [4, 5, 0, 0, 70, 3], "not inside the picture of 61 x 47"),
        ("mask", [4, 5, 0, 0, 2, 3], "do not fill its box of 12 pixels"),
        ("mask", [12, 0, 0, 2, 3], "mask is empty"),
        ("mask", [], "not a list of run lengths"),
    ],
)
def test_a_shape_that_cannot_be_tracked_is_refused_with_a_sentence(kind, points, words):
    with pytest.raises(BadRequest, match=words):
        shapes.tracked_object(kind, points, SIZE)


@pytest.mark.parametrize("box", [None, []])
def test_clicks_alone_and_a_box_alone_are_enough_but_nothing_is_not(box):
    assert read_prompts([[1, 2]], None, box)["box"] is None
    assert read_prompts([], [], [[1, 1], [9, 9]])["foreground"] == []
    with pytest.raises(BadRequest, match="neither a click on the object nor a box"):
        read_prompts([], [[3, 3]], box)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_picture_of_any_kind_is_sent_without_loss(mode):
    image = Image.effect_noise(SIZE, 60).convert("I;16" if mode == "I;16" else mode)
    picture = Picture.from_image(image)
    with Image.open(io.BytesIO(picture.content)) as sent:
        assert sent.size == picture.size == SIZE
        kept = image if mode in ("L", "RGB", "I;16") else image.convert("RGB")
        assert np.array_equal(np.asarray(sent), np.asarray(kept))


@pytest.mark.parametrize("kind", [">u2", "<i4", "<f4"])
def test_deep_grey_is_sent_as_16_bit(kind):
    deep = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1]) * 20 + 7
    picture = Picture.from_image(Image.fromarray(deep.astype(kind)))
    with Image.open(io.BytesIO(picture.content)) as sent:
        share = (deep - 7) / (deep.max() - 7)  # numbers with a comma are stretched from least to most
        assert np.array_equal(np.asarray(sent), np.round(share * 65535) if kind == "<f4" else deep)


@pytest.mark.parametrize("answer", [{}, {"size": [3, 3], "bbox": [0, 0, 2, 2], "counts": [1]}])
def test_an_answer_that_holds_no_mask_is_an_error_and_not_another_mask(answer):
    with pytest.raises(BioSAM2Error, match="no mask that can be read"):
        runs.decode(answer)


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", ""])
def test_what_is_no_address_of_a_server_is_refused(address):
    with pytest.raises(BadRequest, match="is not the address of a server"):
        Server(address)


def test_what_cvats_side_installs_needs_nothing_of_the_server():
    found = (
        "import sys; sys.path.insert(0, sys.argv[1]); import biosam2_cvat.tracking, biosam2_cvat.gateway;"
        "import nuclio.detector.main, nuclio.interactor.main, nuclio.tracker.main;"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(loaded & {'lib', 'torch', 'monai', 'sam2', 'fastapi'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", found, CLIENT], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "[]"
