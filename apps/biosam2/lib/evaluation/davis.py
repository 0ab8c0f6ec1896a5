"""Region similarity J and boundary accuracy F of masks through a video, as the DAVIS benchmark measures them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4. The prompted frame is not counted; every frame counts alike, whether an object is on it or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import disk

TOLERANCE = 0.008  # of the frame's diagonal: how far apart borders may lie and still be the same
FOUND = 0.5  # region similarity from which on an object counts as found
SOON = 6  # frames that an object is back in which it must be found again


@dataclass(frozen=True)
class Followed:
    """How well an object was followed; the mean over the frames after the first.

    Attributes
    ----------
    region, boundary : float
        J and F, 0 to 1.
    empty : float or None
        Share of the frames without the object on which no mask was given; None if it is on all frames.
    refound : float or None
        Share of its returns after which it was found again within `SOON` frames; None if it never was away.
    """

    region: float
    boundary: float
    empty: float | None
    refound: float | None

    @property
    def both(self) -> float:
        """J&F, the mean of the two."""
        return (self.region + self.boundary) / 2


def followed(masks: np.ndarray, truth: np.ndarray) -> Followed:
    """How well an object was followed.

    Parameters
    ----------
    masks, truth : ndarray of bool, (T, W, H)
        The first frame is the prompted one, which is left out.

    Raises
    ------
    ValueError
        If the two differ in shape or there is no second frame.
    """
    if masks.shape != truth.shape or len(truth) < 2:
        raise ValueError(f"masks {masks.shape} and truth {truth.shape} are not the same two or more frames")
    region = np.array([region_similarity(m, t) for m, t in zip(masks, truth, strict=True)])
    boundary = [boundary_accuracy(m, t) for m, t in zip(masks[1:], truth[1:], strict=True)]
    there = truth.any((1, 2))
    away = ~there[1:]
    empty = float((~masks[1:].any((1, 2)))[away].mean()) if away.any() else None
    back = [t for t in range(1, len(there)) if there[t] and not there[t - 1]]
    found = [bool((region[t : t + SOON] >= FOUND)[there[t : t + SOON]].any()) for t in back]
    refound = float(np.mean(found)) if found else None
    return Followed(float(region[1:].mean()), float(np.mean(boundary)), empty, refound)


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks, bool (W, H); 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_accuracy(mask: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the shares of either border that lies near the other one.

    The matching of the two is approximated by dilation, as the paper does.

    Parameters
    ----------
    mask, truth : ndarray of bool, (W, H)
    tolerance : float
        What counts as near: a share of the frame's diagonal, at least a pixel.

    Returns
    -------
    float
        0 to 1; 1 if neither has a border, 0 if one of them has.
    """
    ours, theirs = _border(mask), _border(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    near = disk(int(np.ceil(tolerance * np.hypot(mask.shape[0], mask.shape[1])))).astype(bool)
    precision = (ours & _grown(theirs, near)).sum() / ours.sum()
    recall = (theirs & _grown(ours, near)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _border(mask: np.ndarray) -> np.ndarray:
    """A border one pixel wide: where a mask differs from its right, lower or lower right neighbour."""
    beside = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != beside[1:, :-1]) | (mask != beside[:-1, 1:]) | (mask != beside[1:, 1:])


def _grown(border: np.ndarray, near: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(border, near)
