"""The story of a server that learns, in small: real server, real client, real slices, a short training."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
from programs import REPOSITORY

MINUTES = 30


@pytest.mark.timeout(MINUTES * 60)
def test_labels_are_learnt_from_and_what_is_better_is_served(tmp_path):
    out = tmp_path / "story"
    command = [sys.executable, "scripts/learning_story", str(out), "--labels", "4"]
    command += ["--set", "max_epochs=1", "clips=0"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=MINUTES * 60)
    assert told.returncode == 0, told.stdout + told.stderr + (out / "server.log").read_text()[-3000:]

    rows = pd.read_csv(out / "dice.csv")
    assert list(rows["labels"].unique()) == [0, 4] and (rows.groupby("labels").size() == 8).all()
    before, after = rows.groupby("labels")["dice"].mean()

    (folder,) = (out / "versions" / "biosam2_nano").glob("v[0-9]*")
    about = json.loads((folder / "version.json").read_text())
    used = {label["use"]: 0 for label in about["labels"]}
    for label in about["labels"]:
        used[label["use"]] += 1
        assert label["structures"] == ["white matter"]
        assert label["image"].startswith("left" if label["use"] == "training" else "right")
    assert used == {"training": 4, "hold-out": 6}

    # the gate's word is kept: what people get changes if, and only if, it said so
    site, general = about["gate"]["site"], about["gate"]["general"]
    better = site["low"] > 0 and general["difference"] >= -general["margin"]
    assert about["state"] == ("published" if better else "kept")
    served = out / "versions" / "biosam2_nano" / "served.json"
    assert (served.exists() and json.loads(served.read_text())["number"] == 1) == better
    assert (before != after) == better
    assert site["candidate"] > site["served"]
    assert (out / "learning.png").stat().st_size > 10_000
    assert "| 4 |" in (out / "table.md").read_text()
