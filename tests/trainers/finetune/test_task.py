"""Trainings from the datastore's labels to a version, and what may come between."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from monailabel.datastore.local import LocalDatastore
from safetensors.torch import load_file

from lib.errors import Conflict, UserError
from lib.sam.checkpoints import load_network
from lib.trainers.finetune import blend, gate, general, network, progress, samples, state, task, training
from lib.trainers.finetune.gate import Comparison, Verdict
from lib.trainers.finetune.progress import is_training, only_one, read_progress
from lib.versions.registry import Registry
from lib.versions.store import Version, Versions

from .conftest import NoRegistry, Studies, judged, label_three, make_small, patients, scan

FIGURES = Comparison(3, 0.5, 0.7, 0.2, 0.1, 0.3, 0.6, 0.8, {})
BETTER = Verdict(True, "Better: Dice 0.500 to 0.700 on 3 held-out patients.", FIGURES, FIGURES)
NOT_BETTER = Verdict(False, "Not better by more than the noise.", FIGURES, FIGURES)
QUICK = {"max_epochs": 1, "train_batch_size": 2, "clips": 0.3}
THREE = QUICK | {"max_epochs": 3}

Train = Callable[..., task.FinetuneTask]


def weights(version: Version) -> dict[str, torch.Tensor]:
    return load_file(version.checkpoint)


def alike(one: Version, other: Version) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def current(versions: Versions) -> Path:
    return versions.folder / "runs" / "current"


def says(versions: Versions) -> dict[str, Any]:
    found = read_progress(versions.folder / "runs")
    assert found is not None
    return found


@pytest.fixture
def other_place(tmp_path: Path, base: Path) -> Versions:
    return Versions.of(tmp_path / "elsewhere", base)


@pytest.fixture(scope="session")
def through(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """What a training of three epochs makes of the same labels when nothing comes between."""
    folder = tmp_path_factory.mktemp("through")
    found = Versions.of(folder / "versions", base)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        labelled = label_three(Studies(folder / "studies"))
        judged(task.FinetuneTask(found, NoRegistry(), "cpu"), BETTER)(dict(THREE), labelled)
    return found.get(1)


@pytest.fixture
def interrupt(monkeypatch) -> Callable[[int], None]:
    """Has the training end like that of a person who presses Ctrl-C, when it comes to a sample."""

    def at(number: int) -> None:
        real = samples.Samples.__getitem__

        def get(self, place):
            if self.numbers[place] == number:
                monkeypatch.setattr(samples.Samples, "__getitem__", real)
                raise KeyboardInterrupt
            return real(self, place)

        monkeypatch.setattr(samples.Samples, "__getitem__", get)

    return at


def stopped(made: task.FinetuneTask, request: dict, labelled: LocalDatastore) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(dict(request), labelled)


# From labels to a version


def test_what_is_better_is_published(train: Train, versions: Versions, labelled: LocalDatastore):
    registry = NoRegistry(down=True)  # and MLflow, which does not answer, stops nothing
    assert train().config()["learning_rate"] == train().config()["image_size"] == ""
    answer = train(BETTER, registry)(dict(QUICK, model="biosam2", run_sync=True), labelled)
    assert answer == {"version": "small-v1", "state": "published", "reason": BETTER.reason}
    assert registry.calls == ["open", "sync"]
    (version,) = versions.all()
    assert versions.served_number() == 1 and versions.served_path() == version.checkpoint
    about = version.about
    assert (about["parent"], about["state"], about["reason"]) == (0, "published", BETTER.reason)
    assert about["code"] == "test" and about["seconds"] > 0
    assert about["settings"]["max_epochs"] == 1 and about["settings"]["learning_rate"] is None
    first, second = patients(2, False)
    assert {one["image"]: (one["patient"], one["use"]) for one in about["labels"]} == {
        first: (first, "training"),
        second: (second, "training"),
        patients(1, True)[0]: (patients(1, True)[0], "hold-out"),
    }
    assert all(one["structures"] == ["lesion 1"] and len(one["sha256"]) == 12 for one in about["labels"])
    assert about["left_out"] == [] and about["gate"]["site"]["candidate"] == 0.7
    assert about["gate"]["general"]["margin"] == gate.MARGIN
    assert not current(versions).exists() and not list(versions.folder.glob(".new-*"))
    told = says(versions)
    assert (told["state"], told["message"], told["run"]) == ("done", BETTER.reason, about["run"])
    assert told["step"] <= told["steps"] == 3 and np.isfinite(told["loss"])


def test_what_was_learnt(train: Train, versions: Versions, base: Path, labelled: LocalDatastore):
    train(BETTER)(dict(QUICK), labelled)
    version = versions.get(1)
    load_network(version.checkpoint)
    before, after = load_file(base), weights(version)
    assert list(before) == list(after)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"image_encoder", "sam_mask_decoder"}
    assert all(torch.isfinite(value).all() for value in after.values())


def test_what_is_not_better_is_kept(train: Train, versions: Versions, base: Path, labelled: LocalDatastore):
    answer = train(NOT_BETTER)(dict(QUICK), labelled)
    assert (answer["version"], answer["state"]) == ("small-v1", "kept")
    assert versions.served_number() == 0 and versions.served_path() == base
    assert versions.get(1).about["state"] == "kept" and versions.get(1).checkpoint.is_file()
    assert says(versions)["message"] == NOT_BETTER.reason


def test_the_next_one_begins_where_the_served_one_is(
    train: Train, versions: Versions, labelled: LocalDatastore, monkeypatch
):
    loaded = []
    real = training.load_network
    monkeypatch.setattr(training, "load_network", lambda path, size: loaded.append(path) or real(path, size))
    for verdict in (BETTER, NOT_BETTER, BETTER):
        train(verdict)(dict(QUICK), labelled)
    assert [version.parent for version in versions.all()] == [0, 1, 1]
    assert loaded == [versions.base, versions.get(1).checkpoint, versions.get(1).checkpoint]
    assert versions.served_number() == 3


def test_old_versions_lose_their_weights(train: Train, versions: Versions, labelled: LocalDatastore):
    for _ in range(4):
        train(NOT_BETTER, keep=2)(dict(QUICK), labelled)
    assert [version.is_pruned for version in versions.all()] == [True, True, False, False]


@pytest.mark.parametrize(
    "chosen",
    [
        {"lora": True},
        {"gradient_checkpointing": True},
        {"memory": True},
        {"loss": "focal"},
        {"train_batch_size": 5, "learning_rate": "0.001", "seed": "7"},
    ],
)
def test_settings(train: Train, versions: Versions, base: Path, labelled: LocalDatastore, chosen: dict):
    train(BETTER)(QUICK | chosen, labelled)
    assert versions.get(1).about["settings"].items() >= {
        k: v for k, v in chosen.items() if k != "seed"
    }.items() - {("learning_rate", "0.001")}
    before, after = load_file(base), weights(versions.get(1))
    assert list(before) == list(after)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"image_encoder", "sam_mask_decoder"} <= changed and "sam_prompt_encoder" not in changed
    assert ("memory_encoder" in changed) == chosen.get("memory", False)


def test_curves_and_versions_are_in_mlflow(
    train: Train, versions: Versions, labelled: LocalDatastore, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = Registry(versions)
    train(BETTER, registry)(dict(QUICK), labelled)
    client = MlflowClient(tracking_uri=registry.uri)
    experiment = client.get_experiment_by_name(registry.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == versions.get(1).about["run"]
    curve = client.get_metric_history(run.info.run_id, "train_loss")
    assert len(curve) == 6 and all(np.isfinite(point.value) for point in curve)
    assert client.get_model_version_by_alias(registry.experiment, "served").tags["number"] == "1"


@pytest.mark.parametrize("total", [1, 2, 12, 400])
def test_the_rate_rises_and_falls(total: int):
    rates = [training._rate(step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    top = int(np.argmax(rates))
    assert top <= max(2, training.WARM_UP * total)
    assert all(np.diff(rates[: top + 1]) > 0) and all(np.diff(rates[top:]) < 0)
    if total > 10:
        assert max(rates) > 0.9 and rates[-1] < 0.1


# The gate


@pytest.fixture
def few(monkeypatch) -> None:
    """A general set of few."""
    for name, count in {"GENERATED": 2, "COINS": 0, "VOLUMES": 1}.items():
        monkeypatch.setattr(general, name, count)
    monkeypatch.setattr(gate, "FEWEST_PATIENTS", 3)


def test_a_hold_out_too_small_to_decide(train: Train, versions: Versions, labelled: LocalDatastore):
    answer = train()(dict(QUICK), labelled)
    assert answer["state"] == "kept" and versions.served_number() == 0
    assert answer["reason"].startswith(
        "The hold-out is too small to decide: it has 1 of at least 5 patients."
    )
    assert versions.get(1).about["gate"] == {}


def test_the_gate_measures_both(train: Train, versions: Versions, studies: Studies, few, monkeypatch):
    for seed, name in enumerate([*patients(1, False), *patients(3, True)]):
        studies.add(name, seed)
    monkeypatch.setattr(gate, "MOST_VOLUMES", 1)
    train()(dict(QUICK), studies.datastore())
    about = versions.get(1).about
    site, elsewhere = about["gate"]["site"], about["gate"]["general"]
    assert site["cases"] == site["structures"]["lesion 1"]["cases"] == 3 and elsewhere["cases"] == 3
    assert site["difference"] == pytest.approx(site["candidate"] - site["served"])
    assert (about["state"] == "published") == (site["low"] > 0 and elsewhere["difference"] >= -0.02)
    holdout = versions.get(1).path / "holdout"
    assert about["share"] in blend.SHARES
    assert (holdout / "results.csv").is_file() and list((holdout / "worst").glob("*.npz"))
    assert (versions.folder / "general" / "results" / "results.csv").is_file()


@pytest.mark.parametrize(("lost", "share"), [((0,), 1.0), ((0.1, 0.03, 0.01), 0.5), ((0.1,) * 4, 0.3)])
def test_as_much_as_forgets_nothing_else(
    train: Train,
    versions: Versions,
    base: Path,
    studies: Studies,
    few,
    monkeypatch,
    lost: tuple[float, ...],
    share: float,
):
    for seed, name in enumerate([*patients(1, False), *patients(3, True)]):
        studies.add(name, seed)
    general_set = iter(lost)
    asked: list[tuple[Path, Path]] = []

    def measure(slices, volumes, served, candidate, *_):
        asked.append((served, load_file(candidate)))
        return [], []

    def compare(*given):
        return FIGURES if given[2] else replace(FIGURES, difference=-next(general_set))

    train(BETTER)(dict(QUICK, seed=1), studies.datastore())
    versions.serve(1)
    monkeypatch.setattr(gate, "measure", measure)
    monkeypatch.setattr(gate, "compare", compare)
    train()(dict(QUICK, seed=2), studies.datastore())
    about = versions.get(2).about
    assert about["share"] == share
    assert about["state"] == ("kept" if lost[-1] > gate.MARGIN else "published")
    # what is forgotten counts from the base on, and what is better from what is served
    assert [served for served, _ in asked] == [base] * len(lost) + [versions.get(1).checkpoint]
    assert next(general_set, None) is None
    # the candidate that was measured last is what is kept, and lies on the way from what was served
    kept, full, start = weights(versions.get(2)), asked[0][1], weights(versions.get(1))
    assert all(torch.equal(kept[name], asked[-1][1][name]) for name in kept)
    for name in ("image_encoder.neck.convs.0.conv.weight", "sam_prompt_encoder.no_mask_embed.weight"):
        between = start[name].float().lerp(full[name].float(), share)
        assert torch.allclose(kept[name].float(), between, atol=1e-3)


def test_all_held_out_patients_are_measured(
    train: Train, versions: Versions, studies: Studies, few, monkeypatch
):
    """However many images one of them has."""
    asked = []
    monkeypatch.setattr(gate, "MOST_CASES", 4)
    monkeypatch.setattr(gate, "measure", lambda slices, volumes, *_: asked.append(slices) or ([], []))
    monkeypatch.setattr(gate, "compare", lambda *_: FIGURES)
    first, second, third = patients(3, True)
    for name in [*(f"{first}_{n}" for n in range(6)), second, third, *patients(1, False)]:
        studies.add(name)
    train()(dict(QUICK), studies.datastore())
    assert [pair.name for pair in asked[-1]] == [f"{first}_0", second, third, f"{first}_1"]


def test_pictures_are_no_volumes(train: Train, versions: Versions, studies: Studies, few, monkeypatch):
    from PIL import Image

    asked = []
    monkeypatch.setattr(gate, "measure", lambda *given: asked.append(given[:2]) or ([], []))
    monkeypatch.setattr(gate, "compare", lambda *_: FIGURES)
    for seed, name in enumerate([*patients(3, True), *patients(1, False)]):
        image, labels = scan(seed, (44, 36, 1))
        picture = (image[..., 0] / 8).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture.T).save(studies.folder / f"{name}.png")
        sent = studies.folder.parent / f"{name}.png"
        Image.fromarray(labels[..., 0].T).save(sent)
        studies.datastore().save_label(name, str(sent), "final", {"label_info": [{"name": "cell", "idx": 1}]})
    train()(dict(QUICK), studies.datastore())
    slices, volumes = asked[-1]
    assert len(slices) == 3 and volumes == []
    # and they can be measured: image and label lie on the same grid
    base = versions.base
    monkeypatch.undo()
    found, _ = gate.measure(slices, [], base, base, studies.folder / "out", "cpu")
    assert len(found) == 6


# What cannot be learnt from


def test_no_labels(train: Train, versions: Versions, studies: Studies):
    studies.image("scan", scan()[0])
    with pytest.raises(UserError, match="no image has a final label that can be used"):
        train(BETTER)(dict(QUICK), studies.datastore())
    assert says(versions)["state"] == "failed" and "nothing to learn from" in says(versions)["message"]
    assert not versions.all() and not is_training(versions.folder / "runs")


def test_only_held_out_patients(train: Train, studies: Studies):
    for name in patients(2, True):
        studies.add(name)
    with pytest.raises(
        UserError, match="of 2 labelled images 2 can be used, and all of these belong to held"
    ):
        train(BETTER)(dict(QUICK), studies.datastore())


def test_labels_of_no_use_are_left_out_with_the_reason(train: Train, versions: Versions, studies: Studies):
    good, empty, beside, damaged, gone, tiny = patients(6, False)
    image, labels = scan()
    for name in (good, empty, beside, damaged, gone, tiny):
        studies.image(name, image)
        studies.label(name, labels, {1: "liver"})
    studies.label(empty, 0 * labels)
    dot = 0 * labels
    dot[20:22, 20:22] = 1
    studies.label(tiny, dot)
    far = np.eye(4)
    far[:3, 3] = 9000
    studies.label(beside, labels, affine=far)
    datastore = studies.datastore()
    (studies.folder / "labels" / "final" / f"{damaged}.nii.gz").write_bytes(b"no volume")
    (studies.folder / f"{gone}.nii.gz").unlink()
    train(NOT_BETTER)(dict(QUICK), datastore)
    about = versions.get(1).about
    assert [one["image"] for one in about["labels"]] == [good]
    reasons = {one["image"]: one["reason"] for one in about["left_out"]}
    assert reasons[empty] == f"the label of image {empty} is empty."
    assert "outside the image" in reasons[beside] and "deleted" in reasons[gone]
    assert reasons[tiny] == f"no structure of image {tiny} has 9 pixels on a slice."
    assert set(reasons) == {empty, beside, damaged, gone, tiny}


def test_a_wrong_setting_starts_nothing(train: Train, versions: Versions, labelled: LocalDatastore):
    with pytest.raises(UserError, match="max_epochs must be"):
        train(BETTER)({"max_epochs": 0}, labelled)
    assert not (versions.folder / "runs").exists()


def test_a_device_that_is_not_there(train: Train, versions: Versions, labelled: LocalDatastore):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(UserError, match="device cuda is not available on this server"):
        train(BETTER)(dict(QUICK, device="cuda"), labelled)


# A loss that is no number


def spoil(monkeypatch, which: Callable[[int], bool]) -> None:
    """Losses that are NaN at some of the samples, by their turn."""
    count = iter(range(10**6))
    for name in ("image_loss", "clip_loss"):
        real = getattr(network, name)

        def loss(*given, real=real):
            return real(*given) * (float("nan") if which(next(count)) else 1.0)

        monkeypatch.setattr(network, name, loss)


@pytest.mark.parametrize("most", [2, 20])  # also where there are fewer steps than these
def test_a_loss_that_is_never_a_number(
    train: Train, versions: Versions, labelled: LocalDatastore, monkeypatch, most: int
):
    monkeypatch.setattr(training, "MOST_SKIPPED", most)
    spoil(monkeypatch, lambda turn: True)
    with pytest.raises(
        UserError, match="The loss was not a finite number in 3 steps in a row: nothing was pub"
    ):
        train(BETTER)(dict(QUICK), labelled)
    told = says(versions)
    assert told["state"] == "failed" and "Try a lower learning_rate." in told["message"]
    json.dumps(told, allow_nan=False)
    assert not versions.all() and versions.served_number() == 0


def test_a_few_steps_that_are_no_numbers_are_left_out(
    train: Train, versions: Versions, base: Path, labelled: LocalDatastore, monkeypatch
):
    spoil(monkeypatch, lambda turn: turn in (0, 3))  # of the first two of three steps
    train(BETTER)(dict(QUICK), labelled)
    before, after = load_file(base), weights(versions.get(1))
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


# Only one


def test_two_at_once(train: Train, versions: Versions, labelled: LocalDatastore, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    with only_one(versions.folder / "runs"):
        progress.Progress(versions.folder / "runs", "first").say("running", step=3)
        with pytest.raises(Conflict, match="A training runs already"):
            train(BETTER)(dict(QUICK), labelled)
        assert says(versions)["run"] == "first" and says(versions)["state"] == "running"


# Interrupted, and gone on with


def test_it_ends_where_one_that_ran_through_ends(
    train: Train, versions: Versions, through: Version, labelled: LocalDatastore, interrupt
):
    made = train(BETTER)
    interrupt(8)  # in the second of three epochs of 6 samples
    stopped(made, THREE, labelled)
    first = json.loads((current(versions) / "plan.json").read_text())["run"]
    assert says(versions)["state"] == "failed" and not versions.all()
    made(dict(THREE), labelled)
    assert versions.get(1).about["run"] == says(versions)["run"] == first
    assert alike(through, versions.get(1))


def test_so_does_one_with_loras_additions(
    train: Train, versions: Versions, other_place: Versions, labelled: LocalDatastore, interrupt
):
    train(BETTER)(THREE | {"lora": True}, labelled)
    made = judged(task.FinetuneTask(other_place, NoRegistry(), "cpu"), BETTER)
    interrupt(8)
    stopped(made, THREE | {"lora": True}, labelled)
    made(THREE | {"lora": True}, labelled)
    assert alike(versions.get(1), other_place.get(1))


def test_a_damaged_state_and_another_plan(
    train: Train,
    versions: Versions,
    through: Version,
    labelled: LocalDatastore,
    studies: Studies,
    interrupt,
    caplog,
):
    caplog.set_level("INFO", "lib.trainers.finetune.state")
    made = train(BETTER)
    interrupt(13)
    stopped(made, THREE, labelled)
    newest = current(versions) / "checkpoint_2.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    made(dict(THREE), labelled)
    assert "going on after epoch 1" in caplog.text
    assert alike(through, versions.get(1))
    # other labels: nothing is gone on with
    interrupt(7)
    stopped(made, THREE, labelled)
    caplog.clear()
    studies.add(patients(3, False)[-1], 9)
    made(dict(QUICK), studies.datastore())
    assert "going on" not in caplog.text
    assert len(versions.get(2).about["labels"]) == 4


def test_a_disk_that_was_full_when_all_was_learnt(
    train: Train, versions: Versions, through: Version, labelled: LocalDatastore, monkeypatch
):
    made = train(BETTER)

    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(training, "save_checkpoint", full)
        made(dict(THREE), labelled)
    assert says(versions)["message"] == "The training could not go on: No space left on device."
    made(dict(THREE), labelled)
    assert alike(through, versions.get(1))


def test_a_training_on_a_disk_that_fills_up(
    train: Train, versions: Versions, labelled: LocalDatastore, monkeypatch
):
    """A real one, just large enough for the slices and half a state."""
    runs = current(versions)
    runs.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs.parent)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a disk")
    try:
        with pytest.raises(Exception):  # noqa: B017
            train(BETTER)(dict(THREE), labelled)
        told = says(versions)
        assert told["state"] == "failed" and "No space left on device" in told["message"]
        assert not list(runs.glob("*.pt")) and not list(runs.glob("tmp*"))
        assert versions.served_number() == 0 and not versions.all()
        assert not is_training(versions.folder / "runs")
    finally:
        subprocess.run(["umount", "-l", str(runs.parent)], check=True)
    train(BETTER)(dict(QUICK), labelled)
    assert versions.served_number() == 1


# Killed. Each child is a process of its own, which nobody can ask to end in good order.


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], Any]], multiprocessing.process.BaseProcess]]:
    """Runs something in a process."""
    started = []

    def run(work: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def kill_me(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_in_the_middle_of_training(
    train: Train, versions: Versions, base: Path, labelled: LocalDatastore, child, monkeypatch
):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    made = train(BETTER)
    process = child(lambda: made(dict(THREE), labelled))
    end = time.monotonic() + 60
    while not list(current(versions).glob("checkpoint_1.pt")) or says(versions).get("step", 0) < 4:
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)
    assert says(versions)["state"] == "running" and is_training(versions.folder / "runs")
    process.kill()
    process.join()
    assert versions.served_path() == base and not versions.all()
    assert not is_training(versions.folder / "runs")
    told = says(versions)
    assert (told["state"], told["message"]) == ("cancelled", "It was stopped before its end.")
    trained = []
    real = samples.Samples.__getitem__
    monkeypatch.setattr(
        samples.Samples, "__getitem__", lambda self, n: trained.append(self.numbers[n]) or real(self, n)
    )
    made(dict(THREE), labelled)
    assert trained[0] in (6, 12)  # with the second epoch, or the third
    assert versions.get(1).about["run"] == says(versions)["run"] == told["run"]


@pytest.mark.parametrize("where", ["measuring", "adding", "naming"])
def test_killed_before_it_is_a_version(
    train: Train, versions: Versions, base: Path, labelled: LocalDatastore, child, monkeypatch, where: str
):
    made = train(BETTER)
    with monkeypatch.context() as patch:
        if where == "measuring":
            patch.setattr(made, "_choose", kill_me)
        elif where == "adding":
            patch.setattr(Versions, "add", kill_me)
        else:
            real = os.rename
            patch.setattr(os, "rename", lambda a, b: kill_me() if Path(b).name == "v1" else real(a, b))
        process = child(lambda: made(dict(QUICK), labelled))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(versions.folder.glob(".new-*")) and not versions.all()
    assert versions.served_path() == base and not is_training(versions.folder / "runs")
    run = json.loads((current(versions) / "plan.json").read_text())["run"]

    def again(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training.BasicTrainTask, "train", again)
    made(dict(QUICK), labelled)
    assert not list(versions.folder.glob(".new-*")) and versions.served_number() == 1
    assert [version.about["run"] for version in versions.all()] == [run]


def test_killed_just_before_it_is_served(
    train: Train, versions: Versions, base: Path, labelled: LocalDatastore, child, monkeypatch
):
    made = train(BETTER)
    with monkeypatch.context() as patch:
        patch.setattr(Versions, "serve", kill_me)
        process = child(lambda: made(dict(QUICK), labelled))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert versions.served_path() == base and len(versions.all()) == 1
    made(dict(QUICK), labelled)
    assert len(versions.all()) == 1 and versions.served_number() == 1
    assert not current(versions).exists()


def test_killed_while_a_state_is_written(
    train: Train, versions: Versions, labelled: LocalDatastore, child, monkeypatch
):
    made = train(BETTER)
    with monkeypatch.context() as patch:
        real = os.replace
        patch.setattr(
            os, "replace", lambda a, b: kill_me() if Path(b).name == "checkpoint_2.pt" else real(a, b)
        )
        process = child(lambda: made(dict(THREE), labelled))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in current(versions).glob("*.pt")] == ["checkpoint_1.pt"]
    made(dict(THREE), labelled)
    assert versions.served_number() == 1 and not current(versions).exists()


def test_a_plan_is_not_lost_by_a_failure(
    train: Train, versions: Versions, labelled: LocalDatastore, interrupt
):
    interrupt(7)
    stopped(train(BETTER), THREE, labelled)
    assert (current(versions) / state.PLAN).exists()
