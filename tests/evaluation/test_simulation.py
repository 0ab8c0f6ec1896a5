"""The annotation loop, with a stand-in for the server: what is asked, written down, gone on with, checked."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.evaluation.simulation import LabelledSet, Options, Run, Tables, digest, problems, together
from lib.evaluation.study import Structure
from lib.evaluation.table import Table

NAMES = {1: "large", 2: "small"}


class Datastore:
    """What several clients share: images without a label, and labels."""

    def __init__(self, images: list[str]) -> None:
        self.open, self.labels, self.lock = sorted(images), {}, threading.Lock()


class Fake:
    """A client of a server whose pre-labels are right once there is a label."""

    seconds = 0.0

    def __init__(self, store: Datastore, name: str = "one") -> None:
        self.store, self.name, self.trained, self.looked = store, name, [], []

    def offers_auto(self):
        return True

    def next_case(self, strategy):
        with self.store.lock:
            return self.store.open.pop(0) if self.store.open else None

    def pre_label(self, study, names):
        if not self.store.labels:
            return None
        return {name: study.truth(Structure(name, value)) for value, name in names.items()}

    def segment(self, study, names):
        self.looked.append(study.pair.name)
        return self.pre_label(study, names)

    def submit(self, study, labels, names):
        with self.store.lock:
            self.store.labels[study.pair.name] = labels

    def final_labels(self):
        return sorted(self.store.labels)

    def final_label(self, image):
        return self.store.labels[image]

    def train(self, settings):
        self.trained.append(len(self.store.labels))


@pytest.fixture
def data(tmp_path: Path, write_case) -> LabelledSet:
    pairs = []
    for n in range(6):
        name = f"sub-{n // 2}_ses-{n % 2}"
        image, label = (tmp_path / part / f"{name}.nii.gz" for part in ("images", "labels"))
        write_case(image, label, seed=n)
        pairs.append(Pair(name, image, label, NAMES))
    return LabelledSet.read("balls", pairs)


def make_run(data, tmp_path, **options):
    pool, held = data.split(2, 0)
    chosen = Options(**{"clicks": "none", "submit": "truth", "settle": 0, **options})
    lines: list[str] = []
    run = Run(data, "random", 0, held, chosen, Tables(tmp_path / "out"), lines.append)
    return run, pool, held, lines


def test_patients_are_held_out_whole_and_other_ones_in_each_repeat(data):
    assert data.structures == NAMES
    splits = [data.split(2, seed) for seed in range(8)]
    for pool, held in splits:
        assert sorted(pool + held) == sorted(data.studies)
        assert {i.split("_")[0] for i in pool}.isdisjoint(i.split("_")[0] for i in held)
    assert len({tuple(held) for _, held in splits}) == 3
    assert data.split(2, 3) == data.split(2, 3)
    assert len(data.split(2, 0, pool=1)[0]) == 1
    with pytest.raises(UserError, match="too few"):
        data.split(6, 0)


def test_the_truth_is_submitted_and_the_hold_out_looked_at(data, tmp_path):
    run, pool, held, _ = make_run(data, tmp_path, every=2)
    store = Datastore(pool)
    client = Fake(store)
    run.play(client)
    assert sorted(store.labels) == sorted(pool)
    for image, labels in store.labels.items():
        np.testing.assert_array_equal(labels, data.studies[image].labels)
    looks = [(r["labels"], r["image"], r["structure"], r["dice"]) for r in run.tables.holdout.rows.values()]
    assert looks == [(n, i, s, "1.00000") for n in ("1", "2", "4") for i in held for s in NAMES.values()]
    rows = list(run.tables.cases.rows.values())
    assert {r["way"] for r in rows} == {"pre-label"} and {r["clicks"] for r in rows} == {""}
    assert len(rows) == 2 * (len(pool) - 1)  # without a label there is no pre-label
    assert problems(client, run.submissions) == []


def test_a_run_goes_on_where_it_was_stopped(data, tmp_path):
    run, pool, held, _ = make_run(data, tmp_path, most=2)
    store = Datastore(pool)
    run.play(Fake(store))
    again, *_ = make_run(data, tmp_path)
    client = Fake(store)
    again.go_on(client)
    assert again.labelled == 2
    again.play(client)
    assert sorted(store.labels) == sorted(pool)
    assert len(client.looked) == 2 * len(held)  # after the third and the fourth label
    assert [r["labels"] for r in again.submissions] == ["1", "2", "3", "4"]


def test_a_label_of_somebody_else_is_noticed(data, tmp_path):
    run, pool, *_ = make_run(data, tmp_path)
    store = Datastore(pool)
    store.labels[pool[0]] = data.studies[pool[0]].labels
    with pytest.raises(UserError, match=f"has a label of {pool[0]} already"):
        run.go_on(Fake(store))


def test_training_is_asked_for_after_every_so_many_labels(data, tmp_path):
    run, pool, *_ = make_run(data, tmp_path, train_every=2)
    client = Fake(Datastore(pool))
    run.play(client)
    assert client.trained == [2, 4]


def test_several_annotators_share_the_pool_and_the_server_is_restarted_in_the_middle(data, tmp_path):
    run, pool, *_ = make_run(data, tmp_path)
    store, restarts = Datastore(pool), []
    clients = [Fake(store, name) for name in ("one", "two", "three")]
    together(run, clients, restart=lambda: restarts.append(run.labelled), after=0)
    assert sorted(store.labels) == sorted(pool) and run.labelled == len(pool)
    assert len(restarts) == 1
    assert problems(clients[0], run.submissions) == []


def test_an_annotator_that_fails_ends_it_for_all(data, tmp_path):
    run, pool, *_ = make_run(data, tmp_path)
    store = Datastore(pool)
    broken = Fake(store, "two")
    broken.submit = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        together(run, [broken, Fake(store)])


def test_what_is_lost_doubled_or_changed_is_said(data, tmp_path):
    run, pool, *_ = make_run(data, tmp_path)
    store = Datastore(pool)
    client = Fake(store)
    run.play(client)
    first, second, third = sorted(store.labels)[:3]
    submissions = [*run.submissions, {**run.submissions[0], "image": first, "annotator": "two"}]
    del store.labels[second]
    store.labels[third] = store.labels[third] * 0
    store.labels["stranger"] = store.labels[third]
    assert problems(client, submissions) == [
        "stranger was labelled by nobody.",
        f"{first} was annotated by one and two.",
        f"{second} was submitted by one, and the server has no label of it.",
        f"{third} has another label on the server than one submitted.",
    ]


def test_a_digest_is_of_the_voxels_alone():
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert digest(labels) == digest(np.asfortranarray(labels.astype(np.int16)))
    assert digest(labels) != digest(labels.reshape(4, 3, 2))


def test_without_clicks_only_the_truth_can_be_submitted():
    with pytest.raises(UserError, match="nothing to submit but the truth"):
        Options(clicks="none")


def test_a_table_is_read_again_and_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "table.csv"
    table = Table(path, ("a", "b"), ("a",))
    table.add({"a": "1", "b": "x"})
    with open(path, "a") as file:
        file.write("2,to")
    again = Table(path, ("a", "b"), ("a",))
    again.add({"a": "2", "b": "y"})
    assert Table(path, ("a", "b"), ("a",)).rows == {
        ("1",): {"a": "1", "b": "x"},
        ("2",): {"a": "2", "b": "y"},
    }
    with pytest.raises(UserError, match="another table"):
        Table(path, ("a", "c"), ("a",))
