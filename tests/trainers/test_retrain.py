"""Retraining: when a training is due, what it waits for, and what is known of it after a restart."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from lib.trainers.retrain import state as state_module
from lib.trainers.retrain.plan import Plan
from lib.trainers.retrain.retraining import IDLE, PEOPLE, RECOUNT_EVERY, TRAINING, Retraining, Training
from lib.trainers.retrain.state import State, load, save

ZONE = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 20, 12, tzinfo=ZONE)  # a Friday
NIGHT = "0 3 * * *"
APP = Path(state_module.__file__).resolve().parents[3]


class Server:
    """What `Retraining` sees of the server, as a test sets it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "retraining.json"
        self.now, self.labels, self.idle = NOON, {}, 1e9
        self.training: Training | None = None
        self.started: list[str] = []
        self.refuse: Exception | None = None

    def retraining(self, plan: str, when: str = "idle") -> Retraining:
        """A new one, as after a start of the server."""
        return Retraining(
            Plan.parse(plan),
            self.file,
            labels=lambda: dict(self.labels),
            start=self.start,
            newest=lambda: self.training,
            idle=lambda: self.idle,
            when=when,
            clock=lambda: self.now,
        )

    def start(self) -> str | None:
        if self.refuse:
            raise self.refuse
        if self.training and self.training.state == "running":
            return None
        self.started.append(f"training {len(self.started) + 1}")
        self.training = Training(self.started[-1], "running", self.now)
        return self.started[-1]

    def ask(self, id: str) -> None:
        """A person starts a training."""
        self.training = Training(id, "running", self.now)

    def end(self, state: str = "done", message: str = "") -> None:
        assert self.training
        self.training = replace(self.training, state=state, message=message)

    def label(self, *images: str, content: str = "first") -> None:
        self.labels.update(dict.fromkeys(images, content))

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def look(retraining: Retraining) -> dict:
    """What is told after a look that counts the labels."""
    retraining.labels_changed()
    retraining.look()
    return retraining.status()


# The plan


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("off", None),
        ("20", Plan(20)),
        ("1 Label", Plan(1)),
        ("0 3 * * *", Plan(None, NIGHT)),
        (" 0  3 * * * ;20 labels ", Plan(20, NIGHT)),
    ],
)
def test_a_plan_is_read_and_written(text, plan):
    assert Plan.parse(text) == plan
    assert plan is None or Plan.parse(str(plan)) == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "0",
        "2000000",
        "twenty",
        "20 cases",
        "20;",
        "1;2",
        f"{NIGHT};{NIGHT}",
        "0 3 * *",
        "0 3 * * * *",
    ]
    + ["0 24 * * *", "0 3 31 2 *", "0 3 * * 8", "0 3 * * someday", "@daily", "a b c d e"],
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ValueError):
        Plan.parse(text)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", "Sat 21 03:00"),
        ("*/20 * * * *", "Fri 20 12:20"),
        ("0 3 * * 0", "Sun 22 03:00"),
        ("0 3 * * 7", "Sun 22 03:00"),
        ("0 3 * * 1-5", "Mon 23 03:00"),
        ("0 3 * * MON,wed", "Mon 23 03:00"),
        ("0 3 * * sun-thu", "Sun 22 03:00"),
        ("0 3 * * sat-mon", "Sat 21 03:00"),
        ("0 3 * * */3", "Sat 21 03:00"),
        ("0 3 1 * 0", "Sun 22 03:00"),
        ("0 3 21 * 0", "Sat 21 03:00"),
    ],
)
def test_times_are_those_of_a_crontab(cron, expected):
    assert Plan.parse(cron).next_time(NOON).strftime("%a %d %H:%M") == expected


def test_the_next_time_is_later_and_meant_in_the_zone_of_the_clock():
    plan = Plan.parse("0 3 * * *")
    first = datetime(2026, 10, 24, 3, tzinfo=ZONE)
    second = plan.next_time(first)
    assert second == datetime(2026, 10, 25, 3, tzinfo=ZONE)
    # the clocks go back in this night
    assert second.timestamp() - first.timestamp() == 25 * 3600


# Every N labels


def test_so_many_new_labels_start_one_training(server):
    retraining = server.retraining("2 labels")
    server.label("a")
    told = look(retraining)
    assert (told["new_labels"], told["labels_needed"], told["due"], told["last"]) == (1, 2, False, None)
    assert server.started == []

    server.label("b")
    told = look(retraining)
    assert server.started == ["training 1"]
    assert (told["new_labels"], told["due"], told["waiting_for"]) == (0, False, None)
    assert told["last"] == {
        "started": "2026-11-20T12:00:00+01:00",
        "ended": None,
        "because": "2 labels are new or changed.",
        "result": "It runs.",
    }

    server.later(minutes=5)
    server.end(message="version 1 is served")
    told = look(retraining)
    assert told["last"]["ended"] == "2026-11-20T12:05:00+01:00"
    assert told["last"]["result"] == "done: version 1 is served"
    assert look(retraining)["new_labels"] == 0
    assert server.started == ["training 1"]


