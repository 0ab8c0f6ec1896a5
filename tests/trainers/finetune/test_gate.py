"""Whether a candidate is served: figures computed by hand, and what follows from them."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.evaluation.results import Row
from lib.sam import network
from lib.sam.checkpoints import save_checkpoint
from lib.trainers.finetune.gate import Comparison, as_json, compare, decide, measure, too_small

from .conftest import AFFINE, SMALL, scan


def row(case: str, dice: float, structure: str = "liver", prompts: str = "box", way: str = "image") -> Row:
    return {
        "case": case,
        "structure": structure,
        "prompts": prompts,
        "pipeline": way,
        "dice": f"{dice:.6g}",
    }


def of(found: Comparison, structure: str) -> tuple[float, float, float]:
    """A structure's number of patients, and its Dice before and after."""
    figures = found.structures[structure]
    return figures["cases"], round(figures["served"], 6), round(figures["candidate"], 6)


def rows(*values: float, **more: str) -> list[Row]:
    return [row(f"case {number}", value, **more) for number, value in enumerate(values)]


def test_means_and_difference():
    found = compare(rows(0.5, 0.6, 0.7), rows(0.6, 0.8, 0.7), {})
    assert (found.cases, found.served, found.candidate) == (3, pytest.approx(0.6), pytest.approx(0.7))
    assert found.difference == pytest.approx(0.1)
    # the means of 3 drawn from (0, 0.1, 0.2) lie between 0 and 0.2: each of these in one of 27
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(0.2))
    assert found.candidate_low == pytest.approx(0.6) and found.candidate_high == pytest.approx(0.8)
    assert set(found.structures) == {"liver"} and of(found, "liver") == (3, 0.6, 0.7)
    liver = found.structures["liver"]
    assert liver["candidate_low"] == pytest.approx(0.6) and liver["candidate_high"] == pytest.approx(0.8)


def test_a_patient_with_many_images_counts_once():
    patients = {"case 0": "A", "case 1": "A", "case 2": "A", "case 3": "B"}
    found = compare(rows(0.1, 0.2, 0.3, 0.8), rows(0.5, 0.6, 0.7, 0.8), patients)
    assert found.cases == 2
    assert (found.served, found.candidate) == (pytest.approx(0.5), pytest.approx(0.7))
    assert found.structures["liver"]["cases"] == 2
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(0.4))


def test_a_structure_on_many_slices_counts_as_one_on_few():
    served = [row("a", 0.2)] * 9 + [row("a", 0.8, "spleen")]
    candidate = [row("a", 0.4)] * 9 + [row("a", 0.6, "spleen")]
    found = compare(served, candidate, {})
    assert found.served == found.candidate == pytest.approx(0.5)
    assert found.difference == pytest.approx(0) and found.low == found.high
    assert of(found, "liver") == (1, 0.2, 0.4)
    assert found.structures["spleen"]["candidate"] == pytest.approx(0.6)


def test_ways_of_asking_count_the_same():
    served = [*rows(0.4, 0.4), *rows(0.6, 0.6, prompts="3clicks"), *rows(0.8, 0.8, way="volume")]
    found = compare(served, served, {})
    assert found.served == pytest.approx(0.6) and found.difference == 0
    assert found.structures["liver"]["served"] == pytest.approx(0.6)


def test_a_structure_that_only_some_patients_have():
    served = [row("a", 0.5), row("b", 0.5), row("b", 0.1, "spleen")]
    candidate = [row("a", 0.5), row("b", 0.5), row("b", 0.9, "spleen")]
    found = compare(served, candidate, {})
    assert of(found, "spleen") == (1, 0.1, 0.9)
    assert found.difference == pytest.approx((0 + 0.4) / 2)


def test_the_order_of_rows_does_not_matter():
    served, candidate = rows(0.1, 0.5, 0.9, 0.7), rows(0.2, 0.5, 0.95, 0.6)
    assert (
        compare(served, candidate, {})
        == compare(served, candidate[::-1], {})
        == compare(served[::-1], candidate, {})
    )


def test_the_interval_is_that_of_pairs():
    """Patients differ a lot, and the candidate is a little better on each of them: no noise hides that."""
    served = np.linspace(0.1, 0.9, 12)
    better = served + 0.02 + np.tile([0.004, -0.004], 6)
    found = compare(rows(*served), rows(*better), {})
    assert 0.015 < found.low < found.difference < found.high < 0.025
    assert found.candidate_high - found.candidate_low > 0.2


def comparison(low: float, difference: float, high: float, served: float = 0.7) -> Comparison:
    return Comparison(5, served, served + difference, difference, low, high, 0.6, 0.9, {})


SAME = comparison(-0.01, 0.0, 0.01)


