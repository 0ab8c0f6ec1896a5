"""The loop over cases: each row once, whatever stops it, and failures that stop nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from lib.errors import UserError
from lib.evaluation.contenders import Contender, checkpoints, classical
from lib.evaluation.datasets import find_pairs
from lib.evaluation.pipelines import Outcome, Shown
from lib.evaluation.protocol import Protocol
from lib.evaluation.results import COLUMNS, SECONDS
from lib.evaluation.runner import TABLE, evaluate
from lib.evaluation.simulate import clicks, generator
from lib.evaluation.worst import COUNT, Worst

MODEL = Path(__file__).parents[2] / "apps" / "biosam2" / "model"


@pytest.fixture
def pairs(tmp_path, write_case):
    for number in range(6):
        name = f"case{number}.nii.gz"
        write_case(tmp_path / "images" / name, tmp_path / "labels" / name, shape=(44, 32, 4), seed=number)
    return find_pairs(tmp_path / "images", tmp_path / "labels").pairs


class Counting:
    """A contender that answers at random, but always the same for the same row, and counts its answers."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.asked, self.opened = stop_after, [], 0

    def contender(self, name="counted", version="1") -> Contender:
        return Contender(name, version, ("1click", "box"), self.open)

    def open(self):
        self.opened += 1
        return self

    def __call__(self, study, structure, prompted, design) -> Outcome:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((study.pair.name, structure.name, tuple(prompted), design))
        rng = generator(0, *self.asked[-1])
        mask = rng.random((44, 32)) > 0.5
        shown = (Shown(prompted[0], study.plane(prompted[0]), mask, ~mask, clicks([(3, 4)], [True])),)
        return Outcome(*rng.random(5), shown, curve=rng.random(3).tolist())


def table(out: Path) -> list[dict[str, str]]:
    """The table on disk without the times."""
    with open(out / TABLE, newline="") as file:
        return [{k: v for k, v in row.items() if k not in SECONDS} for row in csv.DictReader(file)]


PROTOCOL = Protocol("image", ("1click", "box"))


def test_every_case_structure_and_design_is_a_row(tmp_path, pairs):
    counting = Counting()
    found = evaluate(pairs, [counting.contender()], PROTOCOL, tmp_path / "out")
    assert found.made == len(found.rows) == 6 * 2 * 2 and not found.failures
    rows = table(tmp_path / "out")
    assert tuple(found.rows[0]) == COLUMNS
    assert [(r["case"], r["structure"], r["prompts"]) for r in rows[:4]] == [
        ("case0", "label 1", "1click"),
        ("case0", "label 1", "box"),
        ("case0", "label 2", "1click"),
        ("case0", "label 2", "box"),
    ]
    assert len(rows[0]["dice_after"].split()) == 3
    auc = np.mean([float(x) for x in rows[0]["dice_after"].split()][:2]) / 2
    auc += np.mean([float(x) for x in rows[0]["dice_after"].split()][1:]) / 2
    assert float(rows[0]["auc_dice"]) == pytest.approx(auc, abs=1e-5)


@pytest.mark.parametrize("torn", [b"", b"counted,1,image", b"\xc3"])
def test_a_run_that_was_stopped_ends_with_the_same_table(tmp_path, pairs, torn):
    evaluate(pairs, [Counting().contender()], PROTOCOL, tmp_path / "whole")
    stopped = Counting(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pairs, [stopped.contender()], PROTOCOL, tmp_path / "out")
    with open(tmp_path / "out" / TABLE, "ab") as file:
        file.write(torn)
    rest = Counting()
    found = evaluate(pairs, [rest.contender()], PROTOCOL, tmp_path / "out")
    assert len(rest.asked) == found.made == 24 - 9 and len(found.rows) == 24
    assert table(tmp_path / "out") == table(tmp_path / "whole")
    again = Counting()
    assert evaluate(pairs, [again.contender()], PROTOCOL, tmp_path / "out").made == 0
    assert again.opened == 0  # nothing is loaded for nothing
    assert (tmp_path / "out" / TABLE).read_bytes().count(b"\n") == 25


def test_a_head_that_was_torn_is_written_again(tmp_path, pairs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / TABLE).write_text("model,ver")
    evaluate(pairs[:1], [Counting().contender()], PROTOCOL, tmp_path / "out")
    assert len(table(tmp_path / "out")) == 4


def test_another_table_is_not_written_to(tmp_path, pairs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / TABLE).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="another table"):
        evaluate(pairs, [Counting().contender()], PROTOCOL, tmp_path / "out")
    assert (tmp_path / "out" / TABLE).read_text() == "a,b\n1,2\n"


def test_other_weights_files_or_settings_are_measured_anew_and_nothing_else(tmp_path, pairs, write_case):
    def made(contender: Contender, protocol: Protocol = PROTOCOL) -> int:
        return evaluate(pairs, [contender], protocol, tmp_path / "out").made

    assert made(Counting().contender()) == 24
    assert made(Counting().contender("renamed")) == 0
    assert made(Counting().contender(version="2")) == 24
    assert made(Counting().contender(), Protocol("image", ("1click", "box"), jitter=2)) == 24
    write_case(pairs[2].image, pairs[2].label, shape=(44, 32, 4), seed=99)
    assert made(Counting().contender()) == 4
    rows = evaluate(pairs, [Counting().contender("renamed")], PROTOCOL, tmp_path / "out").rows
    assert len(rows) == 24 and {row["model"] for row in rows} == {"renamed"}


