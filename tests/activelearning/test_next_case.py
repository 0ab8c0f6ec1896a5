"""Cases given out: never the same one to two annotators, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activelearning.conftest import IMAGES, score_of
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.next_case import DEFAULT, NextCase
from lib.activelearning.strategies import STRATEGIES
from lib.errors import NotFound, Unavailable, Unprocessable


@pytest.fixture
def start(datastore: LocalDatastore, tmp_path: Path) -> Callable[[], NextCase]:
    """A server's part in this, as after a start."""
    return lambda: NextCase(lambda: datastore, tmp_path / "claims.json", 30, np.random.default_rng(0))


@pytest.fixture
def next_case(start: Callable[[], NextCase]) -> NextCase:
    return start()


@pytest.fixture
def ask(next_case: NextCase, datastore: LocalDatastore) -> Callable[..., dict[str, Any]]:
    def ask(client: str = "", strategy: str = DEFAULT, of: NextCase = next_case, **fields: Any):
        request = {"client_id": client, "address": "10.0.0.1", **fields}
        return of.answer(of.strategies()[strategy], request, datastore)

    return ask


def test_the_default_is_the_first_that_clients_are_offered(next_case):
    assert DEFAULT == "biosam2" == next(iter(next_case.strategies()))
    assert set(next_case.strategies()) == {
        *("random", "foreground_random", "uncertainty", "diversity", "biosam2"),
    }
    assert all(strategy.info()["description"] for strategy in next_case.strategies().values())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("names", [[f"person{n}" for n in range(IMAGES)], [""] * IMAGES])
def test_no_two_people_get_the_same_case(ask, next_case, strategy, names):
    """Also those who cannot be told apart, as long as there are cases."""
    next_case.pool.sync()
    for n in range(IMAGES):
        next_case.pool.scored(f"image{n}", score_of(n))
    given = [ask(name, strategy)["id"] for name in names]
    assert sorted(given) == sorted(f"image{n}" for n in range(IMAGES))


def test_the_answer_has_what_the_clients_read(ask, datastore):
    answer = ask("anna")
    assert set(answer) == {"id", "path", "claimed_until"}
    assert answer["path"] == datastore.get_image_uri(answer["id"])


@pytest.mark.parametrize("named", [True, False])
def test_eight_people_at_once_never_get_the_same_case(datastore, label, tmp_path, named):
    """Each asks and labels, eight at a time, until nothing is left: every image came once."""
    for n in range(200):
        (tmp_path / "studies" / f"more{n}.nii.gz").write_bytes(b"x")
    datastore.refresh()
    next_case = NextCase(lambda: datastore, tmp_path / "claims.json", 30)
    strategies = list(next_case.strategies().values())
    given: list[str] = []
    together = threading.Barrier(8)

    def annotate(person: int) -> None:
        together.wait()
        while True:
            request = {"client_id": f"person{person}" if named else "", "address": f"10.0.0.{person}"}
            answer = next_case.answer(strategies[person % len(strategies)], request, datastore)
            if "id" not in answer:
                return
            given.append(answer["id"])
            label(answer["id"])
            next_case.label_saved(answer["id"], datastore)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(annotate, person) for person in range(8)]:
            future.result()
    assert len(given) == len(set(given)) == IMAGES + 200


def test_who_asks_again_gets_another_case_and_the_first_is_free(ask):
    first = ask("anna")["id"]
    seen = [first, *(ask("anna")["id"] for _ in range(IMAGES - 1))]
    assert len(set(seen)) == IMAGES, "nothing comes twice while there is something else"
    assert ask("anna")["id"] == first, "and then what was skipped the longest ago"
    others = {ask(f"person{n}")["id"] for n in range(IMAGES - 1)}
    assert others == set(seen) - {first}


def test_when_others_have_everything_it_is_said_plainly(ask, next_case, datastore):
    for n in range(IMAGES):
        ask(f"person{n}")
    answer = ask("anna")
    assert set(answer) == {"message"}
    assert f"all {IMAGES} unlabelled images are with annotators" in answer["message"]
    assert "30 minutes" in answer["message"]


def test_when_all_is_labelled_it_is_said_plainly(ask, label):
    for n in range(IMAGES):
        label(f"image{n}")
    assert ask("anna") == {"message": f"No case is left: all {IMAGES} images are labelled."}


