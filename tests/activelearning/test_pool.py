"""The index of a real datastore: filled, told of changes, and finding out those it is not told of."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from activelearning.conftest import IMAGES, score_of
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.pool import Pool
from lib.errors import Unavailable


@pytest.fixture
def pool(datastore: LocalDatastore) -> Pool:
    return Pool(lambda: datastore)


def scored(pool: Pool) -> set[str]:
    return pool.cases.names(pool.cases.distances.known)


def labelled(pool: Pool) -> set[str]:
    return pool.cases.names(pool.cases.labelled)


def test_it_is_filled_from_the_datastore(pool, label, keep_scores):
    label("image3")
    label("image4", "original")
    keep_scores(range(5))
    pool.sync()
    assert pool.cases.listed() == {f"image{n}" for n in range(IMAGES)}
    assert labelled(pool) == {"image3"}, "a label that is not final does not count"
    assert scored(pool) == {f"image{n}" for n in range(5)}
    assert pool.cases.mean[pool.cases.row("image2")] == pytest.approx(2 / IMAGES, abs=1e-4)
    assert pool.cases.distances.near[pool.cases.row("image3")] == 0


def test_damaged_info_is_no_score(pool, datastore):
    datastore.update_image_info("image1", {"biosam2": {"embedding": "??"}})
    pool.sync()
    assert scored(pool) == set()


def test_a_saved_label_and_a_score_are_known_at_once(pool):
    pool.sync()
    pool.labelled("image1")
    pool.scored("image2", score_of(2))
    assert labelled(pool) == {"image1"} and scored(pool) == {"image2"}
    pool.scored("nobody", score_of(3))
    assert "nobody" not in pool.cases


def test_what_happens_otherwise_is_found_by_comparing(pool, datastore, label, tmp_path):
    pool.sync()
    label("image1")
    (tmp_path / "studies" / "image2.nii.gz").unlink()
    (tmp_path / "studies" / "new.nii.gz").write_bytes(b"x")
    datastore.refresh()
    pool.sync()
    assert labelled(pool) == {"image1"}
    assert "image2" not in pool.cases and "new" in pool.cases
    datastore.remove_label("image1", "final")
    pool.sync()
    assert labelled(pool) == set()


def test_a_label_that_was_saved_while_the_lists_were_made_stays(pool, datastore, label, monkeypatch):
    """And one that an archive does not list yet."""
    listed = datastore.get_labeled_images

    def slow(*_):
        before = listed()
        label("image5")
        pool.labelled("image5")
        return [image for image in before if image != "image5"]

    monkeypatch.setattr(datastore, "get_labeled_images", slow)
    pool.sync()
    assert labelled(pool) == {"image5"}
    pool.sync()
    assert labelled(pool) == {"image5"}
    pool._saved.clear()
    pool.cases.label("image5")
    datastore.get_labeled_images = lambda *_: []
    pool.sync()
    assert labelled(pool) == set(), "what is not listed for long is not there"


def test_a_label_that_was_saved_and_removed_again_is_no_label(pool, datastore, label):
    pool.sync()
    label("image5")
    pool.labelled("image5")
    datastore.remove_label("image5", "final")
    pool.sync()
    assert labelled(pool) == set()


def test_embeddings_of_another_model_replace_all_and_the_kept_ones_are_read_again(pool, keep_scores):
    keep_scores(range(6), length=4)
    pool.sync()
    keep_scores(range(3), length=8)
    assert scored(pool) == {f"image{n}" for n in range(6)}
    pool.scored("image7", score_of(7, 8))
    assert scored(pool) == {"image7"}
    pool.sync()
    assert scored(pool) == {"image0", "image1", "image2", "image7"}


def test_the_first_question_waits_for_the_lists_and_later_ones_do_not(pool, datastore, monkeypatch):
    listed, go_on = datastore.list_images, threading.Event()

    def slow():
        assert go_on.wait(20)
        return listed()

    monkeypatch.setattr(datastore, "list_images", slow)
    threading.Timer(0.3, go_on.set).start()
    pool.refresh()
    assert len(pool.cases) == IMAGES
    go_on.clear()
    pool._due = 0
    start = time.monotonic()
    pool.refresh()
    assert time.monotonic() - start < 5
    assert not pool._listed.is_set(), "it is still asked for"
    go_on.set()
    assert pool._listed.wait(20)


def test_lists_are_asked_for_every_few_seconds_at_most(pool, datastore, monkeypatch):
    asked = []
    listed = datastore.list_images
    monkeypatch.setattr(datastore, "list_images", lambda: asked.append(1) or listed())
    for _ in range(50):
        pool.refresh()
    assert len(asked) == 1


def test_an_archive_that_does_not_answer_is_said_until_it_was_there_once(pool, datastore, monkeypatch):
    listed, down = datastore.list_images, True

    def sometimes():
        if down:
            raise Unavailable("the PACS cannot be reached: is it running?")
        return listed()

    monkeypatch.setattr(datastore, "list_images", sometimes)
    for _ in range(2):
        with pytest.raises(Unavailable, match="is it running"):
            pool.refresh()
    down = False
    pool._due = 0
    pool.refresh()
    down = True
    pool._due = 0
    pool.refresh()
    assert len(pool.cases) == IMAGES


def test_scores_come_in_while_lists_are_compared_and_cases_are_looked_at(pool, datastore, tmp_path: Path):
    """Four threads at once leave what one after the other would have left."""
    pool.sync()
    failures, done = [], threading.Event()

    def again_and_again(what) -> None:
        try:
            while not done.is_set():
                what()
        except Exception as error:
            failures.append(error)

    rng = np.random.default_rng(0)
    jobs = [
        pool.sync,
        lambda: pool.scored(f"image{rng.integers(IMAGES)}", score_of(int(rng.integers(IMAGES)))),
        lambda: pool.labelled("image0"),
        pool.refresh,
    ]
    threads = [threading.Thread(target=again_and_again, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    time.sleep(1)
    done.set()
    for thread in threads:
        thread.join(20)
    pool.sync()
    assert not failures
    assert len(pool.cases) == IMAGES and len(pool.cases.free()) == IMAGES
