"""The benchmark runs and prints a whole table; how fast anything is, is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).with_name("benchmark.py")
SMALLEST = {
    "--image-size": 256,
    "--memory-size": 512,
    "--side": 64,
    "--depth": 6,
    "--slices": 4,
    "--memory-slices": 4,
    "--busy-slices": 4,
    "--repeats": 1,
    "--threads": 1,
    "--device": "cpu",
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_prints_a_table_with_every_row_filled():
    options = [str(part) for pair in SMALLEST.items() for part in pair]
    done = subprocess.run([sys.executable, str(BENCHMARK), *options], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    assert header == ["what", "peer", "ours", "ratio", "asked"]
    assert all(len(row) == 5 and all(row) for row in rows)
    ours = {row[0]: row[2] for row in rows}
    for what in ("repeated click", "first propagation", "peak memory, 4 of 4 slices at 512"):
        assert ours[what] != "-"
    assert any(what.startswith("warm click over HTTP") for what in ours)
    assert any(what.startswith("- during a propagation of 4 slices") for what in ours)
    # no figures of speed, but what was done: one is forward only, the other goes both ways
    covered = next(row for row in rows if row[0] == "propagation: slices covered")
    assert covered[1:3] == ["2 of 4", "4 of 4"]


def test_an_unknown_section_is_refused_by_name():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--only", "clicks,speed"], capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "'speed'" in done.stderr