def test_a_part_of_the_cases_gives_the_same_rows_as_all_of_them(tmp_path, pairs):
    protocol = Protocol("image", ("1click", "3clicks", "box"), jitter=3, image_size=64)
    (nano,) = checkpoints(["biosam2_nano"], MODEL, protocol, "cpu")
    everything = evaluate(pairs[:3], [nano], protocol, tmp_path / "a").rows
    part = evaluate(pairs[1:3][::-1], [nano], protocol, tmp_path / "b", ["2"]).rows
    key = ("case", "structure", "prompts", "dice", "nsd", "iou", "dice_after")
    assert len(part) == 6
    assert {tuple(r[k] for k in key) for r in part} <= {tuple(r[k] for k in key) for r in everything}


def test_failures_are_told_and_stop_nothing(tmp_path, pairs, write_case):
    pairs[0].label.write_bytes(b"no label")
    pairs[1].label.unlink()
    write_case(pairs[2].image, tmp_path / "elsewhere.nii.gz", shape=(44, 32, 5))

    class Failing(Counting):
        def __call__(self, study, structure, prompted, design):
            if study.pair.name == "case3" and design == "box":
                raise UserError("it does not fit.")
            return super().__call__(study, structure, prompted, design)

    two = [Failing().contender(), Counting().contender("other", "2")]
    found = evaluate(pairs, two, PROTOCOL, tmp_path / "out", ["1"])
    failed = [(f.model, f.case, f.what) for f in found.failures]
    assert failed == [
        ("", "case0", "reading"),
        ("", "case1", "reading"),
        ("", "case2", "reading"),
        ("counted", "case3", "label 1, box"),
    ]
    assert "44 x 32 x 4 voxels, its image 'case2.nii.gz' 44 x 32 x 5" in found.failures[2].reason
    assert found.failures[3].reason == "it does not fit."
    assert len(found.rows) == 2 * 3 * 2 - 1
    # what failed is tried again
    found = evaluate(pairs, [Counting().contender()], PROTOCOL, tmp_path / "out", ["1"])
    assert found.made == 1 and len(found.failures) == 3


def test_an_error_of_the_program_is_not_taken_for_a_bad_case(tmp_path, pairs):
    def ask(*_):
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        evaluate(pairs, [Contender("a", "1", ("box",), lambda: ask)], PROTOCOL, tmp_path / "out")


def test_only_the_worst_cases_are_kept_to_be_looked_at(tmp_path, pairs):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(pairs, [Counting(stop_after=17).contender()], PROTOCOL, out)
    rows = evaluate(pairs, [Counting().contender()], PROTOCOL, out).rows
    kept = Worst(out)
    for structure, design in {(r["structure"], r["prompts"]) for r in rows}:
        group = [r for r in rows if (r["structure"], r["prompts"]) == (structure, design)]
        group.sort(key=lambda r: float(r["dice"]))
        assert [bool(kept.read(r)) for r in group] == [True] * COUNT + [False] * (len(group) - COUNT)
        (shown,) = kept.read(group[0])
        assert shown.prompts is not None and shown.prompts.points.tolist() == [[3, 4]]
        np.testing.assert_array_equal(shown.mask, ~shown.truth)
    assert len(list((out / "worst").iterdir())) == 4 * COUNT


def test_slices_of_a_volume_are_rows_of_their_own_in_the_image_pipeline_only(tmp_path, pairs):
    image = Protocol("image", prompted_slice="every:1")
    rows = evaluate(pairs[:1], [Counting().contender()], image, tmp_path / "a", ["1"]).rows
    assert {r["slices"] for r in rows} == {"0", "1", "2", "3"}
    volume = Protocol("volume", prompted_slice="every:1")
    rows = evaluate(pairs[:1], [Counting().contender()], volume, tmp_path / "b", ["1"]).rows
    assert {r["slices"] for r in rows} == {"0 1 2 3"}


def test_checkpoints_are_named_apart_and_taken_once(tmp_path, random_weights):
    nano = (MODEL / "biosam2_nano.safetensors").read_bytes()
    for folder, content in (("a", nano), ("b", random_weights.read_bytes())):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(content)
    paths = [str(tmp_path / f / "model.safetensors") for f in "ab"]
    found = checkpoints([*paths, "biosam2_nano"], MODEL, PROTOCOL, "cpu")
    assert [c.name for c in found] == [f"model ({c.version})" for c in found] and len(found) == 2
    assert found[0].about == "biosam2_nano, 256 x 256"
    with pytest.raises(UserError, match="neither a file"):
        checkpoints(["lost"], MODEL, PROTOCOL, "cpu")
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(UserError, match="not readable"):
        checkpoints(["biosam2_nano", str(tmp_path / "bad.pt")], MODEL, PROTOCOL, "cpu")


def test_the_classical_methods_answer_boxes_on_single_slices_each_by_itself(tmp_path, pairs):
    assert [c.name for c in classical(PROTOCOL)] == ["Otsu in the box", "random walker in the box"]
    assert classical(Protocol("volume")) == classical(Protocol("image", ("1click",))) == []
    rows = evaluate(pairs[:1], classical(PROTOCOL), PROTOCOL, tmp_path / "out", ["1"]).rows
    assert [r["model"] for r in rows] == ["Otsu in the box", "random walker in the box"]
    assert all(float(r["dice"]) > 0.9 for r in rows)  # bright balls
    assert rows[0]["version"] != rows[1]["version"]
