"""The report's pictures: Dice of all rows, against clicks, along the volume; the worst cases."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from lib.evaluation.pipelines import Shown
from lib.evaluation.protocol import CVPR, NOC

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
TRUTH, ANSWER, GIVEN = "#3ddc5b", "#39b7ff", "#ffd24a"
PLACES = 21  # along a structure, from its first to its last slice
MOST_PANELS = 6
MARGIN = 0.35  # of the extent of what is shown, around it


def png(figure: Figure) -> str:
    """A figure as base64 of a PNG; the figure is closed."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor=figure.get_facecolor())
    pyplot.close(figure)
    return base64.b64encode(file.getvalue()).decode()


def all_rows(frame: pd.DataFrame) -> Figure:
    """The Dice of every row as a point, by prompts and model, with the median."""
    designs, models = _unique(frame, "prompts"), _unique(frame, "model")
    figure, axes = _panels(_structures(frame), width=max(4.2, 1.1 + 0.42 * len(designs) * (1 + len(models))))
    rng = np.random.default_rng(0)
    for structure, axis in axes.items():
        for place, design in enumerate(designs):
            here = frame[(frame["structure"] == structure) & (frame["prompts"] == design)]
            for number, model in enumerate(models):
                values = here.loc[here["model"] == model, "dice"].to_numpy()
                if not len(values):
                    continue
                x = place + (number - (len(models) - 1) / 2) * 0.8 / len(models)
                half = 0.28 / len(models)
                scattered = x + rng.uniform(-half, half, len(values))
                axis.plot(scattered, values, ".", color=_colour(number), alpha=0.45, markersize=7, mew=0)
                axis.hlines(np.median(values), x - 1.3 * half, x + 1.3 * half, color=_colour(number), lw=2.2)
        axis.set_xticks(range(len(designs)), designs)
        axis.set_xlim(-0.5, len(designs) - 0.5)
        axis.set_title(structure)
    _legend(figure, [(m, _colour(n), "-") for n, m in enumerate(models)])
    return figure


def against_clicks(frame: pd.DataFrame) -> Figure | None:
    """Mean Dice after each answer, for the designs with several; None if there is none."""
    curves = frame[frame["dice_after"] != ""]
    if curves.empty:
        return None
    clicks = curves[curves["prompts"] != CVPR]
    if len(clicks):  # shorter designs begin like the longest
        lengths = clicks["dice_after"].str.split().str.len()
        longest = clicks.loc[lengths.idxmax(), "prompts"]
        curves = curves[curves["prompts"].isin([longest, CVPR])]
    models, designs = _unique(curves, "model"), _unique(curves, "prompts")
    figure, axes = _panels(_structures(curves))
    for structure, axis in axes.items():
        for number, model in enumerate(models):
            for style, design in zip(STYLES, designs, strict=False):
                which = (curves["structure"] == structure) & (curves["prompts"] == design)
                values = _numbers(curves[which & (curves["model"] == model)]["dice_after"])
                if values is None:
                    continue
                first = 0 if design == CVPR else 1  # the box is no click
                x = np.arange(first, first + values.shape[1])
                axis.plot(x, values.mean(0), style, color=_colour(number), marker="o", markersize=4)
                if len(values) > 2:
                    low, high = np.percentile(values, (25, 75), axis=0)
                    axis.fill_between(x, low, high, color=_colour(number), alpha=0.12, lw=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if NOC in designs:
            for level in (0.85, 0.9):
                axis.axhline(level, color="#999999", lw=0.8, ls=":")
        axis.set_xlabel(("clicks after the box" if designs == [CVPR] else "clicks") + " (band: quartiles)")
        axis.set_title(structure)
    _legend(figure, _entries(models, designs))
    return figure


def along_slices(frame: pd.DataFrame) -> Figure | None:
    """Mean Dice from the first to the last slice of a structure; None if the rows are of single slices."""
    frame = frame[frame["dice_along"] != ""]
    if frame.empty:
        return None
    models, designs = _unique(frame, "model"), _unique(frame, "prompts")
    figure, axes = _panels(_structures(frame))
    video = set(frame["pipeline"]) == {"video"}
    for structure, axis in axes.items():
        for number, model in enumerate(models):
            for style, design in zip(STYLES * 6, designs, strict=False):
                which = (frame["structure"] == structure) & (frame["prompts"] == design)
                rows = frame[which & (frame["model"] == model)]["dice_along"]
                if rows.empty:
                    continue
                each = [_stretched(np.array(row.split(), float)) for row in rows]
                x = np.linspace(0, 100, PLACES)
                axis.plot(x, np.mean(each, axis=0), style, color=_colour(number), lw=1.8)
        axis.set_xlabel("frames from the prompted one on (%)" if video else "slices of the structure (%)")
        axis.set_title(structure)
    _legend(figure, _entries(models, designs))
    return figure


def worst_case(shown: Sequence[Shown], title: str) -> Figure:
    """The slices of one case: image, truth, answer and prompts."""
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.3 * len(shown), 3.5), squeeze=False)
    figure.set_facecolor("#111111")
    for axis, one in zip(axes[0], shown, strict=True):
        _draw(axis, one)
    figure.suptitle(title, color="white", fontsize=9, y=0.985)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.87, wspace=0.03)
    return figure


