"""Dice of single slices for the prompts that people use: a click, three clicks, a box."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from monai.metrics import compute_dice
from scipy import ndimage

from lib.evaluation.cases import Case
from lib.prompts.prompts import SlicePrompts
from lib.sam.model import Model
from lib.sam.segment import segment

Ask = Callable[[Model, Case, np.random.Generator], np.ndarray]


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity coefficient of two masks, 0 to 1 (`monai.metrics.compute_dice`)."""
    both = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (mask, truth)]
    return float(compute_dice(both[0], both[1], ignore_empty=False))


def ask_box(model: Model, case: Case, rng: np.random.Generator) -> np.ndarray:
    """A box around the structure, each edge up to 5 voxels further out, as a hurried person draws it."""
    a, b = np.flatnonzero(case.truth.any(1)), np.flatnonzero(case.truth.any(0))
    slack = rng.integers(0, 6, 4)
    high = np.array(case.truth.shape) - 1
    box = (
        float(max(a[0] - slack[0], 0)),
        float(max(b[0] - slack[1], 0)),
        float(min(a[-1] + slack[2], high[0])),
        float(min(b[-1] + slack[3], high[1])),
    )
    return segment(model, case.plane, _prompts([], [], box)).mask


def ask_clicks(count: int) -> Ask:
    """The deepest point of the structure, then each time the deepest point of the largest error."""

    def ask(model: Model, case: Case, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros_like(case.truth)
        points, positive = [], []
        for _ in range(count):
            point = _deepest(_largest(mask != case.truth))
            if point is None:
                break
            points.append(point)
            positive.append(bool(case.truth[point]))
            mask = segment(model, case.plane, _prompts(points, positive, None)).mask
        return mask

    return ask


ASKS: dict[str, Ask] = {"1 click": ask_clicks(1), "3 clicks": ask_clicks(3), "box": ask_box}


def measure(model: Model, cases: Iterable[Case], seed: int = 0) -> dict[str, list[float]]:
    """Dice of every case for every way of asking."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ASKS}
    for case in cases:
        for name, ask in ASKS.items():
            found[name].append(dice(ask(model, case, rng), case.truth))
    return found


def _prompts(points: list, positive: list, box: tuple | None) -> SlicePrompts:
    return SlicePrompts(np.array(points, float).reshape(-1, 2), np.array(positive, bool), box, None)


def _largest(error: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(error)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if count else error


def _deepest(region: np.ndarray) -> tuple[int, int] | None:
    if not region.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    a, b = np.unravel_index(np.argmax(depth), depth.shape)
    return int(a), int(b)
