"""Versions on disk: what is served, going back, making room, and what a kill or a full disk leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path

import pytest

from lib.errors import NotFound, UserError
from lib.versions import store
from lib.versions.store import StoreError, Versions


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != store.LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- adding and serving --------------------------------------------------------------------------------


def test_without_versions_the_base_is_served(versions):
    assert versions.served_number() == 0
    assert versions.served_path() == versions.base
    assert versions.all() == []
    base = versions.get(0)
    assert (base.name, base.checkpoint, base.about["state"]) == ("nano", versions.base, "base")
    assert not versions.folder.exists(), "asking writes nothing"


def test_a_version_is_a_whole_folder_with_its_number_in_every_name(versions, add):
    version = add()
    assert (version.number, version.name, version.path.name) == (1, "nano-v1", "v1")
    assert version.checkpoint == versions.folder / "v1" / "nano-v1.safetensors"
    assert version.checkpoint.read_bytes() == b"weights 1"
    about = json.loads((version.path / "version.json").read_text())
    assert about == version.about
    assert about["checkpoint"] == hashlib.sha256(b"weights 1").hexdigest()[:12]
    assert (about["number"], about["name"], about["created"]) == (1, "nano-v1", "2026-11-22T03:00:00+00:00")
    assert (version.path / "holdout" / "worst" / "scan.png").exists()
    assert versions.served_number() == 0, "adding serves nothing"
    assert not list(versions.folder.glob(".new-*"))
    assert add().number == 2
    assert [version.number for version in versions.all()] == [1, 2]


def test_what_was_not_measured_is_null_and_a_missing_time_is_filled_in(versions, add):
    version = add(gate={"site": {"served": float("nan")}}, created="")
    assert version.about["gate"] == {"site": {"served": None}}
    prepared = versions.folder / ".new-2"
    prepared.mkdir()
    (prepared / "x.safetensors").write_bytes(b"2")
    assert versions.add(prepared, {"parent": 1}).about["created"].endswith("+00:00")


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"]])
def test_a_prepared_folder_needs_one_checkpoint(versions, names):
    prepared = versions.folder / ".new-1"
    prepared.mkdir(parents=True)
    for name in names:
        (prepared / name).touch()
    with pytest.raises(UserError, match=f"must hold one checkpoint, not {len(names)}"):
        versions.add(prepared, {})


def test_a_version_is_served_until_another_one_is(versions, add):
    first, second = add(), add(parent=1)
    other = Versions(versions.folder, versions.base)  # as in another process
    versions.serve(second.number)
    assert other.served_number() == 2
    assert other.served_path() == second.checkpoint
    versions.serve(first.number)
    assert other.served_path() == first.checkpoint
    versions.serve(0)
    assert other.served_path() == versions.base


def test_what_cannot_be_served_is_refused_in_a_sentence_and_changes_nothing(versions, add):
    first, second = add(), add()
    versions.serve(1)
    for number in (7, -1):
        with pytest.raises(NotFound, match=f"version {number} is not one of 0, 1, 2"):
            versions.serve(number)
    second.checkpoint.write_bytes(b"weights ?")
    with pytest.raises(UserError, match="version 2 is damaged"):
        versions.serve(2)
    second.checkpoint.unlink()
    with pytest.raises(NotFound, match="nano-v2.safetensors is not there"):
        versions.serve(2)
    assert versions.served_path() == first.checkpoint


def test_rollback_serves_the_parent_and_stops_at_the_base(versions, add):
    add()
    add(parent=1)
    add(parent=1, state="kept")
    versions.serve(3)
    assert versions.rollback() == 1
    assert versions.served_number() == 1
    assert versions.rollback() == 0
    assert versions.served_path() == versions.base
    with pytest.raises(UserError, match="there is no version before it"):
        versions.rollback()


# --- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"number": "1"}', '{"number": -1}', '{"number": true}', "\xff\xfe"]
)
def test_a_damaged_note_of_what_is_served_means_the_base_and_is_said_once(versions, add, caplog, text):
    add()
    versions.serve(1)
    (versions.folder / "served.json").write_text(text, encoding="latin-1")
    caplog.set_level(logging.ERROR)
    for _ in range(3):
        assert versions.served_path() == versions.base
    assert len(caplog.records) == 1 and "served.json is damaged" in caplog.text
    versions.serve(1)
    assert versions.served_number() == 1


def test_a_missing_file_is_replaced_by_its_nearest_ancestor_and_is_back_when_it_is(versions, add, caplog):
    first = add()
    second = add(parent=1)
    third = add(parent=2)
    versions.serve(3)
    kept = {version: version.checkpoint.read_bytes() for version in (second, third)}
    caplog.set_level(logging.ERROR)
    for version in (third, second):
        version.checkpoint.unlink()
    for _ in range(3):
        assert versions.served_path() == first.checkpoint
    assert versions.served_number() == 1
    assert len(caplog.records) == 1 and "nano-v3 is gone; nano-v1 is served" in caplog.text
    first.checkpoint.unlink()
    assert versions.served_path() == versions.base
    for version, data in kept.items():
        version.checkpoint.write_bytes(data)
    assert versions.served_path() == third.checkpoint


def test_ancestors_that_go_in_circles_end_at_the_base(versions, add):
    add(parent=2)
    add(parent=2)
    versions.serve(2)
    for version in versions.all():
        version.checkpoint.unlink()
    assert versions.served_path() == versions.base


def test_a_version_that_cannot_be_read_is_left_out_and_its_number_stays_taken(versions, add):
    for _ in range(2):
        add()
    (versions.folder / "v2" / "version.json").write_text("{")
    assert [version.number for version in versions.all()] == [1]
    with pytest.raises(NotFound):
        versions.serve(2)
    (versions.folder / ".new-x").mkdir()
    (versions.folder / ".new-x" / "x.safetensors").write_bytes(b"3")
    assert versions.add(versions.folder / ".new-x", {}).number == 3


def test_a_number_that_is_served_is_not_given_to_another_version(versions, add):
    add()
    versions.serve(1)
    os.rename(versions.folder / "v1", versions.folder.parent / "taken away")
    assert versions.served_path() == versions.base
    assert add().number == 2
    assert versions.served_path() == versions.base, "nobody has decided to serve the new one"


# --- making room ---------------------------------------------------------------------------------------


def test_pruning_keeps_the_newest_the_served_one_and_its_parent(versions, add):
    for parent in (0, 1, 2, 2, 4, 5):
        add(parent=parent)
    versions.serve(3)  # its parent is 2
    assert versions.prune(2) == [1, 4]
    assert [version.number for version in versions.all() if version.is_pruned] == [1, 4]
    assert [version.number for version in versions.all() if version.checkpoint.exists()] == [2, 3, 5, 6]
    assert (versions.folder / "v1" / "holdout" / "results.csv").exists()
    assert versions.get(1).about["reason"], "what is known of it stays"
    with pytest.raises(UserError, match="version 1 was pruned"):
        versions.serve(1)
    assert versions.prune(2) == []
    assert versions.rollback() == 2
    assert versions.base.exists()
    assert add().number == 7


def test_a_pruning_that_was_interrupted_is_finished_by_the_next(versions, add):
    for _ in range(3):
        add()
    versions.get(1).checkpoint.unlink()
    assert versions.prune(1) == [1, 2]


def test_at_least_one_version_is_kept(versions, add):
    add()
    with pytest.raises(UserError, match="at least 1, not 0"):
        versions.prune(0)
    assert versions.get(1).checkpoint.exists()


def test_cleaning_removes_what_was_prepared_and_nothing_else(versions, add):
    add()
    versions.serve(1)
    before = snapshot(versions.folder)
    (versions.folder / ".new-run" / "holdout").mkdir(parents=True)
    (versions.folder / ".new-run" / "holdout" / "x").write_text("x")
    versions.clean()
    assert snapshot(versions.folder) == before


# --- full disk, several writers, kill ------------------------------------------------------------------


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["os.rename", "os.replace", "os.fsync", "pathlib.Path.write_text"])
def test_a_full_disk_leaves_what_is_served_and_says_so(versions, add, monkeypatch, place):
    add()
    add()
    versions.serve(1)
    before = snapshot(versions.folder)
    with monkeypatch.context() as patch:
        patch.setattr(place, no_room)
        with pytest.raises(StoreError, match="could not be written .No space left on device.") as caught:
            add()
        assert caught.value.status == 507
        if place != "os.rename":  # which serving needs not
            with pytest.raises(StoreError, match="version 2 of nano"):
                versions.serve(2)
    assert versions.served_number() == 1
    versions.clean()
    assert {name: data for name, data in snapshot(versions.folder).items() if name in before} == before
    assert [version.number for version in versions.all()] == [1, 2]
    assert add().number == 3
    versions.serve(3)
    assert versions.served_number() == 3


def test_room_is_made_even_when_nothing_can_be_written(versions, add, monkeypatch):
    for _ in range(2):
        add()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", no_room)
        with pytest.raises(StoreError):
            versions.prune(1)
    assert not versions.get(1).checkpoint.exists()
    assert versions.prune(1) == [1]


def test_two_who_add_at_once_get_two_numbers(versions):
    def one(name: int) -> None:
        prepared = versions.folder / f".new-{name}"
        prepared.mkdir(parents=True)
        (prepared / "x.safetensors").write_bytes(b"%d" % name)
        Versions(versions.folder, versions.base).add(prepared, {"run": str(name)})

    threads = [threading.Thread(target=one, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.number for version in versions.all()] == list(range(1, 9))
    assert {version.about["run"] for version in versions.all()} == {str(name) for name in range(8)}


def _killed(
    versions: Versions, prepared: Path, action: str, place: str, fatal: int, moment: str
) -> None:  # runs in a process of its own
    real, calls = getattr(os, place), 0

    def deadly(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == fatal and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*args, **options)
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(os, place, deadly)
    version = versions.add(prepared, {"parent": 1})
    if action == "serve":
        versions.serve(version.number)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Each is forked from one that has torch imported, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lib.versions.store"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.11 does not hand it on by itself
        forkserver.ensure_running()
    return context


ADDING = [
    *[("rename", call, moment) for call in (1, 2) for moment in ("before", "after")],
    *[("replace", 1, moment) for moment in ("before", "after")],
    *[("fsync", call, "after") for call in (1, 4)],
]
SERVING = [("replace", 2, "before"), ("replace", 2, "after")]


@pytest.mark.parametrize(
    ("action", "place", "call", "moment"),
    [*[("add", *how) for how in ADDING], *[("serve", *how) for how in SERVING]],
)
def test_kill_9_while_a_version_is_made_leaves_whole_versions(
    versions, add, prepare, processes, action, place, call, moment
):
    first = add()
    versions.serve(1)
    before = snapshot(versions.folder)
    prepared = prepare(versions.folder / ".new-run", b"new weights")
    child = processes.Process(target=_killed, args=(versions, prepared, action, place, call, moment))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    replaced = action == "serve" and moment == "after"
    assert versions.served_number() == (2 if replaced else 1)
    assert versions.served_path().read_bytes() == (b"new weights" if replaced else b"weights 1")
    assert first.checkpoint.read_bytes() == b"weights 1"
    for version in versions.all():  # whatever is there is whole
        digits = hashlib.sha256(version.checkpoint.read_bytes()).hexdigest()[:12]
        assert version.about["checkpoint"] == digits
        assert (version.path / "holdout" / "worst" / "scan.png").exists()
    complete = action == "serve" or (place, call, moment) == ("rename", 2, "after")
    assert len(versions.all()) == (2 if complete else 1)
    versions.clean()
    after = snapshot(versions.folder)
    after.pop("served.json.part", None)
    if not complete:
        assert after == before
    following = add()  # the lock went with the process
    assert following.number == (3 if complete else 2)
    versions.serve(following.number)
    assert versions.served_path() == following.checkpoint
