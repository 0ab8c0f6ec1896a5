"""Prompts as an evaluator makes them from the true mask and from the error of the last answer.

Slices are (A, B) and stacks of slices (K, A, B), 0-based voxel indices. Nothing here is left to chance but
what `generator` says, so that neither the order of cases nor a new start changes a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from lib.prompts.prompts import SlicePrompts

Look = Callable[[np.ndarray, SlicePrompts], np.ndarray]
"""How a model, or what it is compared with, answers: slice uint8 (A, B[, 3]), prompts -> mask bool (A, B)."""


def generator(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on a seed and on names (case, structure, …), and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *map(str, names)]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def clicks(points: Sequence[tuple[int, ...]], positive: Sequence[bool], **more) -> SlicePrompts:
    """Clicks (a, b) on a slice, with a box or a mask besides if given."""
    at = np.array(points, float).reshape(-1, 2)
    return SlicePrompts(at, np.array(positive, bool), more.get("box"), more.get("mask"))


def box_around(truth: np.ndarray, jitter: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box around the structure, each edge 0 to `jitter` voxels further out, as a hurried person draws it.

    Returns
    -------
    (a0, b0, a1, b1)
        Inclusive corners inside the slice.
    """
    a, b = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    slack = rng.integers(0, jitter + 1, 4)
    high = np.array(truth.shape) - 1
    return (
        float(max(a[0] - slack[0], 0)),
        float(max(b[0] - slack[1], 0)),
        float(min(a[-1] + slack[2], high[0])),
        float(min(b[-1] + slack[3], high[1])),
    )


def next_click(
    mask: np.ndarray,
    truth: np.ndarray,
    jitter: int = 0,
    rng: np.random.Generator | None = None,
    spacing: Sequence[float] | None = None,
) -> tuple[int, ...] | None:
    """Where the largest error is clicked on: at its deepest point, or up to `jitter` voxels from it.

    Parameters
    ----------
    mask, truth : ndarray of bool, (A, B) or (K, A, B)
    jitter : int
        Along each axis of the slice; the click stays on the same slice and in the same piece of the error.
    rng : Generator, optional
        Needed for a jitter.
    spacing : sequence of float, optional
        Voxel size along each axis, which depth is measured in.

    Returns
    -------
    tuple of int, or None where there is no error
    """
    error = largest(mask != truth)
    point = deepest(error, spacing)
    if point is None or rng is None or not jitter:
        return point
    near = np.zeros_like(error)
    near[(*point[:-2], *(slice(max(at - jitter, 0), at + jitter + 1) for at in point[-2:]))] = True
    choices = np.argwhere(near & error)
    return tuple(int(i) for i in choices[rng.integers(len(choices))])


def click_by_click(
    plane: np.ndarray, truth: np.ndarray, count: int, look: Look, jitter: int, rng: np.random.Generator
) -> Iterator[tuple[SlicePrompts, np.ndarray]]:
    """Click on the structure, then on the largest error each time.

    Yields
    ------
    prompts : SlicePrompts
        All clicks up to now.
    mask : ndarray of bool, (A, B)
        The answer to them. There are fewer than `count` answers where one of them has no error.
    """
    mask = np.zeros_like(truth)
    points: list[tuple[int, ...]] = []
    for _ in range(count):
        point = next_click(mask, truth, jitter, rng)
        if point is None:
            return
        points.append(point)
        prompts = clicks(points, [bool(truth[p]) for p in points])
        mask = look(plane, prompts)
        yield prompts, mask


def largest(error: np.ndarray) -> np.ndarray:
    """The largest connected piece of a bool array (faces touching); the array itself where it is empty."""
    pieces, count = ndimage.label(error)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if count else error


def deepest(region: np.ndarray, spacing: Sequence[float] | None = None) -> tuple[int, ...] | None:
    """The voxel of a region that is furthest from its border, the array's own included; None if empty."""
    if not region.any():
        return None
    (window,) = ndimage.find_objects(region.astype(np.uint8))
    part = np.pad(region[window], 1)
    depth = ndimage.distance_transform_edt(part, sampling=spacing)
    inside = np.unravel_index(np.argmax(depth), depth.shape)
    return tuple(int(i) - 1 + w.start for i, w in zip(inside, window, strict=True))
