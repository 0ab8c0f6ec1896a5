"""Prompts drawn into the mask prompt: every mark where the point is."""

from __future__ import annotations

import torch

from lib.sam.drawing import BOX_HIGH, BOX_LOW, INK, NEGATIVE, POSITIVE, draw

SIZE = 128
BOX = [[40.0, 20.0], [90.0, 60.0]]


def test_the_outside_of_a_box_is_background_and_its_inside_open():
    paper = draw(torch.tensor([BOX]), torch.tensor([[BOX_LOW, BOX_HIGH]]), SIZE)[0, 0]
    assert paper.shape == (32, 32)
    assert (paper[6:14, 12:21] == 0).all()
    assert (paper[:4] == -INK).all() and (paper[16:] == -INK).all()
    assert (paper[:, :9] == -INK).all() and (paper[:, 24:] == -INK).all()


def test_a_lone_click_is_the_distance_to_it():
    paper = draw(torch.tensor([[[100.0, 28.0]]]), torch.tensor([[POSITIVE]]), SIZE)[0, 0]
    row, column = divmod(int(paper.argmax()), 32)
    assert abs(row * 4 + 1.5 - 28) <= 4 and abs(column * 4 + 1.5 - 100) <= 4
    assert paper[7, 25] == INK and paper[7, 15] > paper[7, 5]


def test_clicks_mark_earlier_logits_and_leave_the_rest():
    before = torch.full((1, 1, 32, 32), 3.0)
    points = torch.tensor([[[20.0, 20.0], [100.0, 100.0]]])
    paper = draw(points, torch.tensor([[POSITIVE, NEGATIVE]]), SIZE, before)[0, 0]
    assert paper[4, 4] == INK and paper[24, 24] == -INK
    assert paper[16, 16] == 3.0
    assert (before == 3.0).all()


def test_padding_points_draw_nothing():
    points = torch.tensor([[[20.0, 20.0]]])
    assert (draw(points, torch.tensor([[-1]]), SIZE) == 0).all()
