"""The report says what the rows say: means, intervals, the best, the worst, what failed."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.evaluation import figures
from lib.evaluation.pipelines import Shown
from lib.evaluation.report import write_report
from lib.evaluation.results import COLUMNS
from lib.evaluation.runner import Evaluation, Failure
from lib.evaluation.simulate import clicks
from lib.evaluation.summary import ALL, BEST_CLASSICAL, frame_of, summarise, to_markdown
from lib.evaluation.worst import Worst


def row(model="a", case="1", dice=0.5, prompts="box", structure="liver", **more) -> dict[str, str]:
    blank = dict.fromkeys(COLUMNS, "")
    named = {"model": model, "version": model, "pipeline": "image", "case": case, "structure": structure}
    asked = {"prompts": prompts, "slices": "0", "dice": str(dice), "nsd": "0.25", "iou": "0.4"}
    times = {"seconds_first": "0.1", "seconds": "0.3"}
    return blank | named | asked | times | {k: str(v) for k, v in more.items()}


def lines(rows: list[dict[str, str]], resamples: int = 0) -> list[dict[str, str]]:
    return summarise(frame_of(rows), resamples).to_dict("records")


def test_a_line_has_the_means_of_its_rows():
    rows = [row(case=str(n), dice=d) for n, d in enumerate((0.2, 0.4, 0.9))]
    (line,) = lines(rows)
    assert line == {
        "structure": "liver",
        "prompts": "box",
        "model": "a",
        "n": "3",
        "DSC mean": "0.500",
        "DSC median": "0.400",
        "NSD": "0.250",
        "IoU": "0.400",
        "s first": "0.100",
        "s/case": "0.300",
    }


def test_intervals_hold_the_mean_and_come_with_two_cases_or_more():
    rows = [row(case=str(n), dice=d) for n, d in enumerate((0.2, 0.4, 0.9, 0.7))]
    found = re.fullmatch(r"0\.550 \[(.+), (.+)\]", lines(rows, 200)[0]["DSC mean"])
    assert found and 0.2 <= float(found[1]) < 0.55 < float(found[2]) <= 0.9
    assert lines(rows[:1], 200)[0]["DSC mean"] == "0.200"
    slices = [row(case="1", dice=d, slices=n) for n, d in enumerate((0.2, 0.4))]
    assert lines(slices, 200)[0]["DSC mean"] == "0.300"
    assert lines(slices)[0]["cases"] == "1" and lines(slices)[0]["n"] == "2"


def test_models_stand_side_by_side_and_the_best_is_bold():
    rows = [row(m, c, d) for m, d in (("a", 0.4), ("b", 0.8)) for c in "12"]
    assert [(x["model"], x["DSC mean"]) for x in lines(rows)] == [("a", "0.400"), ("b", "**0.800**")]


def test_several_structures_are_also_taken_together():
    rows = [row(dice=0.4), row(dice=0.8, structure="spleen")]
    assert [(x["structure"], x["DSC mean"]) for x in lines(rows)] == [
        ("liver", "0.400"),
        ("spleen", "0.800"),
        (ALL, "0.600"),
    ]


def test_columns_that_apply_to_nothing_are_left_out_and_others_stay():
    rows = [row(), row(prompts="noc", noc85=3, noc90=20, auc_dice=0.75)]
    box, noc = lines(rows)
    assert (box["NoC@85"], noc["NoC@85"], noc["NoC@90"], noc["AUC-DSC"]) == ("", "3.0", "20.0", "0.750")
    assert "absence" not in box and "AUC-NSD" not in box


def test_the_better_classical_method_is_chosen_slice_by_slice():
    otsu, walker = "Otsu in the box", "random walker in the box"
    rows = [row(otsu, "1", 0.9), row(otsu, "2", 0.1), row(walker, "1", 0.5), row(walker, "2", 0.7)]
    found = {x["model"]: x["DSC mean"].strip("*") for x in lines(rows)}
    assert found == {otsu: "0.500", walker: "0.600", BEST_CLASSICAL: "0.800"}


def test_markdown_keeps_its_columns_whatever_the_names():
    text = to_markdown(summarise(frame_of([row(structure="a|b")]), 0))
    head, rule, line = text.splitlines()
    assert head.count(" | ") == rule.count(" | ") == line.count(" | ")
    assert "a\\|b" in line


class Page(HTMLParser):
    """Tags, text and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    curve = {"dice_after": "0.2 0.5 0.6", "prompts": "3clicks"}
    along = {"dice_along": "0.1 0.9 0.8 0.3", "pipeline": "volume"}
    rows = [row(m, c, d, **curve) for m, d in (("a", 0.4), ("b", 0.8)) for c in "12"]
    rows += [row(case="<script>alert(1)</script>", dice=0.05, **along)]
    worst = Worst(out)
    truth = np.zeros((40, 30), bool)
    truth[10:30, 5:25] = True
    plane = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    given = clicks([(15, 10), (2, 2)], [True, False], box=(9.0, 4.0, 31.0, 26.0), mask=truth)
    worst.keep(rows[-1], [Shown(3, plane, truth, ~truth, given), Shown(4, plane, truth, truth & False, None)])
    failures = [Failure("", "c & d", "reading", "label 'x' has <b>no</b> voxels.")]
    versions = {"a": "version 1", "b": "version 2"}
    write_report(Evaluation(rows, failures, 5), {"seed": "0"}, versions, out, 50)
    return out


