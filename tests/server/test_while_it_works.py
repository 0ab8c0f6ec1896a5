"""What other requests get while an inference runs, and what becomes of one that nobody wants any more."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import requests
from monailabel.config import settings
from monailabel.endpoints.user import auth
from SimpleITK import GetArrayFromImage, ReadImage

from lib import work
from lib.errors import UserError
from lib.infers import slice_task

FAST = 30  # s; what is blocked waits for ever


def _state(get, id: str) -> str | None:
    answer = get(f"/biosam2/work/{id}")
    return answer.json()["state"] if answer.ok else None


# --- others are served -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/info/",
        "/datastore/?output=all",
        "/datastore/image?image=scan",
        "/static/ohif/index.html",
        "/biosam2/work",
    ],
)
def test_other_requests_are_answered_during_a_propagation(volumes, ask, address, until, path):
    ask(request_id="long")
    until(lambda: volumes.begun)
    begin = time.monotonic()
    answer = requests.get(address + path, timeout=FAST)
    assert answer.status_code == 200
    assert time.monotonic() - begin < FAST


def test_a_label_is_saved_during_a_propagation(volumes, ask, address, instance, until):
    ask(request_id="long")
    until(lambda: volumes.begun)
    with open(f"{instance.studies}/scan.nii.gz", "rb") as file:
        answer = requests.put(
            f"{address}/datastore/label", params={"image": "other"}, files={"label": file}, timeout=FAST
        )
    assert answer.json() == {"image": "other", "label": "other"}


def test_a_click_is_answered_during_as_many_propagations_as_may_run(volumes, clicks, ask, until):
    for id in ("one", "two", "three", "four"):
        ask(request_id=id)
    until(lambda: len(volumes.begun) == 2)
    for _ in range(clicks.total):
        clicks.allowed.release()
    assert ask("biosam2_2d", image="other").result(FAST).status_code == 200


def test_two_clicks_run_at_once(clicks, ask, until):
    ask("biosam2_2d", label="one")
    ask("biosam2_2d", label="two")
    until(lambda: len(clicks.begun) == 2)


def test_a_click_goes_between_the_slices_of_a_propagation(instance, address, queue, ask, until, monkeypatch):
    slices_done = []

    def segment(*given):
        slices_done.append(queue.find("long").progress[0])
        return real(*given)

    real = slice_task.segment
    monkeypatch.setattr(slice_task, "segment", segment)
    model = instance.slot.get()
    with model.running():
        long = ask(request_id="long", foreground=[[5, 5, 2]])
        until(lambda: model.turns.waiting == 1)
        click = ask("biosam2_2d", image="other", foreground=[[7, 7, 3]])
        until(lambda: model.turns.waiting == 2)
    assert click.result().status_code == long.result().status_code == 200
    assert slices_done == [0]
    assert queue.find("long").progress == (8, 8)


# --- the queue -------------------------------------------------------------------------------------------


def test_propagations_begin_in_the_order_in_which_they_came(volumes, ask, get, until):
    for id in ("one", "two", "three", "four"):
        ask(request_id=id, label=id)
        until(lambda id=id: _state(get, id))
    until(lambda: len(volumes.begun) == 2)
    listed = get("/biosam2/work").json()
    assert [(w["id"], w["state"], w["position"]) for w in listed] == [
        ("one", "running", 0),
        ("two", "running", 0),
        ("three", "queued", 1),
        ("four", "queued", 2),
    ]
    # slice by slice, so that the first two do not end at the same moment
    for _ in range(2 * volumes.total):
        if len(volumes.begun) < 3:
            volumes.allowed.release()
            time.sleep(0.05)
    for _ in range(4 * volumes.total):
        volumes.allowed.release()
    until(lambda: len(volumes.begun) == 4)
    assert set(volumes.begun[:2]) == {"one", "two"}
    assert volumes.begun[2:] == ["three", "four"]


def test_a_full_queue_is_a_503_with_a_sentence(volumes, clicks, ask, get, until):
    for id in ("one", "two", "three", "four"):
        ask(request_id=id)
        until(lambda id=id: _state(get, id))
    answer = ask().result(FAST)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "The server is busy: 2 requests wait already. Try again later."}
    for _ in range(clicks.total):
        clicks.allowed.release()
    assert ask("biosam2_2d").result(FAST).status_code == 200, "clicks have places of their own"


# --- progress --------------------------------------------------------------------------------------------


def test_progress_is_told_step_by_step_until_the_end(volumes, ask, get, until):
    asked = ask(request_id="scan.1", image="scan")
    until(lambda: volumes.begun)
    told = get("/biosam2/work/scan.1").json()
    assert told.pop("seconds") >= 0
    expected = {"id": "scan.1", "model": "biosam2_3d", "image": "scan", "state": "running", "position": 0}
    assert told == {**expected, "done": 0, "total": 0}
    for n in range(1, 5):
        volumes.allowed.release()
        until(lambda n=n: get("/biosam2/work/scan.1").json()["done"] == n)
        assert get("/biosam2/work/scan.1").json()["total"] == 5
    volumes.allowed.release()
    answer = asked.result(FAST)
    assert answer.status_code == 200
    last = get("/biosam2/work/scan.1").json()
    assert (last["state"], last["done"], last["total"]) == ("done", 5, 5)
    assert get("/biosam2/work").json() == []
    assert get("/biosam2/work/scan.1").json()["seconds"] == last["seconds"], "the clock stops at the end"


def test_events_tell_every_change_and_end_with_the_work(volumes, ask, address, until):
    ask(request_id="watched")
    until(lambda: volumes.begun)
    with requests.get(f"{address}/biosam2/work/watched/events", stream=True, timeout=FAST) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = []
        for line in answer.iter_lines():
            if line:
                told.append(json.loads(line.removeprefix(b"data: ")))
                volumes.allowed.release()
    done = [event["done"] for event in told]
    assert done == sorted(done)
    assert done[0] == 0
    assert (told[-1]["state"], told[-1]["done"]) == ("done", 5)


def test_the_real_propagation_tells_monotonic_progress_to_its_total(
    address, instance, ask, queue, monkeypatch
):
    seen = []
    real = work.report
    monkeypatch.setattr(work, "report", lambda done, total: (seen.append((done, total)), real(done, total)))
    answer = ask(request_id="real").result()
    assert answer.status_code == 200
    assert seen == [(n, 8) for n in range(1, 9)]
    assert queue.find("real").progress == (8, 8)


def test_the_id_is_told_in_the_answer(clicks, ask):
    for _ in range(2 * clicks.total):
        clicks.allowed.release()
    answer = ask("biosam2_2d", request_id="my-click", query={"output": "json"}).result(FAST)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "my-click"
    answer = ask("biosam2_2d", query={"output": "json"}).result(FAST)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert len(answer.json()["request_id"]) == 32


@pytest.mark.parametrize("id", ["a b", "../x", "", "x" * 65, 5, ["x"], ".x", "ä"])
def test_an_id_that_is_no_plain_name_is_refused(clicks, ask, id):
    for _ in range(clicks.total):
        clicks.allowed.release()
    answer = ask("biosam2_2d", request_id=id).result(FAST)
    if id == "":  # what clients send for nothing
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("request_id must be a name")


def test_an_id_in_use_is_refused_and_may_be_used_again_later(volumes, ask, cancel, get, until):
    first = ask(request_id="twice")
    until(lambda: volumes.begun)
    answer = ask("biosam2_2d", request_id="twice").result(FAST)
    assert answer.status_code == 409
    assert answer.json() == {"detail": 'request_id "twice" is in use by a request that has not ended.'}
    cancel("twice")
    first.result(FAST)
    for _ in range(volumes.total):
        volumes.allowed.release()
    assert ask(request_id="twice").result(FAST).status_code == 200
    assert _state(get, "twice") == "done"


@pytest.mark.parametrize("path", ["/biosam2/work/nobody", "/biosam2/work/nobody/events"])
def test_an_unknown_id_is_not_found(address, get, cancel, path):
    sentence = {"detail": 'request_id "nobody" is not known here: it never was, or ended long ago.'}
    for answer in (get(path), cancel("nobody")):
        assert answer.status_code == 404
        assert answer.json() == sentence


def test_work_that_ended_long_ago_is_forgotten(clicks, ask, get):
    for _ in range(4 * clicks.total):
        clicks.allowed.release()
    for id in ("1", "2", "3", "4"):
        ask("biosam2_2d", request_id=id).result(FAST)
    assert [_state(get, id) for id in ("1", "2", "3", "4")] == [None, "done", "done", "done"]


def test_with_access_control_one_sees_and_cancels_only_ones_own_work(
    volumes, ask, get, cancel, until, monkeypatch
):
    def user(token: str) -> auth.User:
        role = settings.MONAI_LABEL_AUTH_ROLE_ADMIN if token == "root" else None
        roles = [settings.MONAI_LABEL_AUTH_ROLE_USER] if token else []
        return auth.User(username=token, roles=[*roles, role] if role else roles)

    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth, "from_token", user)
    asked = ask(request_id="annes", query={"token": "anne"})
    until(lambda: volumes.begun)
    assert [w["id"] for w in get("/biosam2/work", token="anne").json()] == ["annes"]
    assert [w["id"] for w in get("/biosam2/work", token="root").json()] == ["annes"]
    assert get("/biosam2/work", token="bert").json() == []
    assert get("/biosam2/work/annes", token="bert").status_code == 404
    assert cancel("annes", token="bert").status_code == 404
    for path in ("/biosam2/work", "/biosam2/work/annes", "/biosam2/work/annes/events", "/info/"):
        assert get(path, token="").status_code == 403, "no role, no answer"
    assert cancel("annes", token="").status_code == 403
    assert volumes.begun and not asked.done()
    assert cancel("annes", token="root").json()["state"] == "cancelled"


# --- cancelling ------------------------------------------------------------------------------------------


def test_running_work_stops_before_the_next_slice(volumes, ask, get, cancel, until, temporary):
    asked = ask(request_id="unwanted")
    until(lambda: volumes.begun)
    volumes.allowed.release()
    until(lambda: get("/biosam2/work/unwanted").json()["done"] == 1)
    stopped = cancel("unwanted")
    assert stopped.status_code == 200
    assert (stopped.json()["state"], stopped.json()["done"]) == ("cancelled", 1)
    answer = asked.result(FAST)
    assert answer.status_code == 409
    assert answer.json() == {"detail": "The request was cancelled."}
    assert _state(get, "unwanted") == "cancelled"
    until(lambda: not list(temporary.iterdir()))


def test_waiting_work_is_taken_out_of_the_queue_at_once(volumes, ask, get, cancel, until):
    asked = {}
    for id in ("one", "two", "three", "four"):
        asked[id] = ask(request_id=id, label=id)
        until(lambda id=id: _state(get, id))
    assert cancel("three").json()["state"] == "cancelled"
    assert asked["three"].result(FAST).status_code == 409
    assert get("/biosam2/work/four").json()["position"] == 1
    assert cancel("one").json()["state"] == "cancelled"
    until(lambda: _state(get, "four") == "running")
    assert "three" not in volumes.begun


def test_cancelling_what_has_ended_changes_nothing(clicks, ask, cancel):
    for _ in range(clicks.total):
        clicks.allowed.release()
    ask("biosam2_2d", request_id="click").result(FAST)
    answer = cancel("click")
    assert (answer.status_code, answer.json()["state"]) == (200, "done")


def test_a_cancelled_propagation_leaves_the_model_as_it_was(address, instance, queue, ask, until, tmp_path):
    def voxels(answer: requests.Response) -> np.ndarray:
        (tmp_path / "answer.nrrd").write_bytes(answer.content)
        return GetArrayFromImage(ReadImage(str(tmp_path / "answer.nrrd")))

    wanted = {"foreground": [[12, 12, 5]], "result_extension": ".nrrd", "query": {"output": "image"}}
    expected = ask(**wanted).result()
    model = instance.slot.get()
    with model.running():  # so that it cannot end before it is cancelled
        asked = ask(request_id="unwanted", **wanted)
        until(lambda: model.turns.waiting)
        queue.cancel("unwanted")
    assert asked.result(FAST).status_code == 409
    np.testing.assert_array_equal(voxels(ask(**wanted).result()), voxels(expected))


# --- clients that go away --------------------------------------------------------------------------------


def test_work_stops_when_its_client_has_gone_away(volumes, connect, get, until, temporary, instance):
    with open(f"{instance.studies}/scan.nii.gz", "rb") as file:
        client = connect({"file": ("scan.nii.gz", file)}, request_id="left")
    until(lambda: volumes.begun)
    assert len(list(temporary.iterdir())) == 1, "the upload"
    client.close()
    until(lambda: _state(get, "left") == "cancelled")
    until(lambda: not list(temporary.iterdir()))


def test_waiting_work_is_forgotten_when_its_client_has_gone_away(volumes, connect, ask, get, until):
    for id in ("one", "two"):
        ask(request_id=id, label=id)
        until(lambda id=id: _state(get, id))
    client = connect(request_id="left", label="left")
    until(lambda: _state(get, "left") == "queued")
    client.close()
    until(lambda: _state(get, "left") == "cancelled")
    assert "left" not in volumes.begun


# --- nothing is left -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["all", "image", "json"])
def test_uploads_and_results_are_removed_after_the_answer(clicks, ask, until, temporary, instance, output):
    for _ in range(clicks.total):
        clicks.allowed.release()
    with (
        open(f"{instance.studies}/scan.nii.gz", "rb") as scan,
        open(f"{instance.studies}/scan.nii.gz", "rb") as mask,
    ):
        files = {"file": ("scan.nii.gz", scan), "label": ("label.nii.gz", mask)}
        answer = ask("biosam2_2d", files=files, slice=4, query={"output": output}).result(FAST)
    assert answer.status_code == 200, answer.text
    until(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("The image is upside down."), 400), (RuntimeError("out of memory"), 500)]
)
def test_uploads_are_removed_when_the_work_fails(
    volumes, ask, get, until, temporary, instance, error, status
):
    volumes.fail = error
    volumes.allowed.release()
    with open(f"{instance.studies}/scan.nii.gz", "rb") as scan:
        answer = ask(request_id="bad", files={"file": ("scan.nii.gz", scan)}).result(FAST)
    assert answer.status_code == status
    if status == 400:
        assert answer.json() == {"detail": "The image is upside down."}
    assert _state(get, "bad") == "failed"
    until(lambda: not list(temporary.iterdir()))


def test_a_result_is_removed_when_it_cannot_be_saved(clicks, ask, until, temporary, instance, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(instance.datastore()), "save_label", full)
    for _ in range(clicks.total):
        clicks.allowed.release()
    assert ask("biosam2_2d", save_label=True).result(FAST).status_code == 500
    until(lambda: not list(temporary.iterdir()))


# --- as before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"model": "deepedit"}, 404, 'model "deepedit" is not one of'),
        ({"image": "nobody"}, 404, 'image "nobody" is not in the datastore'),
        ({"foreground": [[600, 1, 1]]}, 400, "is outside the volume of 40 x 36 x 8 voxels"),
        ({"foreground": []}, 400, "No prompt"),
        ({"query": {"session_id": "nobody"}}, 404, 'session_id "nobody" is not a session'),
        ({"query": {"output": "dicom_seg"}}, 400, "needs images from a DICOMweb archive"),
    ],
)
def test_errors_in_the_thread_are_the_sentences_they_were(address, ask, sent, status, words):
    answer = ask(sent.pop("model", "biosam2_2d"), **sent).result(FAST)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
