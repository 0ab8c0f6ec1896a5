"""How sure a network must be of what is unlikely in a volume: prices, in logits.

A large network keeps to a structure by itself. A small one does not: where a border is faint it is drawn on
to the next strong one, and it does not see where a faint structure ends. What is known of any structure helps
it: from slice to slice it moves little, and away from the slices where somebody prompted it, or where the
network was sure, it seldom becomes much larger and seldom goes on for longer than it is wide. What is beyond
that must be surer.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

SURE = 0.7  # predicted IoU from which on an answer counts as much as a prompt
# From one slice to the next a structure moves by a share of its radius and a pixel or two.
FREE_SHARE, FREE_CELLS = 0.3, 1.0  # of the radius; cells of the mask prompt
DISTANCE_PRICE, HIGHEST_DISTANCE_PRICE = 8.0, 8.0  # for each radius beyond that; at most
STILL = 0.1  # of the radius, from slice to slice: what moves by less does not move
EXPLAINED = 0.02  # IoU that a shift must add to the overlap of two masks to count as a motion
# It seldom becomes larger than so many times its largest known area: for each e-fold beyond that; at most.
FREE_GROWTH, SIZE_PRICE, HIGHEST_SIZE_PRICE = 1.2, 10.0, 2.0
# It seldom goes on from the nearest known slice for more than so many times its reach: for each; at most.
FREE_REACHES, PRESENCE_PRICE, HIGHEST_PRESENCE_PRICE = 0.8, 3.0, 3.0
# It seldom looks otherwise where it goes on for longer than usual: for each reach beyond that, times
# how far the cosine is below that.
USUAL_REACHES, USUAL_LIKENESS, STRANGENESS_PRICE = 0.8, 0.95, 40.0
# What was surely there on so many slices at least, and is so by a share only of what it just was, has ended.
# Over a long way the score of a large structure falls slowly: that is no end.
SURELY_THERE, FADED, ON_THE_WAY, JUST = 2.0, 0.55, 2, 6  # object score, share of it, slices, slices


def price_of_distance(previous: torch.Tensor) -> torch.Tensor:
    """What it costs a pixel to lie far from the mask of the slice before.

    Parameters
    ----------
    previous : Tensor (1, 1, h, w)
        That mask as logits.

    Returns
    -------
    Tensor float32 (1, 1, h, w)
        0 on the mask, near it, and everywhere if it is empty.
    """
    mask = (previous[0, 0] > 0).cpu().numpy()
    if not mask.any():
        return torch.zeros_like(previous)
    radius = float(np.sqrt(mask.sum() / np.pi))
    beyond = ndimage.distance_transform_edt(~mask) - FREE_SHARE * radius - FREE_CELLS
    price = np.clip(DISTANCE_PRICE * beyond / radius, 0, HIGHEST_DISTANCE_PRICE)
    return torch.from_numpy(price).to(previous)[None, None]


def price_of_size(logits: torch.Tensor, usual: float) -> float:
    """What all pixels of a mask pay for its size.

    Parameters
    ----------
    logits : Tensor (1, 1, h, w)
    usual : float
        Its largest known area, in cells of the same grid.

    Returns
    -------
    float
        The least price that the mask left by it pays for; 0 if it is not much larger than usual.
    """
    surest = logits.flatten().sort(descending=True).values
    count = torch.arange(1, len(surest) + 1, device=logits.device)
    price = (SIZE_PRICE * torch.log(count / (FREE_GROWTH * max(usual, 1)))).clamp(0, HIGHEST_SIZE_PRICE)
    # as many pixels as can pay for being that many
    paying = int((surest > price).sum())
    return float(price[paying - 1]) if paying else 0.0


@dataclass(frozen=True)
class Known:
    """A structure on a slice where it was prompted, or where the network was sure of it.

    area : pixels of the slice; reach : half of its longer side, in pixels.
    """

    area: int
    reach: float

    @classmethod
    def of(cls, mask: np.ndarray) -> Known:
        """What is known by a mask, bool (A, B)."""
        sides = [int(np.ptp(np.flatnonzero(mask.any(axis)))) + 1 for axis in (0, 1) if mask.any()]
        return cls(int(mask.sum()), max(sides, default=0) / 2)


class KnownSlices:
    """The slices where a structure is known: how far the nearest one is, and how large it was at most.

    Of each slice only its index is kept, in order: a video has many.

    Attributes
    ----------
    area, reach
        The largest ones, see `Known`.
    """

    def __init__(self) -> None:
        self.area, self.reach = 0, 0.0
        self._indexes: list[int] = []

    def add(self, index: int, known: Known) -> None:
        insort(self._indexes, index)
        self.area, self.reach = max(self.area, known.area), max(self.reach, known.reach)

    def from_nearest(self, index: int) -> int:
        """Slices from the nearest one of them to `index`; there must be one."""
        at = bisect_left(self._indexes, index)
        return min(abs(index - near) for near in self._indexes[max(0, at - 1) : at + 1])


def price_of_presence(slices: int, thickness: float | None, reach: float) -> float:
    """What a structure pays for being there, far from where it was known to be.

    Parameters
    ----------
    slices : int
        To the nearest slice where it is known.
    thickness : float or None
        From slice to slice, in pixels of a slice; None in a video, where time says nothing about size.
    reach : float
        The largest known one, see `Known`.
    """
    if thickness is None or not reach:
        return 0.0
    beyond = slices * thickness / reach - FREE_REACHES
    return float(np.clip(PRESENCE_PRICE * beyond, 0, HIGHEST_PRESENCE_PRICE))


def price_of_strangeness(slices: int, thickness: float | None, reach: float, likeness: float) -> float:
    """What a structure pays for looking otherwise than where it was prompted, far from there.

    A structure may well look otherwise near where it was prompted, where one tissue lies beside another, and
    one that goes on and on may be long. What does both is most often its neighbour: below the thalamus lies
    the brain stem, and no border between them.

    Parameters
    ----------
    slices : int
        To the nearest prompted slice.
    thickness : float or None
        From slice to slice, in pixels of a slice; None in a video, where time says nothing about size.
    reach : float
        Half of its longer side where it was prompted, in pixels.
    likeness : float
        Cosine between the mean features of its pixels here and there, see `lib.sam.likeness.mean_features`.
    """
    if thickness is None or not reach:
        return 0.0
    beyond = max(0.0, slices * thickness / reach - USUAL_REACHES)
    return STRANGENESS_PRICE * beyond * max(0.0, USUAL_LIKENESS - likeness)


def shift_between(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """How far, in voxels (a, b), the middle moved between two masks, bool (A, B); 0 if one is empty."""
    if not earlier.any() or not later.any():
        return np.zeros(2)
    return np.subtract(ndimage.center_of_mass(later), ndimage.center_of_mass(earlier))


def motion(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """By how many voxels (a, b) a structure moved from a slice to the next one; 0 if by next to nothing.

    Parameters
    ----------
    earlier, later : ndarray of bool (A, B)
    """
    shift = shift_between(earlier, later)
    return shift if np.hypot(*shift) > STILL * np.sqrt(later.sum() / np.pi) else np.zeros(2)


def way_from(start: np.ndarray, now: np.ndarray) -> np.ndarray:
    """How far, in voxels (a, b), a structure has come; 0 where a shift explains little of what is now.

    The middle of a mask that grows on one side moves as well, but no shift lays one over the other.

    Parameters
    ----------
    start, now : ndarray of bool (A, B)
    """
    shift = shift_between(start, now)
    gain = _overlap(moved(start, shift), now) - _overlap(start, now)
    return shift if gain > EXPLAINED else np.zeros(2)


def moved(mask: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A mask, bool (A, B), moved by whole voxels."""
    return ndimage.shift(mask, shift.round(), order=0) if shift.round().any() else mask


def _overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((mask & other).sum() / max(1, (mask | other).sum()))


def has_ended(presence: float, way: Sequence[float]) -> bool:
    """Whether a structure has ended, though the network still sees something.

    The predicted IoU of a small network tells nothing here: it may be 0.4 where Dice is 0.95.

    Parameters
    ----------
    presence : float
        The object score here.
    way : sequence of float
        Those of the slices with the structure on the way here, since the last prompted one.
    """
    usual = max(way[-JUST:], default=0.0)
    return len(way) >= ON_THE_WAY and usual >= SURELY_THERE and presence < FADED * usual