def legend_of_worst() -> Figure:
    """What the lines and signs on the pictures of the worst cases mean."""
    figure = pyplot.figure(figsize=(7.2, 0.35), facecolor="#111111")
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH, lw=1.8, label="truth"),
            Patch(facecolor=ANSWER, alpha=0.5, edgecolor=ANSWER, label="answer"),
            Line2D([], [], color=GIVEN, lw=1.5, ls="--", label="box or mask given"),
            Line2D([], [], color=GIVEN, marker="+", ls="", mew=2, label="click on it"),
            Line2D([], [], color="#ff4d4d", marker="x", ls="", mew=2, label="click beside it"),
        ],
        loc="center",
        ncols=5,
        frameon=False,
        labelcolor="white",
        fontsize=8,
    )
    return figure


def _draw(axis: Axes, one: Shown) -> None:
    # across is the slice's first axis, as in `lib.sam.segment.picture`
    plane = one.plane.swapaxes(0, 1)
    axis.imshow(plane, cmap="gray", vmin=0, vmax=255, aspect=one.aspect, interpolation="nearest")
    for mask, colour, filled in ((one.mask, ANSWER, True), (one.truth, TRUTH, False)):
        if mask.any():
            # padded, so that what touches the border is closed there
            field = np.pad(mask.T.astype(float), 1)
            x, y = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
            if filled:
                axis.contourf(x, y, field, levels=[0.5, 2], colors=[colour], alpha=0.35)
            axis.contour(x, y, field, levels=[0.5], colors=[colour], linewidths=1.3)
    prompts = one.prompts
    if prompts is not None:
        if prompts.box is not None:
            a0, b0, a1, b1 = prompts.box
            corner, size = (a0 - 0.5, b0 - 0.5), (a1 - a0 + 1, b1 - b0 + 1)
            axis.add_patch(Rectangle(corner, *size, fill=False, ec=GIVEN, lw=1.5, ls="--"))
        if prompts.mask is not None:
            axis.contour(prompts.mask.T.astype(float), levels=[0.5], colors=[GIVEN], linestyles="--")
        for at, positive in zip(prompts.points, prompts.positive, strict=True):
            sign, colour = ("+", GIVEN) if positive else ("x", "#ff4d4d")
            axis.plot(*at, sign, color=colour, markersize=9, mew=2)
    (a0, b0), (a1, b1) = _window(one)
    axis.set_xlim(a0, a1)
    axis.set_ylim((b0, b1) if one.upwards else (b1, b0))
    axis.set_axis_off()
    where = "prompted" if prompts is not None else "not prompted"
    axis.set_title(f"slice {one.index}, {where}", color="#cccccc", fontsize=8)


def _window(one: Shown) -> tuple[np.ndarray, np.ndarray]:
    """The part of the slice to show: truth, answer and prompts, with some of what is around."""
    points = [np.argwhere(one.truth | one.mask).astype(float)]
    if one.prompts is not None:
        points.append(one.prompts.points)
        if one.prompts.box is not None:
            points.append(np.array(one.prompts.box).reshape(2, 2))
    every = np.concatenate(points)
    shape = np.array(one.truth.shape)
    if not len(every):
        return np.full(2, -0.5), shape - 0.5
    low, high = every.min(0), every.max(0)
    reach = max(float((high - low).max()) * (0.5 + MARGIN), 12.0)
    middle = (low + high) / 2
    return np.maximum(middle - reach, -0.5), np.minimum(middle + reach, shape - 0.5)


def _panels(structures: list[str], width: float = 4.2) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each structure, Dice upwards from 0 to 1."""
    across = max(1, min(len(structures), int(12.8 // width)))
    down = math.ceil(len(structures) / across)
    size = (width * across, 3.2 * down + 0.5)
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_ylim(-0.02, 1.02)
        axis.grid(axis="y", color="#e3e3e3", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("Dice")
    for axis in axes.flat[len(structures) :]:
        axis.set_visible(False)
    return figure, dict(zip(structures, axes.flat, strict=False))


def _legend(figure: Figure, entries: list[tuple[str, str, str]]) -> None:
    handles = [Line2D([], [], color=colour, ls=style, lw=2, label=name) for name, colour, style in entries]
    columns = max(1, int(figure.get_figwidth() // 1.9))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def _entries(models: list[str], designs: list[str]) -> list[tuple[str, str, str]]:
    entries = [(model, _colour(number), "-") for number, model in enumerate(models)]
    styles = zip(designs, STYLES * 6, strict=False)
    return entries + ([(d, "#555555", style) for d, style in styles] if len(designs) > 1 else [])


def _structures(frame: pd.DataFrame) -> list[str]:
    """The structures with a panel of their own: the first ones, where there are many."""
    return _unique(frame, "structure")[:MOST_PANELS]


def _unique(frame: pd.DataFrame, column: str) -> list[str]:
    return list(dict.fromkeys(frame[column]))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _numbers(texts: pd.Series) -> np.ndarray | None:
    return np.array([text.split() for text in texts], float) if len(texts) else None


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values along a structure at `PLACES` places, whatever the number of its slices."""
    return np.interp(np.linspace(0, 1, PLACES), np.linspace(0, 1, len(values)), values)
