"""What is kept for clients that come back: bounded, expiring, and safe for threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.streams.store import Store


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock) -> Store[str]:
    """Room for 100 bytes, 4 values and 10 seconds."""
    return Store(100, 4, 10, clock)


def test_what_was_put_is_found(store):
    store.put("a", "A", 10)
    assert store.get("a") == "A" and store.get("b") is None
    assert (len(store), store.nbytes) == (1, 10)


def test_what_nobody_asks_for_expires(store, clock):
    store.put("a", "A", 10)
    store.put("b", "B", 10)
    clock.now += 9
    assert store.get("a") == "A"
    clock.now += 9
    assert store.get("b") is None and store.get("a") == "A"
    clock.now += 10.5
    assert (len(store), store.nbytes) == (0, 0)


def test_the_least_recently_used_makes_room(store):
    for name in "abc":
        store.put(name, name, 30)
    store.get("a")
    store.put("d", "d", 30)
    assert store.get("b") is None and store.get("a") == "a" and store.nbytes == 90


def test_there_are_never_more_than_so_many(store):
    for name in "abcdef":
        store.put(name, name, 1)
    assert len(store) == 4 and store.get("b") is None


def test_one_that_is_too_large_is_kept_alone(store):
    store.put("a", "a", 10)
    store.put("large", "large", 1000)
    assert len(store) == 1 and store.get("large") == "large"
    store.put("b", "b", 10)
    assert store.get("large") is None and store.nbytes == 10


def test_what_grows_makes_others_go(store):
    for name in "ab":
        store.put(name, name, 40)
    store.resize("a", 80)
    assert store.get("b") is None and store.nbytes == 80
    store.resize("b", 10)
    assert store.nbytes == 80


def test_another_value_takes_the_place_of_the_first(store):
    store.put("a", "A", 40)
    store.put("a", "Z", 50)
    assert store.get("a") == "Z" and store.nbytes == 50


def test_what_is_removed_is_gone(store):
    store.put("a", "A", 40)
    assert store.remove("a") and not store.remove("a")
    assert store.get("a") is None and store.nbytes == 0


def test_threads_leave_the_count_right():
    store: Store[int] = Store(50, 10, 60)

    def work(seed: int) -> None:
        for n in range(300):
            name = str((seed * n) % 17)
            store.put(name, n, n % 7)
            store.resize(name, n % 5)
            store.get(str(n % 17))
            store.remove(str((n + seed) % 17))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 5)))
    assert len(store) <= 10
    for n in range(17):
        store.remove(str(n))
    assert (len(store), store.nbytes) == (0, 0)
