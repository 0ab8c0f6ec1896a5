"""Who is next on the device: short work before long, in order among equals, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lib.sam.turns import Turns, as_long_work

SECONDS = 60  # far more than anything here takes


def _wait_until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


@pytest.fixture
def turns() -> Turns:
    return Turns(most_bypassed=3)


@pytest.fixture
def queued(turns: Turns) -> Iterator[Callable[[str], None]]:
    """Starts threads that wait for a turn, one after the other; `queued.order` is in which they got it."""
    threads: list[threading.Thread] = []

    def start(name: str) -> None:
        def work() -> Iterator[None]:
            with turns.turn():
                start.order.append(name)
            yield

        def run() -> None:
            list(as_long_work(work()) if name.startswith("long") else work())

        before = turns.waiting
        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        _wait_until(lambda: turns.waiting > before)

    def finish() -> list[str]:
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return start.order

    start.order = []
    start.finish = finish
    yield start
    finish()


def test_equals_have_their_turns_in_the_order_in_which_they_asked(turns, queued):
    with turns.turn():
        for name in ("a", "b", "c", "d"):
            queued(name)
    assert queued.finish() == ["a", "b", "c", "d"]


def test_short_work_goes_before_long_work_that_asked_earlier(turns, queued):
    with turns.turn():
        for name in ("long 1", "long 2", "a", "b"):
            queued(name)
    assert queued.finish() == ["a", "b", "long 1", "long 2"]


def test_long_work_is_passed_by_only_so_many(turns, queued):
    with turns.turn():
        queued("long")
        for name in "abcdef":
            queued(name)
    assert queued.finish() == ["a", "b", "c", "long", "d", "e", "f"]


def test_a_turn_may_be_taken_again_inside_of_itself(turns, queued):
    with turns.turn():
        queued("a")
        with turns.turn(), turns.turn():
            pass
        time.sleep(0.05)
        assert queued.order == [], "the inner ones gave it away"
    assert queued.finish() == ["a"]


def test_a_turn_is_given_back_when_the_work_fails(turns, queued):
    with pytest.raises(ValueError), turns.turn():
        queued("a")
        raise ValueError
    assert queued.finish() == ["a"]
    with turns.turn():
        pass


def test_two_tight_loops_alternate_and_a_click_goes_between(turns, queued):
    order = queued.order
    running = {"one", "two"}

    def loop(name: str) -> Iterator[None]:
        for n in range(20):
            with turns.turn():
                order.append(name)
                _wait_until(lambda: turns.waiting or running == {name})
                if (name, n) == ("one", 10):
                    queued("click")
            yield
        running.discard(name)

    threads = [threading.Thread(target=lambda n=n: list(as_long_work(loop(n)))) for n in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    queued.finish()
    assert [order[order.index("click") + n] for n in (-1, 0, 1)] == ["one", "click", "two"]
    order.remove("click")
    assert all(a != b for a, b in zip(order, order[1:], strict=False)), "one had two turns in a row"


def test_long_work_lets_short_work_go_first_in_the_middle_of_its_turn(turns, queued):
    order = queued.order

    def steps() -> Iterator[None]:
        with turns.turn(), turns.turn():
            queued("long")
            queued("a")
            order.append("first half")
            turns.pause()
            order.append("second half")
            turns.pause()
        yield

    list(as_long_work(steps()))
    assert queued.finish() == ["first half", "a", "second half", "long"]


def test_one_turn_of_long_work_is_passed_by_only_so_many(turns, queued):
    order = queued.order

    def steps() -> Iterator[None]:
        with turns.turn():
            for name in "abcde":
                queued(name)
                turns.pause()
            order.append("end")
        yield

    list(as_long_work(steps()))
    assert queued.finish() == ["a", "b", "c", "end", "d", "e"]


def test_short_work_does_not_pause(turns, queued):
    with turns.turn():
        queued("a")
        turns.pause()
        assert queued.order == []
    turns.pause()  # nor does who has no turn
    assert queued.finish() == ["a"]


def test_nobody_is_let_in_twice_at_a_time(turns):
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns.turn():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert most == 1
    assert turns.waiting == 0


def test_only_the_steps_of_long_work_are_long(turns, queued):
    """Between two items the caller does short work of its own."""
    taken = threading.Event()

    def hold_until_two_wait() -> None:
        with turns.turn():
            taken.set()
            _wait_until(lambda: turns.waiting == 2)

    for _ in as_long_work(x for x in range(1)):
        threading.Thread(target=hold_until_two_wait, daemon=True).start()
        assert taken.wait(SECONDS)
        queued("long")
        with turns.turn():
            queued.order.append("between the steps")
    assert queued.finish() == ["between the steps", "long"]


def test_long_work_that_is_not_finished_is_closed():
    closed = []

    def steps() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    found = as_long_work(steps())
    next(found)
    found.close()
    assert closed == [True]
