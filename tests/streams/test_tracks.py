"""Tracks: whose they are, how long they stay, and that no two requests step one at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import work
from lib.errors import Cancelled, NotFound
from lib.streams.tracks import Tracks
from lib.work import Work

SECONDS = 20


class Followed:
    """What a track holds, as far as the store is concerned."""

    def __init__(self, nbytes: int = 10) -> None:
        self.nbytes = nbytes


@pytest.fixture
def tracks() -> Tracks[Followed]:
    return Tracks(100, 30)


def test_ids_cannot_be_guessed(tracks):
    ids = {tracks.add("anne", Followed(), "p").id for _ in range(5)}
    assert len(ids) == 5 and all(len(id) >= 22 for id in ids)


def test_a_track_is_its_owners_alone(tracks):
    track = tracks.add("anne", Followed(), "p")
    assert tracks.get(track.id, "anne") is track
    for refused in (tracks.get, tracks.remove):
        with pytest.raises(NotFound, match=f'track "{track.id}" has expired or never was: begin again'):
            refused(track.id, "bert")
    tracks.remove(track.id, "anne")
    with pytest.raises(NotFound):
        tracks.get(track.id, "anne")


@pytest.mark.parametrize("id", ["", None, 7, ["x"], "unknown"])
def test_what_is_no_track_is_not_found(tracks, id):
    with pytest.raises(NotFound, match="has expired or never was"):
        tracks.get(id, "anne")


def test_a_track_expires():
    now = [0.0]
    tracks: Tracks[Followed] = Tracks(100, 30, lambda: now[0])
    track = tracks.add("anne", Followed(), "p")
    now[0] = 29 * 60
    assert tracks.get(track.id, "anne") is track
    now[0] += 31 * 60
    with pytest.raises(NotFound, match="has expired or never was"):
        tracks.get(track.id, "anne")
    assert tracks.store.nbytes == 0


def test_what_tracks_remember_is_counted_as_it_grows(tracks):
    first, second = (tracks.add("anne", Followed(), "p") for _ in range(2))
    with tracks.held([second]):
        second.stream.nbytes = 95
    assert tracks.store.nbytes == 95
    with pytest.raises(NotFound):
        tracks.get(first.id, "anne")


def test_a_second_request_for_a_track_waits(tracks):
    one, two = (tracks.add("anne", Followed(), "p") for _ in range(2))
    inside, order = [], []

    def request(held) -> None:
        with tracks.held(held):
            inside.append(1)
            order.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        # in both orders, and one of them twice
        list(pool.map(request, [[one, two], [two, one], [two], [one, two, one]] * 5))
    assert order == [1] * 20


def test_tracks_that_have_nothing_in_common_do_not_wait(tracks):
    one, two = (tracks.add("anne", Followed(), "p") for _ in range(2))
    both = threading.Barrier(2)

    def request(track) -> bool:
        with tracks.held([track]):
            return both.wait(SECONDS) in (0, 1)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(request, [one, two]))


def test_who_waits_for_a_track_can_be_cancelled(tracks):
    track = tracks.add("anne", Followed(), "p")
    asked = Work("a", "biosam2_video", "p", "anne", long=False)

    def request() -> None:
        with work.working_on(asked), tracks.held([track]):
            pass

    with ThreadPoolExecutor(1) as pool, tracks.held([track]):
        waiting = pool.submit(request)
        asked.cancel()
        with pytest.raises(Cancelled):
            waiting.result(SECONDS)
    with tracks.held([track]):
        pass


def test_a_track_is_free_after_an_error(tracks):
    track = tracks.add("anne", Followed(), "p")
    with pytest.raises(MemoryError), tracks.held([track]):
        raise MemoryError
    with tracks.held([track]):
        pass
