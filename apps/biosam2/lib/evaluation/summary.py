"""The report's table: what the rows of one model, structure and prompt design come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.classical import CLASSICAL
from lib.evaluation.metrics import interval
from lib.evaluation.results import FIGURES, SECONDS, Row

ALL = "all structures"
BEST_CLASSICAL = "better of the two"

MEANS = {
    "nsd": "NSD",
    "iou": "IoU",
    "noc85": "NoC@85",
    "noc90": "NoC@90",
    "auc_dice": "AUC-DSC",
    "auc_nsd": "AUC-NSD",
    "absence": "absence",
    "seconds_first": "s first",
    "seconds": "s/case",
}
"""Columns of which the table has the mean, where they apply."""


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a data frame with numbers; beside the classical methods, the better one of each slice."""
    frame = pd.DataFrame(list(rows))
    for name in (*FIGURES, *SECONDS):
        frame[name] = pd.to_numeric(frame[name])
    classical = frame[frame["model"].isin(list(CLASSICAL))]
    if len(classical):
        slices = ["data", "case", "structure", "slices", "prompts"]
        best = classical.loc[classical.groupby(slices, sort=False)["dice"].idxmax()]
        frame = pd.concat([frame, best.assign(model=BEST_CLASSICAL, version="")], ignore_index=True)
    return frame


def summarise(frame: pd.DataFrame, resamples: int, seed: int = 0) -> pd.DataFrame:
    """One line for each structure, prompt design and model, in that order; for all structures, if several.

    Parameters
    ----------
    frame : DataFrame
        As `frame_of` makes it, at least one row.
    resamples : int
        Of the 95% intervals, see `metrics.interval`.

    Returns
    -------
    DataFrame
        Text, columns that apply to no line left out. The best mean of those compared stands between ``**``.
    """
    structures = list(dict.fromkeys(frame["structure"]))
    parts = [(name, frame[frame["structure"] == name]) for name in structures]
    if len(structures) > 1:
        parts.append((ALL, frame))
    lines = []
    for structure, part in parts:
        for design in dict.fromkeys(part["prompts"]):
            compared = part[part["prompts"] == design]
            means = compared.groupby("model")["dice"].mean()
            for model in dict.fromkeys(compared["model"]):
                rows = compared[compared["model"] == model]
                line = _line(rows, resamples, seed)
                if len(means) > 1 and means[model] == means.max():
                    line["DSC mean"] = f"**{line['DSC mean']}**"
                lines.append({"structure": structure, "prompts": design, "model": model, **line})
    table = pd.DataFrame(lines)
    if (table["n"] == table["cases"]).all():
        table = table.drop(columns="cases")
    return table.loc[:, (table != "").any()]


def _line(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, str]:
    dice, cases = rows["dice"].tolist(), rows["case"].tolist()
    line = {"n": str(len(rows)), "cases": str(len(set(cases)))}
    for name, statistic in (("DSC mean", np.mean), ("DSC median", np.median)):
        low, high = interval(dice, cases, statistic, resamples, seed)
        between = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        line[name] = f"{statistic(dice):.3f}{between}"
    for column, name in MEANS.items():
        mean = rows[column].mean()
        digits = 1 if column.startswith("noc") else 3
        line[name] = "" if np.isnan(mean) else f"{mean:.{digits}f}"
    return line


def to_markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
