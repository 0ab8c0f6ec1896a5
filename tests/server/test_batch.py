"""Many images without prompts, over HTTP, into the real datastore."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from main import BioSAM2App

from lib.activelearning.pool import Pool
from lib.activelearning.scorer import Scorer
from lib.activelearning.scores import INFO, CaseScore

AFFINE = np.diag([0.9, 0.8, 3.0, 1.0])
IMAGE = "other"  # the one without a label


def batch(address: str, *, expect: int = 200, images: str = "unlabeled", **params) -> dict:
    answer = requests.post(
        f"{address}/batch/infer/biosam2_auto", params={"images": images}, json=params, timeout=60
    )
    assert answer.status_code == expect, answer.text
    return answer.json()


def status(address: str) -> dict:
    return requests.get(f"{address}/batch/infer/", timeout=60).json()


def ended(address: str, until) -> dict:
    return until(lambda: (told := status(address))["status"] != "RUNNING" and told)


def test_without_a_label_it_says_so(address):
    assert "No image has a final label yet" in str(batch(address, expect=409))


def test_answers_are_kept_as_labels(address, instance, labelled, until):
    begun = batch(address)
    assert begun["status"] == "RUNNING" and begun["progress"]["of"] == 1
    done = ended(address, until)
    assert done["id"] == begun["id"] and done["status"] == "DONE" and done["details"] == []
    assert done["progress"] == {"done": 1, "of": 1, "were_done_before": 0, "failed": 0, "image": None}
    datastore = instance.datastore()
    made = nib.load(datastore.get_label_uri(IMAGE, "original"))
    assert made.shape == nib.load(datastore.get_image_uri(IMAGE)).shape
    assert np.allclose(made.affine, AFFINE)
    # numbered from 1, as Slicer's plugin takes them to be
    assert set(np.unique(np.asarray(made.dataobj))) <= {0, 1}
    assert datastore.get_label_info(IMAGE, "original")["params"]["label_names"] == {"tumour": 1}
    assert IMAGE in datastore.get_unlabeled_images()  # a person has still to look at it


def test_it_goes_on_where_it_was(address, instance, labelled, until):
    batch(address)
    ended(address, until)
    stamp = Path(instance.datastore().get_label_uri(IMAGE, "original")).stat().st_mtime_ns
    batch(address)
    assert ended(address, until)["progress"]["were_done_before"] == 1
    assert Path(instance.datastore().get_label_uri(IMAGE, "original")).stat().st_mtime_ns == stamp
    labelled(14)
    batch(address)
    assert ended(address, until)["progress"]["were_done_before"] == 0


def test_it_can_be_stopped(address, labelled, until):
    batch(address, images="all")
    assert requests.post(f"{address}/batch/infer/biosam2_auto", timeout=60).status_code == 409
    assert requests.delete(f"{address}/batch/infer/", timeout=60).status_code == 200
    assert ended(address, until)["status"] == "STOPPED"
    assert requests.delete(f"{address}/batch/infer/", timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"label_tag": "final"}, 'label_tag must be a plain name such as "original", and not "final"'),
        ({"label_tag": "../x"}, "label_tag must be a plain name"),
        ({"max_batch_size": -1}, "max_batch_size must be a whole number from 0, not '-1'"),
        ({"images": ["nobody"]}, "images must be one of all, labeled, unlabeled or ids of the datastore"),
    ],
)
def test_what_is_wrong_is_said(address, labelled, params, words):
    assert words in str(batch(address, expect=400, **params))


@pytest.mark.parametrize(("model", "code"), [("biosam2_2d", 400), ("deepedit", 404)])
def test_models_that_cannot(address, model, code):
    assert requests.post(f"{address}/batch/infer/{model}", timeout=60).status_code == code


# In the background


@pytest.fixture
def scorer(instance: BioSAM2App, address: str) -> Scorer:
    pool = Pool(instance.datastore)
    pool.sync()
    return Scorer(instance.datastore, pool, instance.bank, instance.slot, lambda: 60.0, lambda: False)


def kept(instance: BioSAM2App, image: str = IMAGE) -> CaseScore | None:
    return CaseScore.from_info(instance.datastore().get_image_info(image))


def test_images_are_scored_when_nobody_annotates(instance, scorer):
    """Without a label there is only what an image looks like."""
    scorer._round()
    score = kept(instance)
    assert score is not None and score.structures == {}
    assert np.linalg.norm(score.embedding) == pytest.approx(1, abs=1e-2)
    assert scorer.status() == {"scored": 2, "of": 2, "image": None}
    with scorer._pool.lock:
        assert scorer._pool.cases.distances.length == len(score.embedding)


def test_labels_make_scores_and_old_ones_are_made_again(instance, scorer, labelled):
    scorer._round()
    first = kept(instance)
    assert first is not None and set(first.structures) == {"tumour"}
    assert 0 <= first.structures["tumour"].uncertainty <= 1
    info = instance.datastore().get_image_info(IMAGE)[INFO]
    scorer._round()
    assert instance.datastore().get_image_info(IMAGE)[INFO] == info  # nothing has changed
    labelled(16)
    scorer._round()
    again = kept(instance)
    assert again is not None and again.key != first.key


@pytest.mark.parametrize(("idle", "busy"), [(1.0, False), (60.0, True)])
def test_it_gives_way(instance, scorer, labelled, idle, busy):
    scorer._idle_seconds, scorer._is_busy = lambda: idle, lambda: busy
    scorer._score = lambda *_: pytest.fail("it has begun")
    scorer._round()


def test_an_image_that_cannot_be_read_is_not_tried_for_ever(instance, scorer, labelled, monkeypatch):
    tried = []

    def score(image: str, *_) -> None:
        tried.append(image)
        raise OSError("gone")

    monkeypatch.setattr(scorer, "_score", score)
    scorer._round()
    scorer._round()
    assert tried == [IMAGE]
    labelled(18)
    scorer._round()
    assert tried == [IMAGE] * 2
