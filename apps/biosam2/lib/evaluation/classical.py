"""What can be had without a network: Otsu's threshold and the random walker inside a box.

A learned model that does no better than these on a data set is not worth its weights there.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import random_walker

from lib.evaluation.simulate import Look, largest
from lib.prompts.prompts import SlicePrompts

Box = tuple[float, float, float, float]

SEED = 0.15  # radius of the foreground seed, as a share of the box's shorter side
RIM = 2  # voxels around the box that are taken for background
BETA = 130.0  # scikit-image's default: how much an intensity step hinders the walker
TOLERANCE = 1e-3  # of the walker's probabilities, of which only the larger counts


def otsu_in_box(plane: np.ndarray, box: Box) -> np.ndarray:
    """The side of Otsu's threshold that the box's rim is less on: largest piece, holes filled.

    Parameters
    ----------
    plane : ndarray uint8, (A, B) or (A, B, 3)
    box : (a0, b0, a1, b1)
        Inclusive corners, voxel indices.

    Returns
    -------
    ndarray of bool, (A, B)
        Empty where the box holds one intensity only.
    """
    window = _window(box, plane.shape)
    part = _grey(plane)[window]
    mask = np.zeros(plane.shape[:2], bool)
    if part.min() == part.max():
        return mask
    bright = part > threshold_otsu(part)
    rim = np.ones_like(bright)
    rim[1:-1, 1:-1] = False
    mask[window] = _solid(bright if bright[rim].mean() <= 0.5 else ~bright)
    return mask


def random_walker_in_box(plane: np.ndarray, box: Box) -> np.ndarray:
    """Where a random walk ends at a disc in the middle of the box rather than at its rim (Grady, 2006).

    Parameters and result are those of `otsu_in_box`; the mask is the piece around the middle of the box.
    """
    shape = plane.shape[:2]
    inner = _window(box, shape)
    outer = _window((box[0] - RIM, box[1] - RIM, box[2] + RIM, box[3] + RIM), shape)
    part = _grey(plane)[outer] / 255.0  # the walker's step height depends on the scale
    mask = np.zeros(shape, bool)
    if part.min() == part.max():
        return mask
    offset = np.array([o.start for o in outer])
    low = np.array([i.start for i in inner]) - offset
    high = np.array([i.stop for i in inner]) - 1 - offset
    middle = (low + high) / 2
    radius = max(SEED * float((high - low + 1).min()), 0.5)
    a, b = np.mgrid[: part.shape[0], : part.shape[1]]
    seeds = np.full(part.shape, 2)
    seeds[low[0] : high[0] + 1, low[1] : high[1] + 1] = 0
    if not (seeds == 2).any():  # the box is the whole slice: its own border is all the background there is
        seeds[[0, -1], :] = seeds[:, [0, -1]] = 2
    seeds[(a - middle[0]) ** 2 + (b - middle[1]) ** 2 <= radius**2 + 0.25] = 1
    if (seeds == 2).any() and (seeds == 0).any():
        found = random_walker(part, seeds, beta=BETA, mode="cg_j", tol=TOLERANCE, prob_tol=10 * TOLERANCE)
    else:
        found = seeds
    mask[outer] = _solid(found == 1)
    return mask


CLASSICAL = {"Otsu in the box": otsu_in_box, "random walker in the box": random_walker_in_box}


def look_in_box(name: str) -> Look:
    """One of `CLASSICAL` as what answers a slice (`simulate.Look`); the prompts must have a box."""
    method = CLASSICAL[name]

    def look(plane: np.ndarray, prompts: SlicePrompts) -> np.ndarray:
        if prompts.box is None:
            raise ValueError(f"{name} needs a box")
        return method(plane, prompts.box)

    return look


def _grey(plane: np.ndarray) -> np.ndarray:
    return plane if plane.ndim == 2 else plane.mean(2)


def _window(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The voxels whose centres lie in a box, as far as the slice reaches."""
    starts = [max(int(np.ceil(x)), 0) for x in box[:2]]
    stops = [min(int(np.floor(x)), n - 1) + 1 for x, n in zip(box[2:], shape, strict=False)]
    return slice(starts[0], stops[0]), slice(starts[1], stops[1])


def _solid(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(largest(mask))