def test_the_page_holds_everything_and_asks_for_nothing(written):
    page = Page((written / "report.html").read_text())
    assert page.sources and all(s.startswith("data:image/png;base64,") for s in page.sources)
    for source in page.sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).verify()
    assert len(page.sources) == 3 + 1 + 1  # plots, legend, the one worst case that was kept
    for text in ("0.800", "version 2", "seed", "3clicks", "Not measured"):
        assert text in page.text


def test_names_from_files_are_text_and_never_markup(written):
    page = Page((written / "report.html").read_text())
    assert "script" not in page.tags and "b" not in page.tags
    assert "label 'x' has <b>no</b> voxels." in page.text and "c & d" in page.text


def test_the_markdown_report_has_the_table_the_settings_and_what_failed(written):
    text = (written / "report.md").read_text()
    assert "| liver | 3clicks | b | 2 |" in text
    assert "- seed: 0" in text and "- c & d (reading; all): label 'x' has" in text


def test_plots_are_kept_as_files(written):
    names = {path.name for path in (written / "figures").iterdir()}
    assert names == {"all_results.png", "dice_against_clicks.png", "dice_along_the_slices.png"}


def test_a_run_in_which_everything_failed_still_has_a_report(tmp_path):
    failures = [Failure("", "x", "reading", "damaged.")]
    assert write_report(Evaluation([], failures, 0), {}, {}, tmp_path, 50) == ""
    assert "damaged." in (tmp_path / "report.html").read_text()
    assert "Nothing could be measured" in (tmp_path / "report.md").read_text()


def test_the_curve_drawn_is_the_mean_after_each_click():
    curves = ("0.2 0.4 0.6", "0.4 0.6 1")
    rows = [row(case=d, dice_after=d, prompts="3clicks") for d in curves]
    figure = figures.against_clicks(frame_of(rows))
    assert figure is not None
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.3], [2, 0.5], [3, 0.8]])
    figures.png(figure)
    assert figures.against_clicks(frame_of([row()])) is None


def test_structures_of_different_length_are_drawn_on_one_scale():
    rows = [row(case=d, dice_along=d, pipeline="volume") for d in ("0 1", "0.5 0.5 0.5")]
    figure = figures.along_slices(frame_of(rows))
    assert figure is not None
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata()[[0, 10, 20]], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(line.get_xdata()[[0, 20]], [0, 100])
    figures.png(figure)
    assert figures.along_slices(frame_of([row()])) is None


@pytest.mark.parametrize("upwards", [True, False])
def test_a_worst_case_is_drawn_where_it_is_on_the_slice(upwards):
    """The answer is drawn over its own voxels: their colour turns blue, others stay grey."""
    plane = np.full((60, 40), 128, np.uint8)
    mask = np.zeros((60, 40), bool)
    mask[20:40, 5:15] = True
    figure = figures.worst_case([Shown(0, plane, mask, mask, None, upwards)], "case")
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    assert (low < high) == upwards
    x, y = axis.transData.transform([[30, 10], [30, 18]]).T
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    inside, outside = (pixels[-int(b) - 1, int(a), :3].astype(int) for a, b in zip(x, y, strict=True))
    assert inside[2] > inside[0] + 30
    assert np.ptp(outside) < 10
    figures.png(figure)
