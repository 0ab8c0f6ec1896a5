"""How unsure the automatic masks of an image are: one number for each structure.

Four signs of it: the views disagree about the mask; so do the masks that boxes drawn a little differently
around it give; the network rates its own mask low; the object score cannot tell whether the structure is on
a slice at all. (ClaSP PE, arXiv 2601.13677, multiplies such signs; here each alone is enough to make a case
worth a look, so they are averaged.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lib.activelearning.scores import StructureScore
from lib.evaluation.simulate import box_around
from lib.prompts.prompts import SlicePrompts
from lib.sam.search import Found, disagreement

BOXES = 3  # drawn around the mask
SLACK = 3  # voxels that each edge of them is further out, at most
ASKED_AGAIN = 2  # slices on which boxes are drawn: those with the largest masks

Segment = Callable[[int, SlicePrompts], np.ndarray]
"""Slice index, prompts -> mask bool (A, B)."""


def score_structure(found: Sequence[Found], segment: Segment, rng: np.random.Generator) -> StructureScore:
    """The score of one structure from its masks on all slices.

    Parameters
    ----------
    found : sequence of Found
        By slice.
    segment : callable
    rng : Generator
        Draws the boxes.
    """
    presence = _sigmoid(np.array([one.presence for one in found]))
    present = float(presence.max())
    areas = np.array([int(one.mask.sum()) for one in found])
    ambiguous = float((4 * presence * (1 - presence)).mean())
    on = np.flatnonzero(areas)
    if not len(on):  # it may be missing, or not have been found: the nearer to being there, the less sure
        return StructureScore(present, present)
    share = areas[on] / areas[on].sum()
    apart = float(share @ [found[i].disagreement for i in on])
    rated = float(share @ [1 - found[i].score for i in on])
    again = [_shaken(int(i), found[i].mask, segment, rng) for i in on[np.argsort(-areas[on])][:ASKED_AGAIN]]
    signs = [apart, float(np.mean(again)), rated, ambiguous]
    return StructureScore(float(np.clip(np.mean(signs), 0, 1)), present)


def _shaken(index: int, mask: np.ndarray, segment: Segment, rng: np.random.Generator) -> float:
    """How far apart the masks are that boxes drawn by hurried people around this one give."""
    empty = np.zeros((0, 2)), np.zeros(0, bool)
    boxes = [box_around(mask, SLACK, rng) for _ in range(BOXES)]
    return disagreement([segment(index, SlicePrompts(*empty, box, None)) for box in boxes])


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