def test_a_label_counts_once_and_again_when_it_is_another(server):
    retraining = server.retraining("2 labels")
    server.label("a")
    look(retraining)
    server.label("a", content="second")
    assert look(retraining)["new_labels"] == 1

    server.label("b")
    look(retraining)
    server.end()
    server.label("a", content="second")  # submitted again as it was
    assert look(retraining)["new_labels"] == 0
    server.label("a", content="third")
    assert look(retraining)["new_labels"] == 1


def test_labels_that_come_while_it_trains_count_for_the_next_one(server):
    retraining = server.retraining("1 label")
    server.label("a")
    look(retraining)
    server.label("b")
    told = look(retraining)
    assert (told["new_labels"], told["due"], told["waiting_for"]) == (1, True, TRAINING)
    assert server.started == ["training 1"]
    server.end()
    look(retraining)
    assert server.started == ["training 1", "training 2"]


def test_labels_that_come_in_another_way_are_found_after_a_while(server):
    retraining = server.retraining("1 label")
    retraining.look()
    server.label("a")
    server.later(seconds=10)
    retraining.look()
    assert server.started == []
    server.now += RECOUNT_EVERY
    retraining.look()
    assert server.started == ["training 1"]


def test_a_training_is_not_due_any_more_when_its_labels_are_deleted(server):
    retraining = server.retraining("1 label")
    server.label("a")
    server.idle = 0
    assert look(retraining)["due"]
    server.labels.clear()
    told = look(retraining)
    assert (told["due"], told["waiting_for"]) == (False, None)


def test_labels_that_cannot_be_counted_are_said_once_and_counted_later(server, caplog):
    retraining = server.retraining("1 label")
    server.labels = None  # type: ignore[assignment]  # dict(None) raises
    for _ in range(3):
        assert look(retraining)["new_labels"] is None
    assert caplog.text.count("cannot be counted now") == 1
    server.labels = {"a": "first"}
    look(retraining)
    assert server.started == ["training 1"]


# At a time


def test_a_time_starts_a_training_if_there_are_new_labels(server):
    retraining = server.retraining(NIGHT)
    server.label("a")
    told = look(retraining)
    assert told["next_time"] == "2026-11-21T03:00:00+01:00"
    assert told["labels_needed"] is None
    server.later(hours=14, minutes=59)
    retraining.look()
    assert server.started == []
    server.later(minutes=1)
    retraining.look()
    assert server.started == ["training 1"]
    assert retraining.status()["last"]["because"] == "The time 0 3 * * * has come."
    server.end()
    server.later(seconds=10)
    retraining.look()
    assert server.started == ["training 1"]


def test_a_time_without_new_labels_starts_nothing_and_says_so(server):
    retraining = server.retraining(NIGHT)
    retraining.look()
    server.later(hours=15)
    retraining.look()
    told = retraining.status()
    assert server.started == []
    assert not told["due"]
    assert told["note"] == (
        "Nothing was started at 2026-11-21 03:00: no label is new or changed since the last training."
    )
    server.label("a")
    server.later(hours=24)
    retraining.look()
    assert server.started == ["training 1"]
    assert retraining.status()["note"] is None


def test_a_night_that_was_missed_is_made_up_for_once_after_the_restart(server):
    server.label("a")
    server.retraining(NIGHT).look()
    server.later(days=3)
    retraining = server.retraining(NIGHT)
    retraining.look()
    server.end()
    server.later(seconds=10)
    server.label("b")
    look(retraining)
    assert server.started == ["training 1"]


def test_another_plan_does_not_make_up_for_times_before_it(server):
    server.label("a")
    server.retraining(NIGHT).look()
    server.later(days=1)
    server.retraining("30 2 * * *").look()
    assert server.started == []


def test_a_plan_that_was_off_for_a_while_does_not_make_up_for_it(server):
    server.label("a")
    server.retraining(NIGHT).look()
    off = server.retraining("off")
    off.start()
    assert off.status()["plan"] == "off"
    server.later(days=1)
    server.retraining(NIGHT).look()
    assert server.started == []


def test_off_does_nothing_and_leaves_nothing(server):
    retraining = server.retraining("off")
    server.label("a")
    retraining.start()
    told = look(retraining)
    retraining.stop()
    assert (told["plan"], told["new_labels"], told["next_time"], told["due"]) == ("off", None, None, False)
    assert not server.file.exists()


