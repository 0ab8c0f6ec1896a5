"""What the network is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage

from lib.trainers.finetune import samples
from lib.trainers.finetune.samples import FRAMES, TARGETS, Samples
from lib.trainers.finetune.slices import CachedCase

from .conftest import SIZE, scan

Sample = dict[str, torch.Tensor]


@pytest.fixture
def own(monkeypatch) -> None:
    """No generated anatomy among them."""
    monkeypatch.setattr(samples, "REHEARSED", 0.0)


@pytest.fixture
def draw(cached) -> Callable[..., list[Sample]]:
    """Samples of one case."""

    def draw(case: CachedCase, count: int = 40, clips: float = 0.0, seed: int = 0) -> list[Sample]:
        drawn = Samples([case], SIZE, clips, seed, range(count))
        return [drawn[place] for place in range(len(drawn))]

    return draw


def same(one: Sample, other: Sample) -> bool:
    pairs = [(one[name], other[name]) for name in ("images", "masks")]
    return one["seed"] == other["seed"] and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def is_clip(sample: Sample) -> bool:
    return sample["images"].ndim == 4


@pytest.mark.parametrize("rehearsed", [0.0, 0.4])
def test_a_number_is_the_same_sample_in_any_process(cached, monkeypatch, rehearsed: float):
    monkeypatch.setattr(samples, "REHEARSED", rehearsed)
    case = cached(*scan(count=2))

    def made(numbers: Sequence[int]) -> dict[int, Sample]:
        drawn = Samples([case], SIZE, 0.5, 3, numbers)
        assert len(drawn) == len(numbers)
        return {number: drawn[place] for place, number in enumerate(numbers)}

    alone = made(range(12))
    first, second = made(range(0, 12, 2)), made(range(1, 12, 2))
    resumed = made(range(7, 12))
    for part in (first, second, resumed):
        assert all(same(sample, alone[number]) for number, sample in part.items())


def test_seeds_and_numbers_differ(draw, cached, own):
    case = cached(*scan(count=2))
    one, other = draw(case, 10, seed=1), draw(case, 10, seed=2)
    assert not any(same(a, b) for a, b in zip(one, other, strict=True))
    assert len({sample["seed"] for sample in one}) == 10


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("clips", [0.0, 0.9])
def test_shapes_and_masks(draw, cached, own, count: int, clips: float):
    for sample in draw(cached(*scan(count=count)), clips=clips):
        images, masks = sample["images"], sample["masks"]
        frames = (FRAMES,) if is_clip(sample) else ()
        assert images.dtype == masks.dtype == torch.uint8
        assert images.shape == (*frames, SIZE, SIZE, 3)
        assert masks.shape[1:] == (*frames, SIZE, SIZE) and 1 <= len(masks) <= TARGETS
        assert set(masks.unique().tolist()) <= {0, 1}
        on_first = masks[:, 0] if frames else masks
        assert on_first.flatten(1).any(1).all()


def contrast(image: torch.Tensor, mask: torch.Tensor) -> float:
    """Grey levels by which the inside is brighter than the outside."""
    grey = image.float().mean(-1)
    inside = mask > 0
    return float(grey[inside].mean() - grey[~inside].mean())


def test_masks_lie_where_the_structure_is_seen(draw, cached, own, monkeypatch):
    monkeypatch.setattr(samples, "scanned_again", lambda _, image: image)
    found = [
        contrast(sample["images"], sample["masks"][0])
        for sample in draw(cached(*scan()), 80)
        if not sample["masks"][0].all()
    ]
    assert len(found) > 70
    assert all(abs(difference) > 60 for difference in found)  # a fifth of the views is negative
    assert 0.6 < np.mean([difference > 0 for difference in found]) < 0.95


def test_masks_of_a_clip_lie_where_the_structure_is_seen(draw, cached, own, monkeypatch):
    monkeypatch.setattr(samples, "scanned_again", lambda _, image: image)
    clips = [sample for sample in draw(cached(*scan()), 60, clips=0.9) if is_clip(sample)]
    assert len(clips) > 30
    for sample in clips:
        signs = {
            np.sign(contrast(image, mask))
            for image, mask in zip(sample["images"], sample["masks"][0], strict=True)
            if mask.any() and not mask.all()
        }
        assert len(signs) == 1  # one negative for all of its slices


def test_a_clip_follows_the_structure_both_ways(draw, cached, own):
    """A cone: its slices shrink one way, so that areas tell the direction and the step."""
    image, _ = scan()
    labels = np.zeros(image.shape, np.uint8)
    i, j = np.indices(image.shape[:2])
    for k in range(image.shape[2]):
        labels[(i - 22) ** 2 + (j - 18) ** 2 < (4 + k) ** 2, k] = 1
    ways = set()
    for sample in draw(cached(image, labels), 80, clips=0.9):
        if is_clip(sample):
            areas = sample["masks"][0].flatten(1).sum(1).float()
            assert areas[0] > 0
            steps = areas.diff()
            # what is cut off by the window's edge stays as it is
            assert (steps >= 0).all() or (steps <= 0).all()
            ways |= {float(np.sign(steps.sum()))} - {0.0}
    assert ways == {1.0, -1.0}


def test_a_clip_goes_on_beyond_the_end(draw, cached, own):
    image, labels = scan()
    labels[..., 4:] = 0
    clips = [sample for sample in draw(cached(image, labels), 80, clips=0.9) if is_clip(sample)]
    gone = [sample for sample in clips if not sample["masks"][0, -1].any()]
    assert clips and len(gone) > 3


def test_a_single_slice_gives_views_only(draw, cached, own):
    image, labels = scan(shape=(44, 36, 1))
    assert labels.any()
    assert not any(is_clip(sample) for sample in draw(cached(image, labels), clips=0.9))


def test_a_structure_that_ends_too_soon_for_a_clip_is_looked_at(draw, cached, own):
    image, labels = scan()
    labels[..., :4] = labels[..., 5:] = 0
    assert len(draw(cached(image, labels), clips=0.9)) == 40


def test_four_slices_are_enough_for_a_clip(draw, cached, own):
    assert any(is_clip(sample) for sample in draw(cached(*scan(shape=(44, 36, 4))), clips=0.9))


def test_share_of_clips(draw, cached, own):
    case = cached(*scan())
    share = np.mean([is_clip(sample) for sample in draw(case, 200, clips=0.3)])
    assert 0.18 < share < 0.42
    assert not any(is_clip(sample) for sample in draw(case, 50, clips=0.0))


def test_every_structure_is_asked_for(draw, cached, own, monkeypatch):
    """A small structure as often as a large one."""
    monkeypatch.setattr(samples, "TARGETS", 1)
    monkeypatch.setattr(samples, "PIECES", 0.0)
    monkeypatch.setattr(samples, "scanned_again", lambda _, image: image)
    image, labels = scan()
    labels[2:6, 2:6, 5] = 2
    image[labels == 2] = 1500
    found = [
        abs(contrast(sample["images"], sample["masks"][0])) for sample in draw(cached(image, labels), 80)
    ]
    assert 0.3 < np.mean(np.array(found) > np.median(found)) < 0.7


def test_tiny_structures_are_left_alone(draw, cached, own):
    """One of a few pixels beside one that can be seen: the first is never what a view is made for."""
    image, labels = scan()
    labels[2:4, 2:4, :] = 2
    for sample in draw(cached(image, labels), 30, clips=0.5):
        assert sample["masks"][0].sum() > 9


def test_only_tiny_structures(cached, own):
    image, labels = scan()
    labels[:] = 0
    labels[20:22, 20:22, 5] = 1
    drawn = Samples([cached(image, labels)], SIZE, 0.2, 0, range(2))
    with pytest.raises(RuntimeError, match="large enough"):
        drawn[0]


def test_rehearsal_has_its_share(cached, monkeypatch):
    monkeypatch.setattr(
        samples, "_rehearsal", lambda rng, size: rehearsed.append(1)
    )  # and then something else
    rehearsed: list[int] = []
    monkeypatch.setattr(samples, "REHEARSED", 0.5)
    drawn = Samples([cached(*scan())], SIZE, 0.0, 0, range(60))
    for place in range(60):
        drawn[place]
    # until one is the site's own: as many as heads before tails
    assert 35 < len(rehearsed) < 95


def test_a_rehearsal_is_what_the_default_was_trained_on():
    view = samples._rehearsal(np.random.default_rng(0), SIZE)
    assert (
        view is not None and view.image.shape == (SIZE, SIZE, 3) and view.masks.shape == (TARGETS, SIZE, SIZE)
    )


def test_colour_stays_colour(draw, cached, own, monkeypatch):
    monkeypatch.setattr(samples, "scanned_again", lambda _, image: image)
    _, labels = scan()
    rgb = np.zeros((*labels.shape, 3), np.uint8)
    rgb[labels > 0] = 250, 20, 20
    rgb[labels == 0] = 20, 20, 250
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    for sample in draw(cached(rgb.view(kind)[..., 0], labels), 10):
        inside = sample["images"][sample["masks"][0] > 0].float().mean(0)
        red, blue = float(inside[0]), float(inside[2])
        assert abs(red - blue) > 150


def test_all_cases_are_drawn_from(cached, own, monkeypatch):
    monkeypatch.setattr(samples, "scanned_again", lambda _, image: image)
    dark, bright = scan()[0] * 0, scan()[0]
    labels = scan()[1]
    cases = [cached(dark, labels, name="dark"), cached(bright, labels, name="bright")]
    drawn = Samples(cases, SIZE, 0.0, 0, range(40))
    flat = sum(float(drawn[place]["images"].float().std()) < 5 for place in range(40))
    assert 10 < flat < 30


def test_samples_across_cases(cached, own):
    """Every structure is in the first case; the others have it where they do, by name."""
    shapes = [(44, 36, 10), (60, 50, 8), (44, 36, 10)]
    cases = [cached(*scan(seed, shape, count=2)) for seed, shape in enumerate(shapes)]
    drawn = Samples(cases, SIZE, 0.0, 0, range(60), across=0.9)
    found = [sample for sample in (drawn[n] for n in range(60)) if sample["crossing"]]
    assert len(found) > 40
    gone = 0
    for sample in found:
        assert sample["images"].shape == (FRAMES, SIZE, SIZE, 3)
        assert sample["masks"].shape == (TARGETS, FRAMES, SIZE, SIZE)
        for masks in sample["masks"].numpy():
            assert masks[0].any()
            gone += int((~masks.any((1, 2))).sum())
            for image, mask in zip(sample["images"].numpy(), masks, strict=True):
                grey = image.mean(-1)
                if 20 < mask.sum() < 0.5 * mask.size:  # the structures are what stands out in these scans
                    ring = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
                    inside, around = np.median(grey[mask > 0]), np.median(grey[ring > 0])
                    assert abs(inside - around) > 5
    assert gone
    alone = Samples(cases[:1], SIZE, 0.0, 0, range(20), across=0.9)
    assert not any(alone[n]["crossing"] for n in range(20))
