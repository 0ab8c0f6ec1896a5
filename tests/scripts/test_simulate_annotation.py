"""Annotation in small: real server and client, tiny volumes; alone, and in a crowd with a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from programs import REPOSITORY

MINUTES = 20
IMAGES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Volumes with a bright and a dim ball each, laid out as the Decathlon does."""
    folder = tmp_path_factory.mktemp("sets") / "balls"
    listed = []
    for n in range(IMAGES):
        rng = np.random.default_rng(n)
        labels, grid = np.zeros((40, 40, 6), np.uint8), np.indices((40, 40, 6))
        for value, centre, radius in ((1, (13, 14, 3), 7), (2, (29, 27, 2), 6)):
            at = np.array(centre) + [*rng.integers(-2, 3, 2), 0]
            labels[
                ((grid - at[:, None, None, None]) ** 2 * [[[[1]]], [[[1]]], [[[4]]]]).sum(0) < radius**2
            ] = value
        voxels = np.array([40, 220, 130])[labels] + rng.normal(0, 4, labels.shape)
        entry = {part: f"{part}s/ball{n:02d}.nii.gz" for part in ("image", "label")}
        for part, array in (("image", voxels.astype(np.uint8)), ("label", labels)):
            (folder / f"{part}s").mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), folder / entry[part])
        listed.append(entry)
    about = {"labels": {"0": "background", "1": "bright", "2": "dim"}, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def simulate(folder: Path, out: Path, *options: str) -> str:
    command = [sys.executable, "scripts/simulate_annotation", "--images", str(folder), "--out", str(out)]
    command += ["--hold-out", "2", "--settle", "0", *options]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=MINUTES * 60)
    logs = "".join(log.read_text()[-3000:] for log in out.glob("runs/*/server.log"))
    assert told.returncode == 0, told.stdout + told.stderr + logs
    return told.stdout


@pytest.mark.timeout(MINUTES * 60)
def test_a_person_clicks_through_cases_and_what_they_gave_is_on_the_server(folder, tmp_path):
    out = tmp_path / "alone"
    said = simulate(folder, out, "--strategy", "random", "--cases", "2", "--clicks", "both")
    assert "none is lost, none is doubled, every voxel is as it was submitted" in said

    submitted = pd.read_csv(out / "submitted.csv")
    assert submitted["labels"].tolist() == [1, 2] and submitted["image"].is_unique
    cases = pd.read_csv(out / "cases.csv")
    nothing = cases[cases["way"] == "nothing"]
    assert len(nothing) == 4 and set(nothing["structure"]) == {"bright", "dim"}
    assert (nothing["dice_start"] == 0).all() and nothing["clicks"].between(1, 20).all()
    assert (nothing["dice_end"] >= 0.9).any(), "a bright ball is found by a few clicks"
    holdout = pd.read_csv(out / "holdout.csv")
    assert len(holdout) == 2 * 2 * 2 and set(holdout["image"]).isdisjoint(submitted["image"])
    assert "| balls | random | 1 |" in (out / "report.md").read_text()

    on_disk = json.loads((out / "runs" / "balls-random-0" / "studies" / "datastore_v2.json").read_text())
    for image in submitted["image"]:
        info = on_disk["objects"][image]["labels"]["final"]["info"]["label_info"]
        assert info == [{"name": "bright", "idx": 1}, {"name": "dim", "idx": 2}]
    assert set(on_disk["objects"]).isdisjoint(holdout["image"])

    # a finished simulation is only told again
    simulate(folder, out, "--strategy", "random", "--cases", "2", "--clicks", "both")
    assert len(pd.read_csv(out / "submitted.csv")) == 2


@pytest.mark.timeout(MINUTES * 60)
def test_nothing_is_lost_or_doubled_by_annotators_at_once_with_a_restart_in_between(folder, tmp_path):
    out = tmp_path / "crowd"
    options = ["--strategy", "random", "--clicks", "none", "--submit", "truth"]
    said = simulate(folder, out, *options, "--annotators", "4", "--restart")
    assert "the server answers again" in said
    assert "18 labels of 4 annotators" in said and "none is lost, none is doubled" in said
    submitted = pd.read_csv(out / "submitted.csv")
    assert len(submitted) == IMAGES - 2 and submitted["image"].is_unique
    assert submitted["annotator"].nunique() > 1
