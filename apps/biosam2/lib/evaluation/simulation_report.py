"""What simulations of annotation say: tables as CSV and Markdown, and a plot."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.evaluation.learning_curve import (
    BASELINE,
    Estimate,
    against_baseline,
    curves,
    estimate,
    per_repeat,
    saved,
)
from lib.evaluation.simulation import NOTHING, PRE_LABEL
from lib.evaluation.table import Table

STRATEGIES = ["set", "strategy", "repeats", "labels", "cases", "reached", "fewer", "mean Dice", "last Dice"]
CLICKS = ["set", "strategy", "labelled before", "cases", "nothing", "pre-label", "fewer", "Dice offered"]
CLICKS += ["seconds nothing", "seconds pre-label"]
COUNTED = ((1, 1), (2, 3), (4, 5), (6, 10), (11, 20), (21, 10**6))  # labels before, as rows of the table


def frame(table: Table) -> pd.DataFrame:
    """A table's rows, numbers as numbers; what was left empty is NaN."""
    found = pd.DataFrame(list(table.rows.values()), columns=list(table.columns))
    for column in ("labels", "clicks", "dice", "dice_start", "dice_end", "seconds", "present"):
        if column in found:
            found[column] = pd.to_numeric(found[column], errors="coerce")
    return found


def strategies(holdout: pd.DataFrame, target: float) -> tuple[list[list[str]], pd.DataFrame]:
    """A row for each set and strategy, and the curves that they are made of."""
    if holdout.empty:
        return [], pd.DataFrame()
    found = curves(holdout)
    numbers = per_repeat(found, target)
    rows = []
    for (name, strategy), part in numbers.groupby(["set", "strategy"]):
        repeats = part["repeat"].tolist()
        counts = found[(found["set"] == name) & (found["strategy"] == strategy)]["labels"]
        rows.append(
            [
                str(name),
                str(strategy),
                str(len(part)),
                str(int(counts.max())),
                estimate(part["cases"].tolist(), repeats).shown(),
                f"{part['reached'].sum()} of {len(part)}",
                against_baseline(numbers, str(name), str(strategy)).shown(".0%"),
                estimate(part["mean"].tolist(), repeats).shown(".3f"),
                estimate(part["last"].tolist(), repeats).shown(".3f"),
            ]
        )
    return rows, found


def over_sets(holdout: pd.DataFrame, target: float) -> dict[str, Estimate]:
    """Cases saved against the baseline by each strategy, in the mean of the sets.

    Sets are averaged with the same weight; the interval draws repeats again in each of them.
    """
    if holdout.empty:
        return {}
    numbers = per_repeat(curves(holdout), target)
    rng, found = np.random.default_rng(0), {}
    for strategy in sorted(set(numbers["strategy"]) - {BASELINE}):
        pairs = []
        for name in sorted(set(numbers["set"])):
            part = numbers[numbers["set"] == name].pivot(index="repeat", columns="strategy", values="cases")
            if {strategy, BASELINE} <= set(part.columns):
                both = part[[strategy, BASELINE]].dropna().to_numpy()
                pairs += [both] if len(both) else []
        if pairs:
            value = float(np.mean([_share(p) for p in pairs]))
            drawn = [
                np.mean([_share(p[rng.integers(len(p), size=len(p))]) for p in pairs]) for _ in range(2000)
            ]
            few = max(len(p) for p in pairs) < 2
            low, high = (math.nan, math.nan) if few else np.percentile(drawn, (2.5, 97.5))
            found[strategy] = Estimate(value, float(low), float(high))
    return found