def test_a_folder_without_images_is_said_plainly(tmp_path, ask):
    empty = LocalDatastore(str(tmp_path / "empty"), auto_reload=False)
    next_case = NextCase(lambda: empty, tmp_path / "other.json", 30)
    assert ask("anna", of=next_case) == {"message": "The datastore has no images."}


def test_one_person_without_a_name_gets_the_first_case_again_when_all_were_shown(ask):
    seen = [ask()["id"] for _ in range(IMAGES)]
    assert ask()["id"] == seen[0] and ask()["id"] == seen[1]
    assert "message" in ask(address="10.0.0.9"), "but nobody elsewhere does"
    assert "message" in ask("anna")


def test_a_label_ends_a_claim_and_the_case_never_comes_again(ask, next_case, datastore, label):
    image = ask("anna")["id"]
    label(image, "original")
    next_case.label_saved(image, datastore)
    assert next_case.claims.images() == {image}, "a label that is not final ends nothing"
    label(image)
    next_case.label_saved(image, datastore)
    assert next_case.claims.images() == set()
    assert image not in {ask(f"person{n}").get("id") for n in range(IMAGES)}


def test_a_label_by_other_ways_ends_a_claim_when_it_is_found(ask, next_case, label):
    image = ask("anna")["id"]
    label(image)
    next_case.pool.sync()
    other = ask("ben")["id"]
    assert next_case.claims.images() == {other} and other != image


def test_a_claim_expires_and_the_case_comes_to_others(ask, next_case):
    now = 1000.0
    next_case.claims._clock = lambda: now
    for n in range(IMAGES):
        ask(f"person{n}")
    assert "message" in ask("anna")
    now += 30 * 60 + 1
    assert "id" in ask("anna")


def test_claims_survive_a_restart(ask, start):
    given = {ask(f"person{n}")["id"] for n in range(8)}
    again = start()
    rest = {ask(f"later{n}", of=again)["id"] for n in range(IMAGES - 8)}
    assert given | rest == {f"image{n}" for n in range(IMAGES)}
    assert "message" in ask("anna", of=again)


def test_an_image_that_has_gone_is_passed_over(ask, datastore, next_case, monkeypatch):
    """Also in an archive, which says so only when the image is fetched."""
    next_case.pool.sync()
    gone = {f"image{n}" for n in range(5)}
    find = datastore.get_image_uri

    def uri(image: str) -> str:
        if image in gone:
            raise NotFound("it was deleted there")
        return find(image)

    monkeypatch.setattr(datastore, "get_image_uri", uri)
    given = [ask(f"person{n}")["id"] for n in range(IMAGES - 5)]
    assert len(set(given)) == IMAGES - 5 and not gone & set(given)


def test_an_image_that_cannot_be_read_is_passed_over_for_a_while(ask, datastore, monkeypatch):
    find = datastore.get_image_uri

    def uri(image: str) -> str:
        if image == "image7":
            raise Unprocessable("the series is no volume.")
        return find(image)

    monkeypatch.setattr(datastore, "get_image_uri", uri)
    given = {ask(f"person{n}").get("id") for n in range(IMAGES)}
    assert given == {f"image{n}" for n in range(IMAGES) if n != 7} | {None}


def test_nobody_holds_a_case_that_could_not_be_fetched(ask, datastore, next_case, monkeypatch):
    def down(_: str) -> str:
        raise Unavailable("the PACS cannot be reached: is it running?")

    monkeypatch.setattr(datastore, "get_image_uri", down)
    with pytest.raises(Unavailable):
        ask("anna")
    assert next_case.claims.images() == set()


def test_an_image_that_was_just_added_is_found_when_nothing_else_is_left(
    ask, next_case, datastore, label, tmp_path
):
    for n in range(IMAGES):
        label(f"image{n}")
    assert "message" in ask("anna")
    (tmp_path / "studies" / "new.nii.gz").write_bytes(b"x")
    datastore.refresh()
    next_case.pool._began -= 2  # of lists that were just asked for, nobody asks again
    assert ask("anna")["id"] == "new"


def test_structures_can_be_asked_for(ask, next_case):
    next_case.pool.sync()
    for n in range(IMAGES):
        next_case.pool.scored(f"image{n}", score_of(n))
    assert ask("anna", "uncertainty", labels=["liver"])["id"] == f"image{IMAGES - 1}"
