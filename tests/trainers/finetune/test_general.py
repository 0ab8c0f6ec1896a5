"""The general set."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lib.evaluation.cases import generated, generated_volumes
from lib.evaluation.study import read_study
from lib.trainers.finetune import general
from lib.trainers.finetune.general import SEED, general_set


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(general, "GENERATED", 3)
    monkeypatch.setattr(general, "COINS", 2)
    monkeypatch.setattr(general, "VOLUMES", 1)


def test_it_is_what_was_generated(tmp_path: Path):
    slices, volumes = general_set(tmp_path / "deep" / "set")
    assert (len(slices), len(volumes)) == (5, 1)
    by_name = {pair.name: pair for pair in slices}
    for case in generated(3, seed=SEED):
        study = read_study(by_name[case.name.replace(" ", "_")])
        assert np.array_equal(study.plane(0), case.plane)
        (structure,) = study.structures()
        assert np.array_equal(study.truth(structure)[0], case.truth)
    ((pixels, truth),) = islice(generated_volumes(1, seed=SEED), 1)
    study = read_study(volumes[0])
    assert study.volume.slice_axis == 2
    assert np.array_equal(np.moveaxis(study.volume.voxels, 2, 0), pixels)
    assert np.array_equal(study.truth(study.structures()[0]), truth)


def test_coins_are_bright_and_round(tmp_path: Path):
    slices, _ = general_set(tmp_path / "set")
    coins = [pair for pair in slices if pair.name.startswith("coin")]
    assert len(coins) == 2
    for pair in coins:
        study = read_study(pair)
        (structure,) = study.structures()
        truth, plane = study.truth(structure)[0], study.plane(0)
        rows, columns = (np.ptp(line) + 1 for line in np.nonzero(truth))
        assert 0.7 < truth.sum() / (rows * columns) < 0.85  # a circle: pi / 4
        assert plane[truth].mean() > plane[~truth].mean() + 40


def test_it_is_made_once(tmp_path: Path, monkeypatch):
    first = general_set(tmp_path / "set")
    monkeypatch.setattr(general, "_write", None)
    assert general_set(tmp_path / "set") == first


def test_it_is_whole_or_not_there(tmp_path: Path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(general.nib, "save", full)
        with pytest.raises(OSError, match="No space"):
            general_set(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch):
    real = general._write
    made = []

    def late(folder: Path) -> None:
        real(folder)
        if not made:
            made.append(1)
            made.append(general_set(tmp_path / "set"))

    monkeypatch.setattr(general, "_write", late)
    assert general_set(tmp_path / "set") == made[1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
