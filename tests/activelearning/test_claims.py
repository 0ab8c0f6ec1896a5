"""Claims: who has which image, and until when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib.activelearning import claims as module
from lib.activelearning.claims import Annotator, Claims, file_name
from lib.errors import Conflict, NotFound

ANNA, BEN = Annotator("anna", "10.0.0.1"), Annotator("ben", "10.0.0.2")
SOMEBODY = Annotator("", "10.0.0.1")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claims(tmp_path: Path, clock: Clock) -> Claims:
    return Claims(tmp_path / "state" / "claims.json", 1800, clock)


def test_a_claim_expires(claims, clock):
    claims.take("a", ANNA)
    clock.now += 1799
    assert claims.images() == {"a"}
    clock.now += 2
    assert claims.images() == set()


def test_work_on_the_image_prolongs_it(claims, clock):
    claims.take("a", ANNA)
    clock.now += 1700
    claims.prolong("a")
    claims.prolong("b")
    clock.now += 1700
    assert claims.images() == {"a"}


def test_claims_survive_a_restart(claims, clock, tmp_path):
    claims.take("a", ANNA)
    claims.take("b", SOMEBODY)
    clock.now += 1000
    claims.prolong("b")
    again = Claims(tmp_path / "state" / "claims.json", 1800, clock)
    assert again.images() == {"a", "b"}
    assert again.unnamed(SOMEBODY) == ["b"]
    clock.now += 900
    assert again.images() == {"b"}


def test_a_shorter_time_counts_from_the_restart_on(claims, clock, tmp_path):
    claims.take("a", ANNA)
    again = Claims(tmp_path / "state" / "claims.json", 60, clock)
    assert again.images() == {"a"}
    clock.now += 61
    assert again.images() == set()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"claims": [1]}', '{"claims": [{"image": "a"}]}'])
def test_a_damaged_file_claims_nothing(clock, tmp_path, content):
    file = tmp_path / "claims.json"
    file.write_text(content)
    claims = Claims(file, 1800, clock)
    assert claims.images() == set()
    claims.take("a", ANNA)
    assert json.loads(file.read_text())["claims"][0]["image"] == "a"


def test_a_file_that_cannot_be_written_keeps_nobody_from_working(tmp_path, clock, caplog):
    (tmp_path / "state").write_text("not a folder")
    claims = Claims(tmp_path / "state" / "claims.json", 1800, clock)
    claims.take("a", ANNA)
    assert claims.images() == {"a"}
    assert "could not be saved" in caplog.text


def test_when_nothing_is_claimed_there_is_no_file(claims, tmp_path):
    claims.take("a", ANNA)
    claims.end("a")
    claims.end("a")
    assert list((tmp_path / "state").iterdir()) == []


def test_who_asks_again_has_given_back_what_they_had(claims):
    claims.take("a", ANNA)
    claims.take("b", BEN)
    claims.skip(ANNA)
    assert claims.images() == {"b"}
    claims.take("c", ANNA)
    claims.skip(ANNA)
    assert claims.skipped(ANNA) == ["a", "c"] and claims.skipped(BEN) == []


def test_what_was_skipped_is_forgotten_after_a_while(claims, clock):
    claims.take("a", ANNA)
    claims.skip(ANNA)
    clock.now += 1801
    assert claims.skipped(ANNA) == []


def test_what_is_remembered_is_bounded(claims, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "MOST_SKIPPED", 2)
    monkeypatch.setattr(module, "MOST_SKIPPING", 2)
    for image in "abcde":
        claims.take(image, SOMEBODY)
    assert claims.images() == {"c", "d", "e"}
    for image in "xyz":
        claims.take(image, ANNA)
        claims.skip(ANNA)
    assert claims.skipped(ANNA) == ["y", "z"]
    for name in ("ben", "carl"):
        claims.take("a", Annotator(name))
        claims.skip(Annotator(name))
    assert claims.skipped(ANNA) == []


def test_a_case_is_given_back_by_who_has_it(claims):
    claims.take("a", ANNA)
    with pytest.raises(Conflict, match="another annotator"):
        claims.give_back("a", BEN)
    with pytest.raises(Conflict, match="another annotator"):
        claims.give_back("a", SOMEBODY)
    claims.give_back("a", ANNA)
    assert claims.images() == set() and claims.skipped(ANNA) == ["a"]
    with pytest.raises(NotFound, match='"a" is not with any'):
        claims.give_back("a", ANNA)


def test_a_case_that_somebody_without_a_name_has_can_be_given_back_by_anybody(claims):
    claims.take("a", SOMEBODY)
    claims.give_back("a", BEN)
    assert claims.images() == set()


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({}, ""),
        ({"client_id": None}, ""),
        ({"client_id": "user-xyz"}, ""),  # what Slicer sends for everybody
        ({"client_id": " anna "}, "anna"),
        ({"user": "anna", "client_id": "user-xyz"}, "anna"),
        ({"user": "anna", "client_id": "ohif-1"}, "anna/ohif-1"),
    ],
)
def test_annotators_are_told_apart_by_who_signed_in_and_by_their_program(request_, name):
    assert Annotator.of({**request_, "address": "10.0.0.1"}) == Annotator(name, "10.0.0.1")


def test_every_folder_and_archive_has_a_file_of_its_own(tmp_path):
    assert file_name(str(tmp_path)) == file_name(f"{tmp_path}/.")
    assert len({file_name(str(tmp_path)), file_name("http://pacs/a"), file_name("http://pacs/b")}) == 3
