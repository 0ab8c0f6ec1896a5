"""Simulated prompts fall where a person's would."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib.trainers import simulate

SIZE = 128


def _masks() -> torch.Tensor:
    masks = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    masks[0, 20:60, 30:90] = True
    masks[1, 100:110, 5:12] = True
    masks[2, 0:128, 64:128] = True
    return masks


def _cells(masks: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(masks[:, None].float(), 4)


def test_a_box_without_jitter_touches_the_mask_on_all_sides():
    points, labels = simulate.boxes(_masks(), jitter=0, pixels=0)
    assert points[0].tolist() == [[30, 20], [89, 59]]
    assert labels[0].tolist() == [simulate.BOX_LOW, simulate.BOX_HIGH]


def test_a_jittered_box_stays_in_the_picture_and_near_the_mask():
    torch.manual_seed(0)
    for _ in range(20):
        points, _ = simulate.boxes(_masks())
        assert (points >= 0).all() and (points <= SIZE - 1).all()
        assert (points[0] - torch.tensor([[30.0, 20], [89, 59]])).abs().max() <= 60 * 0.25 + 3


def test_clicks_are_inside_the_region():
    torch.manual_seed(0)
    masks = _masks()
    for _ in range(20):
        points = simulate.clicks(_cells(masks)[:, 0], SIZE)[:, 0]
        for mask, (x, y) in zip(masks, points, strict=True):
            near = mask[max(int(y) - 3, 0) : int(y) + 4, max(int(x) - 3, 0) : int(x) + 4]
            assert near.any()


def test_a_sharp_click_is_deep_inside():
    torch.manual_seed(0)
    x, y = simulate.clicks(_cells(_masks())[:1, 0], SIZE, sharpness=200.0)[0, 0].tolist()
    assert 30 + 10 < x < 90 - 10
    assert 20 + 10 < y < 60 - 10


def test_a_correction_adds_where_the_mask_misses_and_removes_where_it_leaks():
    masks = _masks()
    target = _cells(masks)
    torch.manual_seed(0)
    points, labels = simulate.corrections(torch.full_like(target, -5.0), target, SIZE)
    assert labels[:, 0].tolist() == [1, 1, 1]
    points, labels = simulate.corrections(torch.full_like(target, 5.0), target, SIZE)
    assert labels[:, 0].tolist() == [0, 0, 0]
    x, y = points[0, 0].tolist()
    assert not masks[0, round(y), round(x)]


def test_a_mask_that_went_wrong_differs_and_floods_only_what_looks_alike():
    """A disc in a square of its own brightness, on a dark ground: a flood may fill the square and no more."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 4:28, 4:28] = 100 + torch.rand(24, 24)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((y - 16) ** 2 + (x - 16) ** 2 < 36)[None, None]
    logits = torch.where(disc, 5.0, -5.0)
    grown = shrunk = 0
    for seed in range(60):
        torch.manual_seed(seed)
        wrong = simulate.spoiled(logits, image) > 0
        assert (wrong != disc).any()
        assert not wrong[..., :4].any() and not wrong[..., 28:].any()
        grown += bool((wrong & ~disc).any())
        shrunk += bool((disc & ~wrong).any())
    assert grown > 20 and shrunk > 5
    assert (simulate.spoiled(-logits.abs(), image) < 0).all()  # nothing comes from nothing
