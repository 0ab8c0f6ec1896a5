"""Cases to a target, and what is said of strategies on several splits."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from lib.evaluation import simulation_report
from lib.evaluation.learning_curve import (
    against_baseline,
    cases_to_target,
    curves,
    estimate,
    mean_dice,
    per_repeat,
    saved,
)


def holdout(speeds: dict[str, float], repeats: int = 4, name: str = "set") -> pd.DataFrame:
    """Dice that grows by `speed` with each label, a little faster in each repeat, the same everywhere."""
    return pd.DataFrame(
        [
            {"set": name, "strategy": strategy, "repeat": str(repeat), "labels": labels, "image": image,
             "structure": structure, "dice": min(1.0, labels * speed * (1 + repeat / 10))}
            for strategy, speed in speeds.items()
            for repeat in range(repeats)
            for labels in range(1, 31)
            for image in ("a", "b")
            for structure in ("one", "other")
        ]
    )  # fmt: skip


def test_the_target_is_reached_between_two_measurements():
    assert cases_to_target([1, 3, 5], [0.5, 0.7, 0.9], 0.8) == pytest.approx(4)
    assert cases_to_target([1, 3, 5], [0.5, 0.7, 0.9], 0.25) == pytest.approx(0.5)
    assert cases_to_target([2, 4], [0.5, 0.8], 0.8) == 4


def test_a_target_that_is_never_reached_needs_at_least_all_cases():
    assert cases_to_target([1, 3, 5], [0.5, 0.7, 0.6], 0.8) == 5


def test_the_first_time_counts_even_if_it_falls_again():
    assert cases_to_target([1, 2, 3], [0.9, 0.5, 0.95], 0.9) == pytest.approx(1)


def test_structures_count_the_same_however_many_rows_they_have():
    rows = [{"set": "s", "strategy": "x", "repeat": "0", "labels": 1, "structure": "a", "dice": 1.0}] * 3
    rows += [{**rows[0], "structure": "b", "dice": 0.0}]
    assert curves(pd.DataFrame(rows))["dice"].tolist() == [0.5]


def test_dice_on_the_way_is_the_mean_under_the_curve():
    assert mean_dice([1, 2, 4], [0.0, 1.0, 1.0]) == pytest.approx(2.5 / 3)
    assert mean_dice([3], [0.7]) == 0.7


def test_a_strategy_that_is_twice_as_fast_saves_half_of_the_cases():
    numbers = per_repeat(curves(holdout({"foreground_random": 0.04, "biosam2": 0.08})), 0.8)
    half = against_baseline(numbers, "set", "biosam2")
    assert half.value == pytest.approx(0.5) and half.low == pytest.approx(0.5) == half.high
    assert numbers["reached"].all()
    assert math.isnan(against_baseline(numbers, "set", "foreground_random").value)


def test_savings_are_paired_and_of_the_sums():
    found = saved([1, 1], [2, 8], ["a", "b"])
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(7 / 8)
    assert math.isnan(saved([], [], []).value)


def test_one_repeat_has_no_interval():
    assert estimate([3.0], ["0"]).shown() == "3.0"
    assert "to" in estimate([3.0, 5.0], ["0", "1"]).shown()


def test_the_report_has_a_row_for_each_strategy_and_the_mean_of_the_sets(tmp_path):
    both = pd.concat(
        [
            holdout({"foreground_random": 0.04, "biosam2": 0.08}, name="one"),
            holdout({"foreground_random": 0.05, "biosam2": 0.05}, name="other"),
        ]
    )
    cases = pd.DataFrame(
        [
            {"set": "one", "strategy": "biosam2", "repeat": "0", "image": image, "structure": "one",
             "way": way, "labels": labels, "clicks": clicks, "present": 1, "dice_start": 0.8, "seconds": 1.0}
            for image, labels in (("a", 1), ("b", 5), ("c", 7))
            for way, clicks in (("nothing", 10), ("pre-label", 4))
        ]
    )  # fmt: skip
    report = simulation_report.write(cases, both, tmp_path, 0.8)
    assert "biosam2: 25% (25% to 25%) fewer in the mean of the sets" in report
    assert "| one | biosam2 | 4 to 5 | 1 | 10.0 | 4.0 | 60% | 0.80 |" in report
    assert "| one | biosam2 | all | 3 | 10.0 (10.0 to 10.0) | 4.0 (4.0 to 4.0) | 60%" in report
    assert len(pd.read_csv(tmp_path / "strategies.csv")) == 4
    assert (tmp_path / "learning.png").stat().st_size > 5000
