"""Where a structure lies in an image, and from which slice to which.

That is the run of slices that agrees best with where it is expected (`lib.sam.layouts`) and with what was
seen on them. All places are shares of the image; the axes are those of the slices, (K, A, B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from skimage.measure import regionprops

MARGIN = 0.125  # of the slices: how far beyond its expected ends a structure is looked for
MARGIN_LEAST = 2  # slices
PRICE = 2.0  # object score for each slice by which a structure ends elsewhere than expected


@dataclass(frozen=True, eq=False)
class Region:
    """Where a structure lies: arrays of float (3,), shares of the image along (k, a, b), 0 to 1."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        return (self.low + self.high) / 2

    def slices(self, count: int) -> range:
        """The slices, of `count`, on which it is looked for."""
        margin = max(MARGIN_LEAST, MARGIN * count)
        first, last = np.floor(self.low[0] * count - margin), np.ceil(self.high[0] * count + margin)
        return range(int(np.clip(first, 0, count)), int(np.clip(last, 0, count)))

    def corners(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Its lowest and highest pixels on a slice (A, B)."""
        low, high = self.low[1:] * shape, self.high[1:] * shape - 1
        return low, np.maximum(high, low)


def regions(labels: np.ndarray) -> dict[int, Region]:
    """The region of every value but 0 in a label map, integers (K, A, B)."""
    shape = np.array(labels.shape)
    found = {}
    for one in regionprops(labels):
        low, high = np.array(one.bbox[:3]), np.array(one.bbox[3:])
        found[int(one.label)] = Region(low / shape, high / shape, (np.array(one.centroid) + 0.5) / shape)
    return found


def run_of_slices(evidence: Mapping[int, float], region: Region, count: int, share: float = 0.5) -> range:
    """The slices from a structure's first to its last: one run, without a gap.

    Slice by slice, good answers are interrupted by empty ones. What is seen on all of them together, and
    where the structure should end, tells more (drawn anatomies: Dice 0.70 slice by slice, 0.74 in one run).

    Parameters
    ----------
    evidence : mapping
        How likely it is there, by slice: an object score, above 0 where it is there rather than not. On other
        slices it is not.
    region : Region
        Where it is expected.
    count : int
        Slices of the image.
    share : float
        Of the patients that have it, above 0 and below 1: what most have is there until something speaks
        against it. (Planes of four anatomies, 3 to 12 labels: mean Dice 0.48 without this, 0.53 with it.)

    Returns
    -------
    range
        Empty if on none of its slices it is there rather than not.
    """
    usual = float(np.log(share / (1 - share)))
    first, last = region.low[0] * count, region.high[0] * count
    best, found = -np.inf, range(0)
    for begin in sorted(evidence):
        told, end = 0.0, begin
        while end in evidence:
            told += evidence[end]
            end += 1
            value = told - PRICE * (abs(begin - first) + abs(end - last))
            if value > best:
                best, found = value, range(begin, end)
    return found if any(evidence[index] + usual > 0 for index in found) else range(0)