# Never two at once


def test_two_triggers_at_once_start_one_training(server):
    retraining = server.retraining(f"1 label; {NIGHT}")
    retraining.look()
    server.label("a")
    server.later(hours=15)
    retraining.labels_changed()
    gate = threading.Barrier(4)

    def look_at_once(_: int) -> None:
        gate.wait(5)
        retraining.look()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look_at_once, range(4)))
    server.end()
    look(retraining)
    assert server.started == ["training 1"]


def test_what_is_due_while_a_person_trains_waits_for_it(server):
    retraining = server.retraining(NIGHT)
    retraining.look()
    server.later(hours=14)
    server.label("a")
    look(retraining)
    server.ask("by hand")
    assert look(retraining)["last"]["because"] == "It was asked for."
    server.later(hours=1)
    told = look(retraining)
    assert not told["due"]  # the training that runs has all labels
    server.later(days=1)
    server.label("b")
    told = look(retraining)
    assert (told["due"], told["waiting_for"]) == (True, TRAINING)
    assert server.started == []
    server.end()
    look(retraining)
    assert server.started == ["training 1"]


def test_a_label_saved_after_a_person_has_started_one_was_not_trained_on(server):
    retraining = server.retraining("5 labels")
    server.label("a")
    look(retraining)
    server.ask("by hand")
    server.label("b")
    assert look(retraining)["new_labels"] == 1


def test_a_person_who_is_quicker_is_left_to_it(server):
    retraining = server.retraining("1 label")
    server.label("a")
    server.start = lambda: None  # type: ignore[method-assign]
    told = look(server.retraining("1 label"))
    assert (told["due"], told["waiting_for"], told["last"]) == (True, TRAINING, None)
    server.ask("by hand")
    told = look(retraining)
    assert (told["due"], told["new_labels"]) == (False, 0)


# People first


def test_it_waits_while_people_annotate(server, caplog):
    retraining = server.retraining("1 label")
    server.label("a")
    server.idle = IDLE - 1
    told = look(retraining)
    assert (told["due"], told["waiting_for"]) == (True, PEOPLE)
    server.later(hours=23)
    retraining.look()
    assert "still waits" not in caplog.text
    server.later(hours=1)
    for _ in range(3):
        retraining.look()
    assert caplog.text.count("a training is due since 2026-11-20T12:00:00+01:00 and still waits for") == 1
    assert server.started == []
    server.idle = IDLE
    retraining.look()
    assert server.started == ["training 1"]


def test_it_does_not_wait_for_people_when_told_so(server):
    server.label("a")
    server.idle = 0
    look(server.retraining("1 label", when="always"))
    assert server.started == ["training 1"]


# When a training fails


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_one_that_failed_is_tried_again_at_the_next_time_or_with_new_labels(server, state):
    retraining = server.retraining(f"2 labels; {NIGHT}")
    server.label("a", "b")
    look(retraining)
    server.end(state, "the loss is not a number")
    assert look(retraining)["last"]["result"] == f"{state}: the loss is not a number"
    server.later(hours=1)
    assert not look(retraining)["due"]
    server.later(hours=14)
    look(retraining)
    assert server.started == ["training 1", "training 2"]

    server.end(state)
    server.label("c")
    look(retraining)
    assert len(server.started) == 2
    server.label("d")
    look(retraining)
    assert len(server.started) == 3


def test_one_that_cannot_be_started_is_not_tried_at_every_look(server):
    retraining = server.retraining("1 label")
    server.label("a")
    server.refuse = OSError("no memory")
    told = look(retraining)
    assert told["last"]["result"] == "failed: it could not be started: no memory"
    server.refuse = None
    assert not look(retraining)["due"]
    server.label("b")
    look(retraining)
    assert server.started == ["training 1"]


# Restarts


def test_everything_is_known_after_a_restart(server):
    server.label("a", "b")
    look(server.retraining("2 labels"))
    server.end(message="version 1 is served")
    server.label("c")
    look(server.retraining("2 labels"))
    server.later(hours=1)
    told = look(server.retraining("2 labels"))
    assert told["new_labels"] == 1
    assert told["last"]["result"] == "done: version 1 is served"
    assert server.started == ["training 1"]


def test_what_waits_for_people_still_waits_after_a_restart(server):
    server.label("a")
    server.idle = 0
    look(server.retraining("1 label"))
    server.later(hours=2)
    retraining = server.retraining("1 label")
    assert retraining.status()["waiting_for"] == PEOPLE
    assert look(retraining)["due_since"] == "2026-11-20T12:00:00+01:00"


