"""Simulated prompts and mistakes.

Clicks and boxes as a person would make them, drawn from the true mask (and the error); masks that went wrong
as they do on a long way through a volume.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib.sam.drawing import BOX_HIGH, BOX_LOW, NEGATIVE, PADDING, POSITIVE

__all__ = ["BOX_HIGH", "BOX_LOW", "NEGATIVE", "PADDING", "POSITIVE"]
__all__ += ["boxes", "clicks", "corrections", "spoiled"]


def boxes(
    masks: torch.Tensor, jitter: float = 0.25, pixels: float = 6.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loose box around each mask, as two labelled points.

    Parameters
    ----------
    masks : Tensor (N, H, W) bool
    jitter, pixels : float
        Each edge moves by up to this share of the side plus this many pixels, mostly outwards. How far at
        most is drawn for each mask: some people draw tight boxes, and five pixels are much on a small one.

    Returns
    -------
    points : Tensor (N, 2, 2) float, (x, y) of the low and the high corner
    labels : Tensor (N, 2) int32
    """
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2), masks.any(-1)
    low = torch.stack([columns.int().argmax(-1), rows.int().argmax(-1)], -1).float()
    high = torch.stack(
        [width - 1 - columns.flip(-1).int().argmax(-1), height - 1 - rows.flip(-1).int().argmax(-1)], -1
    ).float()
    care = torch.rand(len(masks), 1, device=masks.device)
    slack = (high - low) * jitter * care**2 + pixels * care
    low = low - slack * (torch.rand_like(low) * 1.3 - 0.3)
    high = high + slack * (torch.rand_like(high) * 1.3 - 0.3)
    limit = torch.tensor([width - 1.0, height - 1.0], device=masks.device)
    points = torch.stack([low.clamp(min=0), torch.minimum(high, limit)], 1)
    labels = torch.tensor([BOX_LOW, BOX_HIGH], dtype=torch.int32, device=masks.device)
    return points, labels.expand(len(masks), 2)


def clicks(region: torch.Tensor, size: int, sharpness: float = 3.0) -> torch.Tensor:
    """One point inside each region, more likely deep inside than near its border.

    Parameters
    ----------
    region : Tensor (N, h, w), 0 to 1
        Share of each cell that the region covers; where a row is all zero the point lies anywhere.
    size : int
        Side of the image in pixels, a multiple of h = w.
    sharpness : float
        0 draws evenly from the region, large values give its deepest point.

    Returns
    -------
    Tensor (N, 1, 2) float, (x, y) in pixels
    """
    count, side = region.shape[0], region.shape[-1]
    depth = F.avg_pool2d(region[:, None].float(), 7, 1, 3, count_include_pad=True)[:, 0]
    inside = torch.where(region > 0.5, depth, region * depth * 1e-3)
    noise = -torch.log(-torch.log(torch.rand_like(inside).clamp(1e-9, 1 - 1e-7)))
    cell = (sharpness * torch.log(inside.flatten(1) + 1e-12) + noise.flatten(1)).argmax(1)
    corner = torch.stack([cell % side, cell // side], -1).float()
    cell_size = size / side
    return ((corner + torch.rand(count, 2, device=region.device)) * cell_size - 0.5)[:, None]


def corrections(logits: torch.Tensor, target: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The next click: inside the error of a mask, positive where it missed, negative where it leaked.

    Parameters
    ----------
    logits : Tensor (N, 1, h, w)
    target : Tensor (N, 1, h, w), 0 to 1
    size : int
        Side of the image in pixels.

    Returns
    -------
    points : Tensor (N, 1, 2); labels : Tensor (N, 1) int32
    """
    truth, mask = target[:, 0] > 0.5, logits[:, 0] > 0
    error = (truth != mask).float()
    perfect = ~error.flatten(1).any(1)
    error[perfect] = truth[perfect].float()  # a click on what is already right must do no harm
    points = clicks(error, size, sharpness=6.0)
    cells = (points[:, 0] + 0.5).div(size / target.shape[-1]).long().clamp(0, target.shape[-1] - 1)
    labels = truth[torch.arange(len(truth)), cells[:, 1], cells[:, 0]].int()
    return points, labels[:, None]


def spoiled(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A mask that went wrong: it grew, flooded what looks like the structure, shrank, or slipped aside.

    Parameters
    ----------
    logits : Tensor (N, 1, h, w)
    image : Tensor (N, 1, h, w)
        Intensities of the cells, any range.

    Returns
    -------
    Tensor (N, 1, h, w)
        Logits of the mistake; as they were where the mask is empty.
    """
    mask = (logits > 0).float()
    area = mask.sum((-2, -1), keepdim=True)
    # as far as half of the radius, the same for all: a pooling has one size
    reach = 1 + int(float(torch.rand(())) ** 2 * 0.6 * float((area / torch.pi).sqrt().mean()))
    grown = F.max_pool2d(mask, 2 * reach + 1, 1, reach)
    kind = float(torch.rand(()))
    if kind < 0.35:  # up to the next strong border
        inside = area.clamp(min=1)
        mean = (image * mask).sum((-2, -1), keepdim=True) / inside
        spread = (((image - mean).square() * mask).sum((-2, -1), keepdim=True) / inside).sqrt()
        tolerance = spread * (0.7 + 2 * torch.rand(len(mask), 1, 1, 1, device=mask.device))
        alike = ((image - mean).abs() < tolerance).float()
        wrong = mask
        for _ in range(3):
            wrong = torch.maximum(mask, F.max_pool2d(wrong, 2 * reach + 1, 1, reach) * alike)
    elif kind < 0.65:
        wrong = grown
    elif kind < 0.8:
        wrong = -F.max_pool2d(-mask, 2 * reach + 1, 1, reach)
    else:
        shift = tuple(int(n) for n in torch.randint(-reach, reach + 1, (2,)))
        wrong = torch.roll(mask, shift, (-2, -1))
    sure = 0.5 + 6 * torch.rand(len(mask), 1, 1, 1, device=mask.device)
    changed = torch.where(wrong > 0, torch.maximum(logits, sure), torch.minimum(logits, -sure))
    return torch.where((wrong != mask) & (area > 0), changed, logits)