def clicks(cases: pd.DataFrame) -> list[list[str]]:
    """A row for each set, strategy and span of labels that there were: clicks a case of both ways."""
    rows: list[list[str]] = []
    cases = cases.dropna(subset=["clicks"])
    if cases.empty:
        return rows
    key = ["set", "strategy", "repeat", "image"]
    per_case = cases.groupby([*key, "way"], as_index=False).agg(
        labels=("labels", "first"), clicks=("clicks", "sum"), seconds=("seconds", "sum")
    )
    offered = cases[(cases["way"] == PRE_LABEL) & (cases["present"] == 1)]
    wide = per_case.pivot(index=key, columns="way", values=["labels", "clicks", "seconds"])
    for way in (NOTHING, PRE_LABEL):
        if ("clicks", way) not in wide:
            return rows
    wide = wide.dropna()
    for (name, strategy), part in wide.groupby(level=["set", "strategy"]):
        for low, high in (*COUNTED, (1, 10**6)):
            inside = part[part["labels", PRE_LABEL].between(low, high)]
            if inside.empty or (high == 10**6 and low > 1 and inside.empty):
                continue
            images = inside.index.get_level_values("image").tolist()
            nothing, pre = (inside["clicks", way].tolist() for way in (NOTHING, PRE_LABEL))
            here = offered[(offered["set"] == name) & (offered["strategy"] == strategy)]
            here = here[here["labels"].between(low, high)]
            rows.append(
                [
                    str(name),
                    str(strategy),
                    _span(low, high),
                    str(len(inside)),
                    estimate(nothing, images).shown(),
                    estimate(pre, images).shown(),
                    saved(pre, nothing, images).shown(".0%"),
                    estimate(here["dice_start"].tolist(), here["image"].tolist()).shown(".2f"),
                    estimate(inside["seconds", NOTHING].tolist(), images).shown(),
                    estimate(inside["seconds", PRE_LABEL].tolist(), images).shown(),
                ]
            )
    return rows


def write(cases: pd.DataFrame, holdout: pd.DataFrame, out: Path, target: float) -> str:
    """Write `strategies.csv`, `clicks.csv`, `report.md` and `learning.png`; returns the report."""
    by_strategy, found = strategies(holdout, target)
    by_clicks = clicks(cases)
    text = ["# Simulated annotation", ""]
    if by_strategy:
        text += [
            f"Cases until the hold-out's mean Dice is {target:.2f}, and how many fewer than {BASELINE} needs "
            "(95 % intervals over repeats). Where it was not reached, all cases are counted.",
            "",
            *_markdown(STRATEGIES, by_strategy),
            "",
        ]
        for strategy, mean in over_sets(holdout, target).items():
            text.append(f"- {strategy}: {mean.shown('.0%')} fewer in the mean of the sets")
        text.append("")
        _plot(found, target, out / "learning.png")
    if by_clicks:
        text += [
            "Clicks of a case, all structures, from nothing and from the pre-label (95 % intervals over "
            "images); Dice of a pre-label where the structure is there; seconds waiting for the server.",
            "",
            *_markdown(CLICKS, by_clicks),
            "",
        ]
    pd.DataFrame(by_strategy, columns=STRATEGIES).to_csv(out / "strategies.csv", index=False)
    pd.DataFrame(by_clicks, columns=CLICKS).to_csv(out / "clicks.csv", index=False)
    report = "\n".join(text)
    (out / "report.md").write_text(report)
    return report


def _plot(found: pd.DataFrame, target: float, path: Path) -> None:
    """The hold-out's Dice against labels: a panel for each set, a line with interval for each strategy."""
    names = sorted(set(found["set"]))
    figure, axes = plt.subplots(
        1, len(names), figsize=(1 + 4 * len(names), 3.6), layout="constrained", squeeze=False, sharey=True
    )
    colours = {s: f"C{n}" for n, s in enumerate(sorted(set(found["strategy"])))}
    for panel, name in zip(axes[0], names, strict=True):
        for strategy, part in found[found["set"] == name].groupby("strategy"):
            points = []
            for labels, at in part.groupby("labels"):
                mean = estimate(at["dice"].tolist(), at["repeat"].tolist())
                points.append((labels, mean.value, mean.low, mean.high))
            counts, means, lows, highs = np.array(points, float).T
            panel.plot(counts, means, ".-", color=colours[strategy], label=strategy)
            panel.fill_between(counts, lows, highs, alpha=0.15, linewidth=0, color=colours[strategy])
        panel.axhline(target, color="grey", linewidth=1, linestyle=":")
        panel.set(title=name, xlabel="labelled cases")
    axes[0, 0].set(ylabel="mean Dice on the hold-out")
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _markdown(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _share(pairs: np.ndarray) -> float:
    ours, theirs = pairs.sum(0)
    return 1 - ours / theirs


def _span(low: int, high: int) -> str:
    if low == high:
        return str(low)
    if high >= 10**6:
        return "all" if low == 1 else f"{low} and more"
    return f"{low} to {high}"