def test_a_training_that_outlived_its_server_is_the_same_one_by_another_name(server):
    server.label("a")
    look(server.retraining("1 label"))
    server.label("b")
    server.later(minutes=1)
    server.training = Training("20261120_120007", "running", NOON + timedelta(seconds=7))
    retraining = server.retraining("1 label")
    told = look(retraining)
    assert (told["new_labels"], told["waiting_for"]) == (1, TRAINING)
    server.end()
    told = look(retraining)
    assert server.started == ["training 1", "training 2"]
    assert told["last"]["started"] == "2026-11-20T12:01:00+01:00"


def test_a_training_that_ended_with_its_server_is_started_again_once(server):
    server.label("a")
    look(server.retraining("20 labels; 0 3 * * *"))
    server.later(hours=15)
    look(server.retraining("20 labels; 0 3 * * *"))
    assert server.started == ["training 1"]

    server.training = None
    told = look(server.retraining("20 labels; 0 3 * * *"))
    assert server.started == ["training 1", "training 2"]
    assert told["last"]["because"] == "The last training ended with the server."

    server.training = None
    told = look(server.retraining("20 labels; 0 3 * * *"))
    assert server.started == ["training 1", "training 2"]
    assert told["last"]["result"] == "failed: it ended with the server"
    server.later(hours=24)
    look(server.retraining("20 labels; 0 3 * * *"))
    assert len(server.started) == 3


def test_a_training_of_an_earlier_server_is_not_taken_for_the_one_that_was_asked_for(server):
    server.label("a")
    look(server.retraining("1 label"))
    server.training = Training("20261101_030000", "done", NOON - timedelta(days=19))
    look(server.retraining("1 label"))
    assert server.started == ["training 1", "training 2"]


def test_a_training_on_another_way_while_the_server_was_down_has_all_labels(server):
    server.label("a")
    look(server.retraining("1 label"))
    server.end()
    retraining = server.retraining("1 label")
    look(retraining)
    server.label("b")
    server.later(hours=1)
    server.training = Training("20261120_130000", "done", server.now)
    assert look(server.retraining("1 label"))["new_labels"] == 0
    assert server.started == ["training 1"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"plan": 3}', b'{"labels": {"a": 1}}'])
def test_a_damaged_state_is_begun_afresh_with_a_line_in_the_log(server, caplog, content):
    server.file.write_bytes(content)
    server.label("a")
    assert look(server.retraining("2 labels"))["new_labels"] == 1
    assert f"{server.file} cannot be read, so that all labels count as new" in caplog.text
    assert load(server.file, "2 labels", NOON) == State(plan="2 labels", times_until=NOON)


def test_a_state_that_cannot_be_saved_stops_nothing(server, caplog, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.trainers.retrain.retraining.save", full)
    server.label("a")
    retraining = server.retraining("1 label")
    look(retraining)
    server.end()
    assert look(retraining)["last"]["result"] == "done"
    assert server.started == ["training 1"]
    assert "could not be saved" in caplog.text


KILLED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from lib.trainers.retrain import state
here = Path(sys.argv[1])
old = state.State(plan="1 label", times_until=datetime.now(UTC), labels={"a": "first"})
state.save(here, old)
def stop(*_):
    print("in the middle", flush=True)
    sys.stdin.read()
setattr(os, sys.argv[2], stop)
state.save(here, old.model_copy(update={"labels": {"a": "second"}}))
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_kill_in_the_middle_of_writing_leaves_the_old_state(tmp_path, moment, caplog):
    file = tmp_path / "retraining.json"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file), moment],
        env={"PYTHONPATH": str(APP)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        # the first save passes the same functions unpatched
        assert child.stdout.readline() == "in the middle\n"
        child.send_signal(signal.SIGKILL)
    assert load(file, "1 label", NOON).labels == {"a": "first"}
    assert not caplog.records
    save(file, State(plan="1 label", times_until=NOON, labels={"a": "third"}))
    assert load(file, "1 label", NOON).labels == {"a": "third"}
    assert [path.name for path in tmp_path.iterdir()] == ["retraining.json"]


# The thread


def test_a_saved_label_is_seen_soon_by_the_thread(server, monkeypatch):
    # the scheduler lives in real time
    monkeypatch.setattr(server, "now", datetime.now(ZONE))
    started = threading.Event()
    start = server.start
    server.start = lambda: (start(), started.set())[0]  # type: ignore[method-assign]
    retraining = server.retraining("1 label")
    retraining.start()
    try:
        server.label("a")
        retraining.labels_changed()
        retraining.labels_changed()
        assert started.wait(15)
    finally:
        retraining.stop()
    retraining.labels_changed()  # a request that ends after the server has stopped looking
    assert server.started == ["training 1"]
    assert logging.getLogger("apscheduler").level == logging.ERROR
