"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lib.trainers.losses import mask_loss, score_loss, soft_iou


def test_a_perfect_confident_mask_costs_nothing():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    assert mask_loss((target - 0.5) * 60, target).item() == pytest.approx(0, abs=1e-4)


def test_an_undecided_mask_costs_log_two_and_its_dice():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    # overlap 16, squared prediction 16, squared target 32
    dice = 1 - (2 * 16 + 1) / (16 + 32 + 1)
    assert mask_loss(torch.zeros(1, 1, 8, 8), target).item() == pytest.approx(math.log(2) + dice, abs=1e-5)


def test_balance_makes_a_missed_speck_as_dear_as_a_false_ground():
    target = torch.zeros(1, 1, 10, 10)
    target[..., 0, 0:4] = 1  # 4 of 100
    empty = torch.full((1, 1, 10, 10), -4.0)
    plain, balanced = (mask_loss(empty, target, balance).item() for balance in (0.0, 1.0))
    assert balanced - plain == pytest.approx((0.5 - 0.04) * 4.018 + (0.5 - 0.96) * 0.018, abs=0.02)


def test_iou_counts_pixels():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., 1:3] = 1
    assert soft_iou(logits, target).item() == pytest.approx(4 / 12)


def test_only_the_best_of_several_masks_is_pulled_to_the_target():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    logits = torch.stack([torch.zeros(8, 8), (target[0, 0] - 0.5) * 6, -torch.ones(8, 8)])[None]
    logits.requires_grad_()
    loss, best = score_loss(logits, torch.full((1, 3), 0.5), target)
    loss.backward()
    assert best.item() == 1
    assert logits.grad[0, 1].abs().sum() > 0
    assert logits.grad[0, [0, 2]].abs().sum() == 0
