"""Retraining: looks every few seconds whether a training is due, and starts it when it disturbs nobody."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from tzlocal import get_localzone

from lib.trainers.retrain.plan import OFF, Plan
from lib.trainers.retrain.state import Last, State, load, save

logger = logging.getLogger(__name__)

LOOK_EVERY = 10.0  # s
RECOUNT_EVERY = timedelta(minutes=5)  # labels also come in by other ways than through this server
IDLE = 600.0  # s without an inference after which nobody is annotating
LONG = timedelta(hours=24)  # after which it is said once in the log that a training still waits
ONCE_AGAIN = 1  # trainings in a row that ended with the server and are started again: it may be their fault

PEOPLE = "people who annotate"
TRAINING = "the training that runs"
LABELS = "the list of labels"
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Training:
    """A training of this server, whoever asked for it.

    Attributes
    ----------
    id : str
    state : str
    started : datetime
        With a time zone, to the second.
    message : str
        What there is to say about its end, or "".
    """

    id: str
    state: Literal["running", "done", "failed", "cancelled"]
    started: datetime
    message: str = ""


def _now() -> datetime:
    return datetime.now(get_localzone())


class Retraining:
    """Starts trainings by a plan, and remembers in a file what it has to.

    Parameters
    ----------
    plan : Plan, optional
        None starts none, and only tells of the last one.
    state_file : Path
    labels : callable
        Image -> fingerprint of its final label, as they are now. May take long or fail.
    start : callable
        Asks for a training and returns its id, or None if one runs.
    newest : callable
        The training that runs, or the one that has ended last.
    idle : callable
        Seconds since the last inference; 0 while one runs.
    when : str
        "idle" waits until nobody has asked for an inference for a while, "always" does not.
    clock : callable
        The time now, in the zone in which the plan's times are meant.
    """

    def __init__(
        self,
        plan: Plan | None,
        state_file: Path,
        labels: Callable[[], Mapping[str, str]],
        start: Callable[[], str | None],
        newest: Callable[[], Training | None],
        idle: Callable[[], float],
        when: Literal["idle", "always"] = "idle",
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.plan, self.when, self._file = plan, when, state_file
        self._ask_labels, self._ask_start, self._newest, self._idle = labels, start, newest, idle
        self._clock = clock
        self._looking = threading.Lock()
        self._changed = threading.Event()
        self._labels: dict[str, str] | None = None  # as they were counted last
        self._counted = clock()
        self._countable = True
        self._scheduler = BackgroundScheduler(timezone=get_localzone())
        self._state = load(state_file, str(plan or OFF), clock())
        self._saved: State | None = None

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        if self.plan is None:
            if self._file.exists():  # the plan that comes next begins anew
                self._save()
            return
        # a line in the log for every look, and for every one of many labels, is too much
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.add_job(
            self.look,
            "interval",
            seconds=LOOK_EVERY,
            id="look",
            next_run_time=datetime.now(get_localzone()),
            coalesce=True,
            max_instances=2,  # one waits for the other, and sees the label that came in meanwhile
            misfire_grace_time=None,  # a late look finds the times that were missed in the state
        )
        self._scheduler.start()
        logger.info("retraining: %s", self.plan)

    def stop(self) -> None:
        """Look no more. A training that runs goes on."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def labels_changed(self) -> None:
        """Have the labels counted soon; returns at once."""
        self._changed.set()
        if self._scheduler.running:
            try:
                self._scheduler.modify_job("look", next_run_time=datetime.now(get_localzone()))
            except JobLookupError:  # stopped meanwhile
                logger.debug("labels changed after the last look")

    def status(self) -> dict[str, Any]:
        """What a person may want to know, as JSON; asks nobody and waits for nothing."""
        state, plan, last = self._state, self.plan, self._state.last
        new = self._new(state)
        return {
            "plan": str(plan or OFF),
            "when": self.when,
            "new_labels": new,
            "labels_needed": plan.labels if plan else None,
            "next_time": _iso(plan.next_time(self._clock())) if plan else None,
            "due": state.due_since is not None,
            "due_since": _iso(state.due_since),
            "because": state.because or None,
            "waiting_for": state.waiting_for,
            "note": state.note,
            "last": last
            and {
                "started": _iso(last.started),
                "ended": _iso(last.ended),
                "because": last.because,
                "result": last.result or "It runs.",
            },
        }

    def look(self) -> None:
        """See what has happened since the last look, and start a training if one is due and nothing is
        against it. Two looks at once do not meet."""
        plan = self.plan
        if plan is None:
            return
        with self._looking:
            now = self._clock()
            training = self._newest()
            # before the labels are counted again: one that came in after the start was not trained on
            self._see_training(training, now)
            if self._labels is None or self._changed.is_set() or now - self._counted >= RECOUNT_EVERY:
                self._count(now)
            self._see_time(plan, now)
            self._see_number(plan, now)
            self._go_on(training, now)
            self._save()

    # What has happened

    def _see_training(self, training: Training | None, now: datetime) -> None:
        last = self._state.last
        if last is None or last.ended is not None:
            if training is None or (last and training.id == last.id):
                return
            unseen = last and last.ended and training.started > last.ended
            if training.state == "running" or unseen:
                self._begin(training.id, training.started, "It was asked for.", now, planned=False)
                self._see_end(training, now)
            return
        if training is None or (training.id != last.id and training.started < last.started - SECOND):
            self._see_interruption(last, now)
            return
        if training.id != last.id:
            # a server that starts again gives the one that its forerunner left running another name
            self._update(last=last.model_copy(update={"id": training.id}))
        self._see_end(training, now)

    def _see_end(self, training: Training, now: datetime) -> None:
        if training.state == "running" or self._state.last is None:
            return
        result = f"{training.state}: {training.message}" if training.message else training.state
        self._end(self._state.last, now, result, learned=training.state == "done")
        self._update(interrupted=0)

    def _see_interruption(self, last: Last, now: datetime) -> None:
        """The last one ran when the server ended, and does not any more."""
        self._end(last, now, "failed: it ended with the server", learned=False)
        count = self._state.interrupted + 1
        self._update(interrupted=count)
        if last.planned and count <= ONCE_AGAIN:
            self._set_due("The last training ended with the server.", now)

    def _count(self, now: datetime) -> bool:
        self._changed.clear()
        self._counted = now
        try:
            self._labels = dict(self._ask_labels())
        except Exception as error:  # of any datastore
            if self._countable:  # said once, not at every look
                logger.warning("the labels cannot be counted now: %s", error)
            self._countable = False
        else:
            self._countable = True
        return self._countable

    def _new(self, state: State) -> int | None:
        """How many labels are new or changed since the last training began; None before they are counted."""
        if self._labels is None:
            return None
        return sum(state.labels.get(image) != label for image, label in self._labels.items())

    def _see_time(self, plan: Plan, now: datetime) -> None:
        time = plan.next_time(self._state.times_until.astimezone(now.tzinfo))
        if time is None or time > now or not self._count(now):
            return
        self._update(times_until=now, note=None)
        if self._new(self._state) or self._state.unlearned:
            self._set_due(f"The time {plan.cron} has come.", now)
        elif self._state.due_since is None:
            when = time.strftime("%Y-%m-%d %H:%M")
            note = f"Nothing was started at {when}: no label is new or changed since the last training."
            self._update(note=note)

    def _see_number(self, plan: Plan, now: datetime) -> None:
        new = self._new(self._state)
        if plan.labels and new is not None and new >= plan.labels:
            self._set_due(f"{new} label{'s are' if new > 1 else ' is'} new or changed.", now)
        if new == 0 and not self._state.unlearned:  # they were deleted while the training waited
            self._not_due()

    def _set_due(self, because: str, now: datetime) -> None:
        if self._state.due_since is None:
            self._update(due_since=now, because=because, note=None)

    def _not_due(self) -> None:
        self._update(due_since=None, because="", waiting_for=None, warned=False)

    # What to do about it

    def _go_on(self, training: Training | None, now: datetime) -> None:
        since = self._state.due_since
        if since is None:
            return
        self._update(waiting_for=self._reason_to_wait(training))
        if self._state.waiting_for is None:
            self._begin_now(now)
        if self._state.waiting_for and now - since >= LONG and not self._state.warned:
            logger.warning(
                "a training is due since %s and still waits for %s", _iso(since), self._state.waiting_for
            )
            self._update(warned=True)

    def _reason_to_wait(self, training: Training | None) -> str | None:
        if training and training.state == "running":
            return TRAINING
        if self.when == "idle" and self._idle() < IDLE:
            return PEOPLE
        return None

    def _begin_now(self, now: datetime) -> None:
        if not self._count(now):
            self._update(waiting_for=LABELS)
            return
        before = self._state
        self._begin("", now, before.because, now, planned=True)
        self._save()  # a server that is killed here knows when it comes back that it had tried
        logger.info("a training is started: %s", before.because)
        try:
            id = self._ask_start()
        except Exception as error:  # whatever kept it from starting would do so again at the next look
            logger.exception("the training could not be started")
            assert self._state.last
            self._end(self._state.last, now, f"failed: it could not be started: {error}", learned=False)
            return
        if id is None:  # a person was quicker
            self._state = before
            self._update(waiting_for=TRAINING)
        else:
            assert self._state.last
            self._update(last=self._state.last.model_copy(update={"id": id}))

    def _begin(self, id: str, started: datetime, because: str, now: datetime, planned: bool) -> None:
        """Whatever was due, the training that begins takes all labels there are."""
        if self._labels is None:
            self._count(now)
        if self._labels is not None:
            self._update(labels=self._labels)
        self._not_due()
        last = Last(id=id, started=started, because=because, planned=planned)
        self._update(unlearned=False, note=None, last=last)

    def _end(self, last: Last, now: datetime, result: str, learned: bool) -> None:
        logger.info("the training that began at %s: %s", _iso(last.started), result)
        ended = last.model_copy(update={"ended": now, "result": result})
        self._update(unlearned=not learned, last=ended)

    def _update(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)

    def _save(self) -> None:
        if self._state == self._saved:
            return
        try:
            save(self._file, self._state)
            self._saved = self._state
        except OSError as error:  # a full disk must not stop it; it is tried again at the next change
            logger.error("the state of retraining could not be saved: %s", error)
            self._saved = self._state


def _iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="seconds") if time else None
