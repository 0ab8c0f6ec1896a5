"""The queue of inferences by itself: what the current work is, and what the tasks may ask of it."""

from __future__ import annotations

import threading

import pytest

from lib import work
from lib.errors import Busy, Cancelled, Conflict, NotFound
from lib.server.queue import WorkQueue
from lib.work import State, Work

SECONDS = 20


def _work(id: str = "a", long: bool = False) -> Work:
    return Work(id, "biosam2_2d", "scan", "anne", long)


def test_the_current_work_is_that_of_the_thread_and_of_no_other():
    queue, asked = WorkQueue(1, 1), _work()
    assert queue.submit(asked, work.current).result(SECONDS) is asked
    assert queue.submit(_work("b"), work.current).result(SECONDS) is not asked
    assert work.current() is None


def test_without_work_there_is_nothing_to_report_to_and_nobody_cancels(tmp_path):
    work.report(1, 2)
    work.stop_if_cancelled()
    work.remove_afterwards(tmp_path)
    assert work.is_cancelled() is False


@pytest.mark.parametrize(
    ("ends", "state"), [(None, State.DONE), (ValueError(), State.FAILED), (Cancelled(), State.CANCELLED)]
)
def test_the_state_says_how_it_ended(ends, state):
    def call() -> None:
        if ends is not None:
            raise ends

    queue, asked = WorkQueue(1, 1), _work()
    future = queue.submit(asked, call)
    assert future.exception(SECONDS) is ends
    assert (queue.find("a").state, asked.ended) == (state, True)
    assert queue.unfinished() == []


def test_short_and_long_work_have_places_of_their_own():
    queue, leave = WorkQueue(1, 1, waiting=1), threading.Event()
    for id in ("long 1", "long 2"):
        queue.submit(_work(id, long=True), lambda: leave.wait(SECONDS))
    with pytest.raises(Busy):
        queue.submit(_work("long 3", long=True), leave.wait)
    assert queue.submit(_work("short"), lambda: 5).result(SECONDS) == 5
    assert [queue.position(w) for w in queue.unfinished()] == [0, 1]
    leave.set()


def test_an_id_is_unique_among_what_has_not_ended():
    queue, leave = WorkQueue(1, 1), threading.Event()
    future = queue.submit(_work("a"), lambda: leave.wait(SECONDS))
    with pytest.raises(Conflict):
        queue.submit(_work("a", long=True), leave.wait)
    leave.set()
    future.result(SECONDS)
    queue.submit(_work("a"), leave.wait).result(SECONDS)


def test_what_is_not_known_cannot_be_cancelled():
    with pytest.raises(NotFound):
        WorkQueue(1, 1).cancel("a")


def test_what_waits_is_cancelled_without_beginning():
    queue, leave, begun = WorkQueue(1, 1), threading.Event(), []
    queue.submit(_work("a"), lambda: leave.wait(SECONDS))
    future = queue.submit(_work("b"), lambda: begun.append("b"))
    queue.cancel("b")
    assert future.cancelled()
    assert queue.find("b").state == State.CANCELLED
    leave.set()
    queue.submit(_work("c"), lambda: None).result(SECONDS)
    assert begun == []