def test_better_is_published():
    verdict = decide(comparison(0.05, 0.1, 0.15), comparison(-0.03, -0.02, 0.01))
    assert verdict.publish and verdict.reason == "Better: Dice 0.700 to 0.800 on 5 held-out patients."


@pytest.mark.parametrize("low", [0.0, -0.01, float("nan")])
def test_not_better_than_the_noise_is_kept(low: float):
    verdict = decide(comparison(low, 0.02, 0.05), SAME)
    assert not verdict.publish
    assert verdict.reason.startswith("Not better by more than the noise: Dice 0.700 to 0.720")
    assert verdict.reason.endswith("and +0.050.")


def test_worse_elsewhere_is_kept():
    verdict = decide(comparison(0.05, 0.1, 0.15), comparison(-0.05, -0.0201, 0.0, 0.9))
    assert not verdict.publish
    assert verdict.reason == (
        "Better here (Dice 0.700 to 0.800 on 5 held-out patients), "
        "but the general set fell from 0.900 to 0.880, more than 0.02."
    )


def test_a_hold_out_too_small_to_decide():
    verdict = too_small(2)
    assert not verdict.publish and verdict.site is None and as_json(verdict) == {}
    assert verdict.reason.startswith("The hold-out is too small to decide: it has 2 of at least 5 patients.")


def test_figures_as_the_version_keeps_them():
    found = as_json(decide(comparison(0.05, 0.1, 0.15), SAME))
    assert found["site"]["candidate"] == pytest.approx(0.8) and "margin" not in found["site"]
    assert found["general"]["margin"] == 0.02 and found["general"]["difference"] == 0
    assert set(found["site"]) == {
        "cases", "served", "candidate", "difference", "low", "high", "candidate_low", "candidate_high",
        "structures",
    }  # fmt: skip


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    found = []
    for number in range(2):
        image, labels = scan(number)
        files = [tmp_path / f"{kind}{number}.nii.gz" for kind in ("image", "label")]
        for path, voxels in zip(files, (image, labels), strict=True):
            nib.save(nib.Nifti1Image(voxels, AFFINE), path)
        found.append(Pair(f"case {number}", *files, {1: "liver"}))
    return found


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another small checkpoint, with a path as candidates have."""
    torch.manual_seed(2)
    path = tmp_path / "candidate.safetensors"
    save_checkpoint(path, network.build(SMALL).state_dict(), SMALL)
    return path


def test_rows_are_not_made_again(base: Path, other: Path, pairs: list[Pair], tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    served, candidate = measure(pairs, pairs[:1], base, other, out, "cpu")
    keys = [(r["case"], r["pipeline"], r["prompts"]) for r in served]
    assert keys == [
        ("case 0", "image", "box"), ("case 0", "image", "3clicks"),
        ("case 1", "image", "box"), ("case 1", "image", "3clicks"), ("case 0", "volume", "box"),
    ]  # fmt: skip
    assert keys == [(r["case"], r["pipeline"], r["prompts"]) for r in candidate]
    assert all(0 <= float(r["dice"]) <= 1 for r in served + candidate)
    assert {r["version"] for r in served}.isdisjoint({r["version"] for r in candidate})
    assert len(list(csv.DictReader((out / "results.csv").open()))) == 10

    def closed(*_):
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr("lib.evaluation.contenders._ask_model", closed)
        assert measure(pairs, pairs[:1], base, other, out, "cpu") == (served, candidate)
    # a next candidate: the rows of what is served are there
    third = tmp_path / "third" / "candidate.safetensors"
    third.parent.mkdir()
    torch.manual_seed(3)
    save_checkpoint(third, network.build(SMALL).state_dict(), SMALL)
    again, _ = measure(pairs, pairs[:1], base, third, out, "cpu")
    assert again == served
    assert len(list(csv.DictReader((out / "results.csv").open()))) == 15


def test_the_same_checkpoint_twice_differs_by_nothing(base: Path, pairs: list[Pair], tmp_path: Path):
    found = compare(*measure(pairs, [], base, base, tmp_path / "out", "cpu"), {})
    assert found.difference == found.low == found.high == 0
    assert not decide(found, found).publish


def test_a_case_that_cannot_be_measured_stops_it(base: Path, other: Path, pairs: list[Pair], tmp_path: Path):
    pairs[1].label.write_bytes(b"no volume")
    with pytest.raises(UserError, match="^case 1 could not be measured"):
        measure(pairs, [], base, other, tmp_path / "out", "cpu")


def test_nothing_to_measure(base: Path, other: Path, tmp_path: Path):
    assert measure([], [], base, other, tmp_path / "out", "cpu") == ([], [])
