"""Where structures lie, by the layouts of labelled patients and by what was seen of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lib.sam.layouts import GRID, LANDMARKS, Fit, Part, cells, laid, landmarks, layout
from lib.sam.places import Region

SHAPE = (24, 128, 96)
BOXES = {
    "liver": ((2, 16, 16), (14, 60, 44)),
    "spleen": ((8, 76, 50), (13, 90, 70)),
    "kidney": ((10, 96, 8), (22, 120, 32)),
}
NAMES = list(BOXES)


def label_map(shape: tuple[int, ...] = SHAPE, size: float = 1.0, **moved: tuple[int, int, int]) -> np.ndarray:
    """The structures of one patient, moved by voxels of `SHAPE`: all of them, or one by its name."""
    labels = np.zeros(shape, np.uint8)
    middle = np.array(SHAPE) / 2
    for value, (name, (low, high)) in enumerate(BOXES.items(), 1):
        by = np.array(moved.get("all", (0, 0, 0))) + moved.get(name, (0, 0, 0))
        ends = [(np.array(end) - middle) * size + middle + by for end in (low, high)]
        voxels = [np.round(end * np.array(shape) / SHAPE).astype(int) for end in ends]
        labels[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(*voxels, strict=True))] = value
    return labels


def seen(labels: np.ndarray, **sure: float) -> dict[str, np.ndarray]:
    """What a network made of it that is as sure of a structure as told."""
    return {
        name: cells(((plane == value) * sure.get(name, 0.9) for plane in labels), len(labels))
        for value, name in enumerate(NAMES, 1)
    }


def middle(region: Region | None) -> np.ndarray:
    assert region is not None
    return region.middle * SHAPE


def truth(labels: np.ndarray, name: str) -> np.ndarray:
    at = np.argwhere(labels == NAMES.index(name) + 1)
    return (at.min(0) + at.max(0) + 1) / 2


def test_a_layout_says_how_much_of_each_cell_a_structure_fills():
    labels = label_map()
    parts = layout(labels, NAMES)
    assert list(parts) == NAMES
    assert parts["spleen"].grid == GRID == (24, 32, 32)
    share = (labels == 2).reshape(24, 32, 4, 32, 3).mean((2, 4))
    np.testing.assert_allclose(parts["spleen"].on(GRID), share, atol=1 / 255)
    # not more is kept of it than the cells that it is in
    assert parts["spleen"].filled.shape == tuple(np.ptp(np.argwhere(share > 0), 0) + 1)
    np.testing.assert_allclose(parts["spleen"].region.low * SHAPE, (8, 76, 50))


@pytest.mark.parametrize("shape", [(5, 20, 31), (24, 33, 100), (70, 65, 32), (1, 128, 96)])
def test_cells_of_images_that_they_do_not_divide(shape):
    """What was seen and what was labelled are on the same cells."""
    labels = (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)
    (part,) = layout(labels, ["liver"]).values()
    grid = tuple(min(pair) for pair in zip(GRID, shape, strict=True))
    assert part.grid == grid
    found = cells((plane.astype(float) for plane in labels), len(labels))
    np.testing.assert_allclose(found, ndimage.gaussian_filter(part.on(grid), 1), atol=0.01)
    assert part.on((3, 8, 8)).shape == (3, 8, 8)
    assert part.on((3, 8, 8)).mean() == pytest.approx(labels.mean(), abs=0.05)


@pytest.mark.parametrize("shape", [SHAPE, (48, 200, 96), (24, 64, 64)])
def test_structures_that_were_moved_and_sized_together_are_found(shape):
    image = label_map(shape, 1.1, all=(3, 8, -6))
    fit = Fit(seen(image))
    patients = [layout(label_map(), NAMES), layout(label_map(all=(-1, 0, 4)), NAMES)]
    for name in NAMES:
        region = fit.region(name, patients)
        apart = np.abs(middle(region) - truth(label_map(SHAPE, 1.1, all=(3, 8, -6)), name))
        assert (apart <= (1.0, 4, 3)).all(), (name, apart)  # a cell


def test_what_was_not_seen_is_where_the_others_say():
    image = label_map(all=(2, 8, -6))
    fit = Fit(seen(image, spleen=0))
    np.testing.assert_allclose(
        middle(fit.region("spleen", [layout(label_map(), NAMES)])), truth(image, "spleen"), atol=2.1
    )


def test_what_looks_like_it_elsewhere_leads_nobody_astray():
    """As much of it as there is of the structure, on slices where none of the others fits."""
    image = label_map(all=(2, 8, -6))
    taken = seen(image)
    false = np.roll(image, (9, -40, 20), (0, 1, 2))
    taken["spleen"] = 0.3 * taken["spleen"] + seen(false)["spleen"]
    found = middle(Fit(taken).region("spleen", [layout(label_map(), NAMES)]))
    assert np.abs(found - truth(image, "spleen"))[0] < 1.5
    assert (np.abs(found - truth(image, "spleen")) < (1.5, 12, 12)).all()


def test_each_may_move_a_little_by_itself():
    image = label_map(spleen=(0, 8, 0))
    patients = [layout(label_map(), NAMES)]
    apart = middle(Fit(seen(image)).region("spleen", patients)) - truth(image, "spleen")
    assert np.abs(apart).max() <= 4
    # what is known better by now counts, and for this structure only
    fit = Fit(seen(label_map()))
    own = seen(image)["spleen"]
    assert middle(fit.region("spleen", patients, own))[1] > middle(fit.region("spleen", patients))[1] + 4
    np.testing.assert_allclose(middle(fit.region("liver", patients)), truth(image, "liver"), atol=1)


def test_nobody_knows_where_a_lesion_is():
    fit = Fit(seen(label_map(), spleen=0))
    anywhere = [layout(label_map(spleen=(0, far, 0)), NAMES) for far in (-60, 0, 30)]
    assert fit.region("spleen", anywhere) is None
    alike = [layout(label_map(spleen=(0, far, 0)), NAMES) for far in (-4, 0, 4)]
    assert fit.region("spleen", alike) is not None


def test_without_others_nothing_is_said():
    parts = layout(label_map(), NAMES)
    fit = Fit(seen(label_map()))
    assert fit.region("spleen", []) is None
    assert fit.region("spleen", [{"spleen": parts["spleen"]}, {"liver": parts["liver"]}]) is None
    assert Fit({"spleen": seen(label_map())["spleen"]}).region("spleen", [parts]) is None


def test_a_picture_has_one_slice():
    def plane(**moved: tuple[int, int, int]) -> np.ndarray:
        return label_map(**moved)[12:13]

    image = plane(all=(0, 8, -6))
    region = Fit(seen(image)).region("spleen", [layout(plane(), NAMES)])
    np.testing.assert_allclose(region.middle * image.shape, truth(image, "spleen"), atol=4)
    assert (region.low[0], region.high[0]) == (0, 1)


def test_the_landmarks_are_the_nearest_ones():
    def part(place: float) -> Part:
        return Part(Region(*[np.full(3, place)] * 3), GRID, (0, 0, 0), np.ones((1, 1, 1), np.uint8))

    many = {f"s{n}": part(n / 50) for n in range(2 * LANDMARKS)}
    assert landmarks("s0", [many]) == [f"s{n}" for n in range(1, LANDMARKS + 1)]
    assert landmarks("kidney", [many]) == []


def test_a_mask_is_laid_where_its_region_is_told_to_be():
    """On an image of another size, upright as in the patient; what is beside the image is cut off."""
    labels, image = label_map(), label_map((24, 256, 192), 1.1, all=(0, 6, -4))
    (given,), (told,) = ([layout(one, NAMES)["liver"].region] for one in (labels, image))
    mask = labels[8] == 1
    mask[16:30, 16:24] = False  # a corner that says which way round it is
    found = laid(mask, given, told, (256, 192))
    corners = [np.argwhere(one) for one in (found, image[8] == 1)]
    np.testing.assert_allclose(corners[0].min(0), corners[1].min(0), atol=1)
    np.testing.assert_allclose(corners[0].max(0), corners[1].max(0), atol=1)
    low = corners[1].min(0)
    assert not found[low[0] + 2, low[1] + 2] and found[low[0] + 2, corners[1].max(0)[1] - 2]
    assert found.mean() == pytest.approx(1.1**2 * mask.mean(), rel=0.05)
    beside = Region(told.low - (0, 0.2, 0), told.high - (0, 0.2, 0), told.centre)
    assert 0 < laid(mask, given, beside, (256, 192)).sum() < found.sum()
