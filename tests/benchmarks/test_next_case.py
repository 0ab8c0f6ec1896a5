"""The benchmark of the next case, small: it runs, and is far from what would be slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).with_name("next_case.py")
SLOW = 2000  # ms for half of the requests, on a machine that has other things to do


@pytest.mark.slow
def test_cases_of_a_pool_of_2000_come_quickly_and_each_to_one_person():
    options = ["--sizes", "2000", "--requests", "24", "--strategies", "biosam2,random", "--limit", "1e9"]
    done = subprocess.run([sys.executable, str(BENCHMARK), *options], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    rows = {cells[0].strip(): cells[1].strip() for cells in lines[2:]}
    assert set(rows) >= {"biosam2", "random", "biosam2, 8 at once", "biosam2, labels saved"}
    assert float(rows["biosam2"].split(",")[0]) < SLOW
