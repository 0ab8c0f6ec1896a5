"""Metrics of the field for one mask and its truth, and what is said of many: curves, means, intervals.

Two empty masks agree: Dice, IoU and NSD are 1. If only one of the two is empty they are 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou, compute_surface_dice
from scipy import ndimage
from scipy.integrate import trapezoid
from scipy.stats import bootstrap

MOST_CLICKS = 20  # where counting clicks ends: who needs more has not been helped


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity coefficient of two bool masks of any shape, 0 to 1."""
    if not mask.any() and not truth.any():
        return 1.0
    both = _tensors(*_cut(mask, truth))
    return float(compute_dice(both[0], both[1], ignore_empty=False))


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union (Jaccard, J) of two bool masks of any shape, 0 to 1."""
    if not mask.any() and not truth.any():
        return 1.0
    both = _tensors(*_cut(mask, truth))
    return float(compute_iou(both[0], both[1], ignore_empty=False))


def nsd(mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Normalised surface distance: the share of both borders that lies near the other one, 0 to 1.

    Parameters
    ----------
    mask, truth : ndarray of bool, (A, B) or (I, J, K)
    spacing : sequence of float
        Voxel size in mm along each axis.
    tolerance : float
        What counts as near, mm.

    Notes
    -----
    Borders are measured between voxels, by length or area, as DeepMind's `surface-distance` and the
    challenges that use it do (`use_subvoxels` of MONAI). Counting voxels gives other numbers on thick slices.
    """
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    if mask.ndim == 3 and 1 in mask.shape:
        axis = mask.shape.index(1)
        mask, truth = mask.squeeze(axis), truth.squeeze(axis)
        spacing = [s for i, s in enumerate(spacing) if i != axis]
    both = _tensors(*_cut(mask, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI calls a part of itself that it means to drop
        found = compute_surface_dice(
            both[0],
            both[1],
            class_thresholds=[tolerance],
            include_background=True,
            spacing=[float(s) for s in spacing],
            use_subvoxels=True,
        )
    return float(found)


def clicks_needed(curve: Sequence[float], threshold: float) -> int:
    """NoC: the clicks after which a curve first reaches `threshold`; `MOST_CLICKS` if it never does."""
    return next((count for count, value in enumerate(curve, 1) if value >= threshold), MOST_CLICKS)


def area_under(curve: Sequence[float]) -> float:
    """Area under a curve of answers, by trapezoids, as a share of the largest possible: 0 to 1.

    A curve of one answer has no area; its value is returned.
    """
    return float(trapezoid(curve)) / (len(curve) - 1) if len(curve) > 1 else float(curve[0])


def interval(
    values: Sequence[float],
    cases: Sequence[str],
    statistic: Callable[[np.ndarray], Any],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% interval of a statistic, by drawing whole cases again (`scipy.stats.bootstrap`, percentiles).

    Slices of one volume resemble each other: drawn one by one they would feign more certainty than there is.

    Parameters
    ----------
    values : sequence of float
    cases : sequence of str
        The case of each value.
    statistic : callable
        Values -> number, such as `np.mean` or `np.median`.

    Returns
    -------
    low, high : float
        NaN where there are fewer than two cases, or no resamples are asked for.
    """
    by_case: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        by_case.setdefault(case, []).append(value)
    groups = [np.array(group) for group in by_case.values()]
    if len(groups) < 2 or resamples < 1:
        return math.nan, math.nan

    def of(drawn: np.ndarray) -> float:
        return float(statistic(np.concatenate([groups[int(number)] for number in drawn])))

    found = bootstrap(
        (np.arange(len(groups)),),
        of,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _cut(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of both masks that holds all of them: the rest changes no metric and takes time."""
    (window,) = ndimage.find_objects((mask | truth).astype(np.uint8))
    return mask[window], truth[window]


def _tensors(mask: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = (torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (mask, truth))
    return one, other
