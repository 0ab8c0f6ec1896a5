"""What labels are worth: the Dice of a hold-out after so many of them, and what is said of many such curves.

A curve is the mean Dice of the automatic segmentation over the hold-out's cases, then over the structures:
each structure counts the same, also where it is absent in many cases (an empty answer is then right).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from lib.evaluation.metrics import interval

BASELINE = "foreground_random"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, NaN where there are too few to tell."""

    value: float
    low: float
    high: float

    def shown(self, form: str = ".1f") -> str:
        if math.isnan(self.value):
            return "–"
        shown = format(self.value, form)
        if math.isnan(self.low):
            return shown
        return f"{shown} ({format(self.low, form)} to {format(self.high, form)})"


def curves(holdout: pd.DataFrame) -> pd.DataFrame:
    """Curves of a hold-out's rows.

    Parameters
    ----------
    holdout : DataFrame
        Columns `set`, `strategy`, `repeat`, `labels`, `structure`, `dice`.

    Returns
    -------
    DataFrame
        Columns `set`, `strategy`, `repeat`, `labels`, `dice`, sorted by them.
    """
    by = ["set", "strategy", "repeat", "labels"]
    by_structure = holdout.groupby([*by, "structure"], as_index=False)["dice"].mean()
    return by_structure.groupby(by, as_index=False)["dice"].mean()


def cases_to_target(labels: Sequence[float], dice: Sequence[float], target: float) -> float:
    """Labels after which a curve first reaches a Dice, between two measurements on the line through them.

    Parameters
    ----------
    labels, dice : sequence of float
        The curve, labels increasing. Without a label nothing is found: it begins at 0, 0.
    target : float

    Returns
    -------
    float
        The last number of labels where it is never reached: at least so many would be needed.
    """
    before = (0.0, 0.0)
    for count, value in zip(labels, dice, strict=True):
        if value >= target:
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (count - before[0])
        before = (float(count), float(value))
    return before[0]


def mean_dice(labels: Sequence[float], dice: Sequence[float]) -> float:
    """The area under a curve over its width: the Dice that was had on the way."""
    if len(labels) < 2:
        return float(dice[0])
    return float(trapezoid(dice, labels) / (labels[-1] - labels[0]))


def per_repeat(found: pd.DataFrame, target: float) -> pd.DataFrame:
    """Numbers of each curve.

    Parameters
    ----------
    found : DataFrame
        Of `curves`.

    Returns
    -------
    DataFrame
        `set`, `strategy`, `repeat`, `cases` to the target, whether it was `reached`, `mean` Dice on the way
        and the `last` one.
    """
    rows = []
    for (name, strategy, repeat), part in found.groupby(["set", "strategy", "repeat"]):
        labels, dice = part["labels"].tolist(), part["dice"].tolist()
        rows.append(
            {
                "set": name,
                "strategy": strategy,
                "repeat": repeat,
                "cases": cases_to_target(labels, dice, target),
                "reached": max(dice) >= target,
                "mean": mean_dice(labels, dice),
                "last": dice[-1],
            }
        )
    return pd.DataFrame(rows)


def estimate(values: Sequence[float], cases: Sequence[object]) -> Estimate:
    """The mean of values, drawn again by whole cases (images, or repeats)."""
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(float(np.mean(values)), *interval(list(values), [str(c) for c in cases], np.mean))


def saved(ours: Sequence[float], theirs: Sequence[float], cases: Sequence[object]) -> Estimate:
    """How much less `ours` is than `theirs` in sum, as a share of it; pairs are drawn again by whole cases.

    Parameters
    ----------
    ours, theirs : sequence of float
        Of the same repeat, or the same image and structure, at the same place.
    """
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs or not sum(theirs):
        return Estimate(math.nan, math.nan, math.nan)

    def of(drawn: np.ndarray) -> float:
        one, other = drawn.sum(0)
        return 1 - one / other if other else 0.0

    # `interval` joins the pairs of all cases drawn
    low, high = interval(pairs, [str(c) for c in cases], of)  # type: ignore[arg-type]
    return Estimate(of(np.array(pairs)), low, high)


def against_baseline(numbers: pd.DataFrame, name: str, strategy: str) -> Estimate:
    """Cases to the target saved by a strategy in a set, repeat by repeat against `BASELINE`."""
    part = numbers[numbers["set"] == name].set_index(["strategy", "repeat"])["cases"]
    if strategy == BASELINE or BASELINE not in part.index.get_level_values(0):
        return Estimate(math.nan, math.nan, math.nan)
    ours, theirs = part[strategy], part[BASELINE]
    both = sorted(set(ours.index) & set(theirs.index))
    return saved([ours[r] for r in both], [theirs[r] for r in both], both)
