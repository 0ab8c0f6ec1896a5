"""Prompts drawn into the mask prompt, for networks that were trained to see them there as well.

SAM 2 gives clicks and box corners as points in a code of their positions. A small network learns slowly
what lies between two corners, and at once what it can see: so for `Architecture.draws_prompts` the outside
of the box is drawn as background into the mask prompt, and each click as a small disc. Clicks alone are drawn
as the distance to the nearest of them, so that every part of the image knows how far off it is.
"""

from __future__ import annotations

import torch

# labels of sam2's prompt encoder
PADDING, NEGATIVE, POSITIVE, BOX_LOW, BOX_HIGH = -1, 0, 1, 2, 3
INK = 10.0  # logit of what is drawn, that of a mask prompt
DISC = 0.025  # radius of a click, share of the square


def draw(
    points: torch.Tensor, labels: torch.Tensor, size: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Prompts as logits of a mask prompt.

    Parameters
    ----------
    points : Tensor (N, P, 2)
        (x, y) in pixels of the input square, the centre of the first pixel at 0.
    labels : Tensor (N, P)
        Labels of sam2's prompt encoder; others than the four above are left out.
    size : int
        Side of the input square, pixels.
    mask : Tensor (N, 1, size/4, size/4), optional
        Logits to draw upon, nothing (0) if left out.

    Returns
    -------
    Tensor float32 (N, 1, size/4, size/4)
    """
    cells = size // 4
    centres = torch.arange(cells, device=points.device) * 4 + 1.5
    x, y = centres[None, None, :], centres[None, :, None]
    paper = _distance(points, labels, x, y, size) if mask is None else mask[:, 0].clone()
    outside = torch.zeros_like(paper, dtype=torch.bool)
    for n in range(points.shape[1]):
        px, py = points[:, n, 0].view(-1, 1, 1), points[:, n, 1].view(-1, 1, 1)
        label = labels[:, n].view(-1, 1, 1)
        outside |= (label == BOX_LOW) & ((x < px - 2) | (y < py - 2))
        outside |= (label == BOX_HIGH) & ((x > px + 2) | (y > py + 2))
    paper = torch.where(outside, -INK, paper)
    for n in range(points.shape[1]):
        px, py = points[:, n, 0].view(-1, 1, 1), points[:, n, 1].view(-1, 1, 1)
        label = labels[:, n].view(-1, 1, 1)
        near = (x - px) ** 2 + (y - py) ** 2 <= max(DISC * size, 4.0) ** 2
        paper = torch.where(near & (label == POSITIVE), INK, paper)
        paper = torch.where(near & (label == NEGATIVE), -INK, paper)
    return paper[:, None]


def _distance(points: torch.Tensor, labels: torch.Tensor, x, y, size: int) -> torch.Tensor:
    """INK at the nearest positive click, falling evenly to -INK a side's length away; 0 where a box is."""
    squares = (x[..., None] - points[:, None, None, :, 0]) ** 2 + (
        y[..., None] - points[:, None, None, :, 1]
    ) ** 2
    far = torch.where(labels[:, None, None, :] == POSITIVE, squares, torch.inf).amin(-1).sqrt()
    field = (INK * (1 - 2 * far / size)).clamp(-INK, INK)
    alone = (labels == POSITIVE).any(1) & ~(labels == BOX_LOW).any(1)
    return torch.where(alone[:, None, None], field, torch.zeros_like(field))
