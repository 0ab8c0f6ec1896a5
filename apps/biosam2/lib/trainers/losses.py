"""Losses of a promptable mask: Dice and cross-entropy, predicted IoU, object score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

FOCAL_WEIGHT = 20.0  # beside Dice, as in SAM 2's own training (arXiv 2408.00714, appendix D.2)


def mask_loss(
    logits: torch.Tensor, target: torch.Tensor, balance: float = 0.0, focal: bool = False
) -> torch.Tensor:
    """Dice plus binary cross-entropy of each mask (BioSAM-2, arXiv 2408.03286, equal weights).

    Parameters
    ----------
    logits : Tensor (N, M, H, W)
    target : Tensor (N, 1, H, W), 0 to 1; the share of a cell that the structure covers
    balance : float, 0 to 1
        0 is the plain cross-entropy; 1 gives foreground and background the same total weight, without which a
        fresh network ends in empty masks and never leaves.
    focal : bool
        SAM 2's focal loss (alpha 0.25, gamma 2, 20 times Dice) in place of the cross-entropy.

    Returns
    -------
    Tensor (N, M)
    """
    target = target.expand_as(logits)
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.square().sum((-2, -1)) + target.square().sum((-2, -1)) + 1)
    if focal:
        each = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="none")
        return dice + FOCAL_WEIGHT * each.mean((-2, -1))
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    share = target.mean((-2, -1), keepdim=True).clamp(0.02, 0.98)
    even = target * (0.5 / share) + (1 - target) * (0.5 / (1 - share))
    weight = 1 + balance * (even - 1)
    return dice + (entropy * weight).mean((-2, -1))


def soft_iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """IoU of the thresholded masks with the target, per mask: (N, M, H, W), (N, 1, H, W) -> (N, M)."""
    mask, target = logits > 0, target.expand_as(logits) > 0.5
    union = (mask | target).sum((-2, -1))
    return (mask & target).sum((-2, -1)) / union.clamp(min=1)


def score_loss(
    logits: torch.Tensor,
    scores: torch.Tensor,
    target: torch.Tensor,
    balance: float = 0.0,
    focal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a decoder answer with one or several masks, and which mask was the best.

    Only the best of several masks is pulled to the target, so that they can stand for different readings of
    an ambiguous click (SAM, arXiv 2304.02643, section 3); each has its predicted IoU pulled to the true one.

    Parameters
    ----------
    logits : Tensor (N, M, H, W)
    scores : Tensor (N, M), predicted IoU
    target : Tensor (N, 1, H, W)

    Returns
    -------
    loss : Tensor, scalar
    best : Tensor (N,), index of the mask with the least loss
    """
    masks = mask_loss(logits, target, balance, focal)
    best = masks.argmin(1)
    with torch.no_grad():
        truth = soft_iou(logits, target).to(scores.dtype)
    return masks.gather(1, best[:, None]).mean() + F.l1_loss(scores, truth), best
