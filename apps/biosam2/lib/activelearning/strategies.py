"""How the next case is chosen.

Each strategy chooses one of the free rows of `Cases`, by what is known of them. Images of which that is not
known, because they are new or cannot be scored, get a part of the choices, `UNSCORED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lib.activelearning.cases import Cases

LIKELY = 0.5  # a structure that is present with more than this is taken to be there

COLD_START = 5
"""Labelled cases from which on uncertainty counts.

The automatic masks that it is measured on are made from labelled cases; with fewer, they say more about the
few cases they were made from than about the image.
"""

UNKNOWN = 1.0
"""How many structures an image counts for beside those that are known, while most may not be."""

USUAL = 0.9
"""The part of the images that the default begins with: from the oddest, little follows for others."""

SHARPNESS = 8.0
"""How strongly the default prefers high values: it draws a case with a probability that goes with value ** 8.

Of values spread evenly over 0 to 1, the one drawn is 0.9 in the mean. Always taking the highest one instead
takes what nothing can be learned from (artefacts, other body parts), and similar images one after another.
"""

UNSCORED = 0.1
"""The part of the choices that falls on images that are not scored, or their share of all if that is less.

Guessing a value for them instead does not do: below the best ones they never come, and while few images are
scored, noise makes most choices random.
"""

AT_ONCE = 1000
"""Of a larger pool so many are weighed, drawn at random: at first each is compared with each."""

FARTHEST = 2.0  # that two embeddings can be apart
TINY = 1e-6

Choose = Callable[[Cases, np.ndarray, np.random.Generator, Sequence[str]], int]
"""(cases, rows that can be given out, at least one; random numbers, names of structures or none) -> row.

The names say which structures the choice is for; none, or none that was scored, means all of them.
"""


def random(cases: Cases, free: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ()) -> int:
    """Any image."""
    return int(free[rng.integers(len(free))])


def foreground_random(
    cases: Cases, free: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ()
) -> int:
    """A structure at random, then any image that is likely to show it (nnActive, arXiv 2511.19183).

    Images in which no structure is likely come last.
    """
    unscored = np.isnan(cases.mean[free])
    if _is_their_turn(unscored, rng):
        return random(cases, free[unscored], rng)
    for structure in rng.permutation(cases.chosen(names)):
        showing = free[cases.present[structure, free] > LIKELY]
        if len(showing):
            return random(cases, showing, rng)
    return random(cases, free, rng)


def uncertainty(cases: Cases, free: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ()) -> int:
    """The image with the highest mean uncertainty of its structures."""
    values = cases.mean[free]
    if names:
        chosen = cases.uncertainty[cases.chosen(names)][:, free]
        scored = ~np.isnan(chosen)
        values = np.where(scored, chosen, 0).sum(0) / np.where(scored.any(0), scored.sum(0), np.nan)
    return _best(values, free, rng)


def diversity(cases: Cases, free: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ()) -> int:
    """The image farthest from everything labelled or claimed (k-centre), first any.

    Not the most typical one first: of three simulated sets it taught least in two. The least typical ones
    taught most, but in a pool from a clinic these are scouts, artefacts and other body parts.
    """
    return _best(_apart(cases, free), free, rng)


def biosam2(cases: Cases, free: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ()) -> int:
    """What shows most structures, those with few labels first, and is far from what is labelled or claimed.

    A case teaches each structure that it shows. Each counts by its presence, over the labels there are of it,
    and after `COLD_START` labels also by its uncertainty. That is multiplied by the distance (see
    `diversity`). The first ones are the highest of these, but none of the oddest images (`USUAL`): planes of
    eight drawn and warped anatomies, mean Dice of others with 2 to 6 labels 0.621, without this rule 0.616,
    by distance alone 0.612, by what most are like (k-median) 0.611, by `foreground_random` 0.600.

    Later the case is drawn with this to the power `SHARPNESS` (after ClaSP PE, arXiv 2601.13677: stratified
    by class, with noise on the logarithm).
    """
    structures = cases.chosen(names)
    begins = np.count_nonzero(cases.labelled) < COLD_START or not len(structures)
    unscored = ~cases.distances.known[free]
    if not begins:
        unscored |= np.isnan(cases.mean[free])
    if _is_their_turn(unscored, rng):
        return random(cases, free[unscored], rng)
    some = free[~unscored]
    if len(some) > AT_ONCE:
        some = rng.choice(some, AT_ONCE, replace=False, shuffle=False)
    if begins:
        odd = cases.distances.alone(some)
        some = some[odd <= np.quantile(odd, USUAL)]
    here = np.ix_(structures, some)
    taught = cases.present[here] if begins else cases.present[here] * cases.uncertainty[here]
    worth = (1 / (1 + np.maximum(cases.collected[structures], 0))) @ np.nan_to_num(taught)
    apart = _apart(cases, some)
    if begins:
        return _best((UNKNOWN + worth) * apart, some, rng)
    # the smallest of exponential times 1 / weight is drawn with the probability of the weight
    noise = np.log(np.maximum(rng.standard_exponential(len(some), np.float32), TINY)) / SHARPNESS
    return _best(np.log(np.maximum(worth * apart, TINY)) - noise, some, rng)


STRATEGIES: dict[str, Choose] = {
    "biosam2": biosam2,
    "random": random,
    "foreground_random": foreground_random,
    "uncertainty": uncertainty,
    "diversity": diversity,
}
"""By name. The first is the default: clients offer them in this order."""


def _apart(cases: Cases, rows: np.ndarray) -> np.ndarray:
    """How far images are from what is labelled or claimed, equally while nothing is; NaN where not known."""
    near = np.minimum(cases.distances.near[rows], FARTHEST)
    return np.where(cases.distances.known[rows], near, np.nan)


def _is_their_turn(unscored: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether this choice falls on the images that a mask (m,) says are not scored."""
    share = np.count_nonzero(unscored) / len(unscored)
    return share == 1 or bool(rng.random() < min(share, UNSCORED))


def _best(values: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> int:
    """The row with the highest value (m,), any of several; at their turn any of those whose value is NaN."""
    unscored = np.isnan(values)
    if _is_their_turn(unscored, rng):
        best = free[unscored]
    else:
        best = free[values == np.nanmax(values)]
    return int(best[rng.integers(len(best))])
