"""The report: a table in Markdown, and one HTML file that holds everything, pictures too."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from lib.evaluation import figures
from lib.evaluation.results import Row
from lib.evaluation.runner import Evaluation
from lib.evaluation.summary import frame_of, summarise, to_markdown
from lib.evaluation.worst import COUNT, Worst

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_PICTURES = 60  # an HTML file beyond some ten MB opens slowly

MEANINGS = {
    "n": "slices, volumes or videos measured; `cases`: the files they are from",
    "DSC": "Dice; in brackets the 95% interval by bootstrap over whole cases; the best mean is bold",
    "NSD": "normalised surface distance, at the tolerance in the settings",
    "IoU": "intersection over union",
    "NoC@85, NoC@90": "clicks needed to a Dice of 0.85 and 0.90; 20 where 20 are not enough",
    "AUC-DSC, AUC-NSD": "area under the curve over the answers, 1 if all are perfect",
    "absence": "share of the slices without the structure on which nothing was found",
    "s first, s/case": "seconds of the model until the first mask, and in all; no embedding is cached before",
}


def write_report(
    evaluation: Evaluation,
    settings: Mapping[str, str],
    versions: Mapping[str, str],
    out: Path,
    resamples: int,
) -> str:
    """Write `report.md` and `report.html`.

    Parameters
    ----------
    evaluation : Evaluation
    settings : mapping of str to str
        What was asked, by name.
    versions : mapping of str to str
        Models and what they are.
    out : Path
        Folder of the results; the slices of the worst cases lie there.
    resamples : int
        Of the 95% intervals.

    Returns
    -------
    str
        The table in Markdown, empty if nothing could be measured.
    """
    frame = frame_of(evaluation.rows) if evaluation.rows else None
    table = None if frame is None else summarise(frame, resamples)
    markdown = "" if table is None else to_markdown(table)
    failures = [(f.case, f.model or "all", f.what, f.reason) for f in evaluation.failures]
    listed = "\n".join(f"- {case} ({what}; {model}): {reason}" for case, model, what, reason in failures)
    parts = ["# Evaluation", markdown or "Nothing could be measured.", _bullets("Settings", settings)]
    parts += [_bullets("Models", versions), _bullets("Columns", _applying(table))]
    parts += [f"## Not measured\n\n{listed}"] if failures else []
    (out / "report.md").write_text("\n\n".join(parts) + "\n")

    loader = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = loader.from_string(TEMPLATE.read_text()).render(
        columns=[] if table is None else list(table.columns),
        lines=[] if table is None else _cells(table),
        plots=[] if frame is None else _plots(frame, out),
        worst=[] if frame is None else _worst(frame, evaluation.rows, out),
        legend=figures.png(figures.legend_of_worst()),
        settings=settings,
        versions=versions,
        meanings=_applying(table),
        failures=failures,
    )
    (out / "report.html").write_text(page)
    return markdown


def _applying(table: pd.DataFrame | None) -> dict[str, str]:
    """The meanings of the columns that the table has."""
    columns = "" if table is None else " ".join(table.columns)
    return {n: text for n, text in MEANINGS.items() if n.split(",")[0] in columns}


def _bullets(title: str, entries: Mapping[str, str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {name}: {text}" for name, text in entries.items())


def _cells(table: pd.DataFrame) -> list[list[tuple[str, bool]]]:
    """Lines of cells, each with whether it is bold."""
    lines = [[str(cell) for cell in line] for line in table.to_numpy().tolist()]
    return [[(cell.strip("*"), cell.startswith("**")) for cell in line] for line in lines]


def _plots(frame: pd.DataFrame, out: Path) -> list[tuple[str, str]]:
    """Titles and pictures; the pictures are also kept as files."""
    found: dict[str, Figure | None] = {
        "All results": figures.all_rows(frame),
        "Dice against clicks": figures.against_clicks(frame),
        "Dice along the slices": figures.along_slices(frame),
    }
    plots = [(title, figures.png(figure)) for title, figure in found.items() if figure is not None]
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    for title, picture in plots:
        (folder / f"{title.lower().replace(' ', '_')}.png").write_bytes(base64.b64decode(picture))
    return plots


def _worst(frame: pd.DataFrame, rows: list[Row], out: Path) -> list[tuple[str, list[str]]]:
    """Headings and pictures of the worst cases of each model, structure and prompt design."""
    kept = Worst(out)
    found: list[tuple[str, list[str]]] = []
    by_dice = frame.loc[: len(rows) - 1].sort_values("dice", kind="stable")
    names = ["model", "structure", "prompts"]
    room = MOST_PICTURES
    for (model, structure, prompts), group in by_dice.groupby(names, sort=False):
        pictures: list[str] = []
        for number in group.index[: min(COUNT, room)]:
            row = rows[number]
            shown = kept.read(row)
            if shown:
                title = f"{row['case']}: Dice {float(row['dice']):.2f}"
                pictures.append(figures.png(figures.worst_case(shown, title)))
        room -= len(pictures)
        if pictures:
            found.append((f"{model}, {structure}, {prompts}", pictures))
    return found
