"""Single pictures over HTTP: sent once, asked about often."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time

import numpy as np
import pytest
import requests
from PIL import Image

from lib.imaging import runs
from lib.infers import picture_task
from lib.prompts.dialects.one_picture import parse
from lib.sam.segment import segment

SIZE = (50, 30)
SECONDS = 60


def png(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A PNG in colour, other noise for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def add(address):
    """Sends a picture."""

    def send(data: bytes, **how) -> requests.Response:
        return requests.post(
            f"{address}/biosam2/pictures", files={"image": ("a", data)}, timeout=SECONDS, **how
        )

    return send


@pytest.fixture
def picture(add) -> str:
    answer = add(png(1))
    assert answer.status_code == 200, answer.text
    return answer.json()["picture"]


@pytest.fixture
def mask(address):
    """Asks for a mask; JSON as Python writes it, with NaN and Infinity."""

    def send(picture: str, fields: object, **how) -> requests.Response:
        url = f"{address}/biosam2/pictures/{picture}/mask"
        headers = {"Content-Type": "application/json"}
        data = fields if isinstance(fields, bytes) else json.dumps(fields)
        return requests.post(url, data=data, headers=headers, timeout=SECONDS, **how)

    return send


def _detail(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    return answer.json()["detail"]


# --- pictures ------------------------------------------------------------------------------------------


def test_a_picture_is_known_by_the_sha256_of_its_file(add):
    answer = add(png(2))
    assert answer.json() == {"picture": hashlib.sha256(png(2)).hexdigest(), "width": 50, "height": 30}
    assert add(png(2)).json() == answer.json()


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "image is empty"), (b"GIF89a", "image cannot be read"), (png(3)[:-100], "image cannot be read")],
)
def test_what_is_no_picture_is_said(add, data, words):
    assert words in _detail(add(data), 422)


def test_a_picture_must_be_in_the_form(address):
    answer = requests.post(f"{address}/biosam2/pictures", data={"image": "text"}, timeout=SECONDS)
    assert "image" in _detail(answer, 422)
    assert "image" in _detail(requests.post(f"{address}/biosam2/pictures", timeout=SECONDS), 422)


# --- masks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"foreground": [[20, 15]], "background": [], "box": None, "mask": None},
        {"foreground": [[20, 15.5]], "background": [[4, 4]]},
        {"box": [9.5, 4.5, 30, 22]},
    ],
    ids=["click", "two clicks", "box"],
)
def test_the_mask_is_the_one_that_the_model_makes(instance, picture, mask, fields):
    answer = mask(picture, fields)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert set(found) == {"mask", "score", "cached", "checkpoint", "latencies"}
    model, pixels = instance.slot.get(), instance.pictures.pictures.get(picture).pixels
    expected = segment(model, pixels, parse(fields, SIZE), instance.biosam2.zoom)
    assert expected.mask.any()
    assert np.array_equal(runs.decode(found["mask"], SIZE), expected.mask)
    assert found["score"] == pytest.approx(expected.score, abs=1e-4)
    assert found["checkpoint"] == {"name": model.checkpoint.name, "version": model.checkpoint.version}


def test_a_mask_can_be_mended_with_a_click(picture, mask):
    first = mask(picture, {"box": [9.5, 4.5, 30, 22]}).json()["mask"]
    second = mask(picture, {"foreground": [[40, 25]], "mask": first})
    assert second.status_code == 200 and second.json()["mask"]["size"] == [50, 30]


def test_the_second_click_finds_the_picture_encoded(instance, add, mask):
    id = add(png(4)).json()["picture"]
    assert mask(id, {"box": [9.5, 4.5, 30, 22]}).json()["cached"] is False
    encoded = instance.slot.get().encoded
    again = mask(id, {"box": [9.5, 4.5, 30, 22], "background": [[12, 6]]}).json()
    assert again["cached"] is True and instance.slot.get().encoded == encoded


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "The request has no prompt that says where the object is"),
        (None, "The request must be an object"),
        ([], "The request must be an object"),
        ({"foreground": [[50, 2]]}, "foreground[0] [50, 2] is outside the picture of 50 x 30 pixels"),
        ({"foreground": [[float("nan"), 2]]}, "foreground[0] must be a finite number, not nan"),
        ({"background": [[1e999, 2]]}, "background[0] must be a finite number, not inf"),
        ({"box": [5, 5, 5, 9]}, "box [5, 5, 5, 9] has no area"),
        ({"mask": {"size": [30, 50], "bbox": [0, 0, 0, 0], "counts": []}}, "mask.size [30, 50] is not that"),
        ({"mask": "AAAA"}, "mask must have the lists size, bbox and counts"),
        ({"points": [[1, 2, 1]]}, "has the unknown field 'points'"),
    ],
)
def test_what_is_wrong_is_said(picture, mask, fields, words):
    assert words in _detail(mask(picture, fields), 400)


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"\xff\xfe", b'{"box": [' + b"9" * 5000 + b"]}"])
def test_what_is_no_json_is_refused(picture, mask, text):
    answer = mask(picture, text)
    assert answer.status_code in (400, 422) and isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("id", ["0" * 64, "unknown", "..%2F..%2Fetc"])
def test_an_unknown_picture_has_to_be_sent_again(mask, id):
    answer = mask(id, {"foreground": [[1, 2]]})
    assert answer.status_code == 404
    if "%" not in id:
        assert answer.json()["detail"] == f'picture "{id}" has expired or never was: send it again.'


def test_an_expired_picture_has_to_be_sent_again(instance, add, mask, monkeypatch):
    id = add(png(5)).json()["picture"]
    later = time.monotonic() + 31 * 60
    monkeypatch.setattr(instance.pictures.pictures.store, "_clock", lambda: later)
    assert "has expired or never was" in _detail(mask(id, {"foreground": [[1, 2]]}), 404)
    assert add(png(5)).json()["picture"] == id
    assert mask(id, {"foreground": [[1, 2]]}).status_code == 200


# --- structures ----------------------------------------------------------------------------------------


@pytest.fixture
def detect(address):
    def send(picture: str, fields: object = None) -> requests.Response:
        return requests.post(f"{address}/biosam2/pictures/{picture}/detect", json=fields, timeout=SECONDS)

    return send


def test_without_a_label_there_is_nothing_to_look_for(picture, detect):
    assert "No image has a final label yet" in _detail(detect(picture), 409)


def test_without_a_label_nothing_may_be_found(address):
    assert requests.get(f"{address}/biosam2/pictures/labels", timeout=SECONDS).json() == {"labels": []}


def test_what_may_be_found_is_what_was_labelled_by_now(address, labelled):
    """Also before anything has been looked for."""
    assert requests.get(f"{address}/biosam2/pictures/labels", timeout=SECONDS).json() == {
        "labels": ["tumour"]
    }


def test_structures_are_found_by_name_and_index(picture, detect, labelled):
    answer = detect(picture, {"labels": None, "threshold": None})
    assert answer.status_code == 200, answer.text
    for one in answer.json()["found"]:
        assert set(one) == {"label", "index", "score", "mask"}
        assert (one["label"], one["index"]) == ("tumour", 3) and 0 <= one["score"] <= 1
        assert runs.decode(one["mask"], SIZE).any()
    assert detect(picture).json() == answer.json() == detect(picture, {"labels": ["tumour"]}).json()
    assert detect(picture, {"threshold": 1}).json() == {"found": []}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": ["kidney"]}, 'label "kidney" is not one of tumour'),
        ({"labels": [None]}, 'label "None" is not one of tumour'),
        ({"labels": "tumour"}, "labels must be a list, not 'tumour'"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, not 1.5"),
        ({"threshold": "high"}, "threshold must be a finite number, not 'high'"),
        ({"label": "tumour"}, "The request has the unknown field 'label'; it has labels and threshold"),
        (["tumour"], 'The request must be an object such as {"labels": ["liver"]}'),
    ],
)
def test_what_is_wrong_with_a_search_is_said(picture, detect, labelled, fields, words):
    assert words in _detail(detect(picture, fields), 400)


def test_an_unknown_picture_cannot_be_searched(detect):
    assert "has expired or never was" in _detail(detect("0" * 64), 404)


def test_a_server_that_does_not_offer_it_says_so(instance, picture, detect, monkeypatch):
    offered = instance.biosam2.model_copy(update={"models": ("biosam2_2d",)})
    monkeypatch.setattr(instance.pictures, "settings", offered)
    assert 'model "biosam2_auto" is not one of biosam2_2d.' in _detail(detect(picture), 404)


# --- with others on the server -------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """Holds the network until the test lets it go."""
    leave, begun = threading.Event(), threading.Event()
    real = picture_task.segment

    def segment(*given):
        begun.set()
        assert leave.wait(SECONDS)
        return real(*given)

    monkeypatch.setattr(picture_task, "segment", segment)
    yield begun
    leave.set()


def test_a_mask_is_short_work_of_its_user(picture, mask, queue, held):
    thread = threading.Thread(target=mask, args=(picture, {"foreground": [[1, 2]]}))
    thread.start()
    assert held.wait(SECONDS)
    (work,) = queue.unfinished()
    assert (work.model, work.image, work.long) == ("biosam2_2d", picture, False)
    assert queue.idle_seconds() == 0


def test_the_work_of_a_client_that_has_gone_is_cancelled(address, picture, queue, held, until):
    with pytest.raises(requests.Timeout):
        url = f"{address}/biosam2/pictures/{picture}/mask"
        requests.post(url, json={"foreground": [[1, 2]]}, timeout=1)
    (work,) = queue.unfinished()
    assert until(lambda: work.is_cancelled)
