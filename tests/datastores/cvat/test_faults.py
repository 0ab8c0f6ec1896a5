"""What can go wrong with a CVAT: a plain sentence, and nothing half-written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib.datastores.cvat import annotations, client
from lib.datastores.cvat.client import Account
from lib.datastores.cvat.datastore import CvatDatastore
from lib.datastores.cvat.exports import ATTEMPTS, ExportFailed
from lib.errors import NotFound, Unavailable, Unprocessable

from .double import NAME, Cvat

Connect = Callable[..., CvatDatastore]
IMAGE = "task-1_frame-000001"


def zipped(content: bytes | str, name: str = "annotations.xml") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def assert_nothing_half_written(folder: Path) -> None:
    """No parts are left, and every image and label that is there is whole."""
    left = [path.name for path in folder.rglob("*") if ".part-" in path.name]
    assert left == []
    assert not list(folder.rglob("annotations/*"))
    assert not list(folder.rglob("labels/*/*"))


@pytest.mark.parametrize(
    ("account", "sentence"),
    [
        (Account(NAME, "wrong"), f'CVAT does not let "{NAME}" in: the name or the password is wrong'),
        (Account(key="wrong"), "CVAT does not take the API key"),
        (Account(), "CVAT asks who this server is"),
    ],
)
def test_who_is_not_let_in_is_told_so(cvat: Cvat, connect: Connect, account: Account, sentence: str):
    datastore = connect(cvat, account=account)
    with pytest.raises(Unavailable, match=sentence):
        datastore.list_images()
    assert sentence in datastore.status()["error"]


def test_passwords_and_keys_are_not_printed():
    assert "secret" not in repr(Account("somebody", "secret", "secret"))


def test_a_cvat_that_is_down_is_a_sentence_and_images_that_are_here_go_on(current: Cvat, connect: Connect):
    datastore = connect(current)
    path = datastore.get_image_uri(IMAGE)
    current.stop()
    datastore.refresh()
    for ask in (datastore.list_images, datastore.final_labels, datastore.datalist):
        with pytest.raises(Unavailable, match="CVAT cannot be reached"):
            ask()
    with pytest.raises(Unavailable):
        datastore.get_image_uri("task-1_frame-000000")
    assert datastore.get_image_uri(IMAGE) == path
    assert datastore.has(IMAGE)
    assert datastore.status()["total"] == 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("error", "CVAT answered with status 500 when asked for"),
        ("closed", "CVAT broke off when asked for"),
        ("slow", "CVAT is too slow: no answer for 0.2 seconds when asked for"),
    ],
)
def test_a_cvat_that_fails_in_the_middle_leaves_nothing(
    cvat: Cvat, connect: Connect, tmp_path: Path, fault: str, sentence: str
):
    cvat.delay = 1.0
    datastore = connect(cvat, seconds=0.2 if fault == "slow" else 20.0)
    if fault == "slow":
        datastore._client.seconds = 0.2
    cvat.fault = fault
    with pytest.raises(Unavailable, match=sentence):
        datastore.list_images()
    cvat.fault = ""
    datastore._client._session.get_adapter("http://").seconds = 20.0
    datastore.list_images()
    datastore._client._session.get_adapter("http://").seconds = 0.2 if fault == "slow" else 20.0
    cvat.fault = fault
    with pytest.raises((Unavailable, ExportFailed)):
        datastore.get_label_uri(IMAGE, "final")
    with pytest.raises(Unavailable, match=sentence):
        datastore.get_image_uri(IMAGE)
    assert_nothing_half_written(tmp_path)


def test_a_download_that_breaks_off_leaves_nothing_and_the_next_one_works(
    cvat: Cvat, connect: Connect, tmp_path: Path
):
    datastore = connect(cvat)
    cvat.fault = "cut"
    with pytest.raises(Unavailable, match="CVAT broke off when asked for frame 1 of task 1"):
        datastore.get_image_uri(IMAGE)
    with pytest.raises(Unavailable, match="CVAT broke off when asked for the annotations of task 1"):
        datastore.get_label_uri(IMAGE, "final")
    assert_nothing_half_written(tmp_path)
    assert not list(tmp_path.rglob("images/*"))
    cvat.fault = ""
    assert Path(datastore.get_label_uri(IMAGE, "final")).exists()


def test_an_export_that_cvat_forgets_each_time_is_a_sentence(current: Cvat, connect: Connect, tmp_path: Path):
    datastore = connect(current)
    current.fault = "expired"
    with pytest.raises(Unavailable, match="CVAT forgets the export of task 1 each time"):
        datastore.get_label_uri(IMAGE, "final")
    assert sum(asked.startswith("POST /api/tasks/1/dataset/export") for asked in current.asked) == ATTEMPTS
    assert_nothing_half_written(tmp_path)


def test_two_processes_of_one_account_both_get_their_export(current: Cvat, connect: Connect):
    # while one export is made CVAT refuses a second one, and forgets the first when the second begins
    current.waits = 3
    stores = [connect(current), connect(current)]
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda store: store.get_label_uri(IMAGE, "final"), stores))
    assert all(Path(path).exists() for path in paths)


def test_an_export_that_is_never_ready_is_given_up(cvat: Cvat, connect: Connect, tmp_path: Path):
    datastore = connect(cvat, export_seconds=0.1)
    cvat.fault = "endless"
    with pytest.raises(Unavailable, match="CVAT has not exported task 1 within 0.1 seconds"):
        datastore.get_label_uri(IMAGE, "final")
    assert_nothing_half_written(tmp_path)


def test_a_task_that_cannot_be_exported_hides_no_other(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    cvat.fault = "failed"
    with pytest.raises(ExportFailed, match="CVAT could not export task 1"):
        datastore.get_label_uri(IMAGE, "final")
    assert datastore.final_labels() == {}
    cvat.fault = ""
    assert IMAGE in datastore.final_labels()


def test_a_task_that_was_deleted_is_not_found(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    task = datastore._catalogue.listing().tasks[1]
    for current in (None, cvat.current):  # a server that is not known yet, and one that is
        datastore._exports._current = current
        removed = cvat.tasks.pop(1)
        with pytest.raises(NotFound, match="task 1"):
            datastore._book(task)
        cvat.tasks[1] = removed


@pytest.mark.parametrize(
    ("export", "sentence"),
    [
        (b"this is no zip", "the export of task 1 from CVAT is damaged"),
        (zipped("<annotations/>")[:-30], "the export of task 1 from CVAT is damaged"),
        (zipped("<annotations>", "../../annotations.xml"), "has no annotations.xml in it"),
        (zipped("<annotations><image id='0'"), "the export of task 1 from CVAT is damaged"),
        (zipped("<annotations><image id='x'/></annotations>"), "the export of task 1 from CVAT is damaged"),
        (zipped("<html></html>"), "cannot be read: it begins with <html>"),
        (
            zipped('<!DOCTYPE a [<!ENTITY b "bomb">]><annotations>&b;</annotations>'),
            "cannot be read: it declares a document type",
        ),
        (
            zipped('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>'),
            "cannot be read: it declares a document type",
        ),
        (zipped(b"\xff\xfe\x00nonsense"), "the export of task 1 from CVAT is damaged"),
    ],
)
def test_a_damaged_export_is_a_sentence(
    current: Cvat, connect: Connect, tmp_path: Path, export: bytes, sentence: str
):
    current.export = export
    with pytest.raises(Unavailable, match=sentence):
        connect(current).get_label_uri(IMAGE, "final")
    assert_nothing_half_written(tmp_path)


def test_a_damaged_zip_keeps_what_was_known(current: Cvat, connect: Connect):
    datastore = connect(current)
    before = datastore.final_labels()
    current.export = b"no zip"
    current.tasks[1].change(1)
    datastore.refresh()
    with pytest.raises(Unavailable, match="damaged"):
        datastore.final_labels()
    current.export = None
    assert datastore.final_labels() == before


def test_what_unpacks_to_too_much_is_not_unpacked(
    current: Cvat, connect: Connect, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr(annotations, "UNPACKED_BYTES", 1 << 20)
    current.export = zipped(b"<annotations>" + b" " * (8 << 20))
    assert len(current.export) < 20_000
    with pytest.raises(Unavailable, match="unpacks to more than"):
        connect(current).get_label_uri(IMAGE, "final")
    assert_nothing_half_written(tmp_path)


def test_lists_and_frames_that_are_too_large_are_not_read(current: Cvat, connect: Connect, monkeypatch):
    from lib.datastores.cvat import datastore as module

    datastore = connect(current)
    datastore.list_images()
    monkeypatch.setattr(module, "PICTURE_BYTES", 1000)
    with pytest.raises(Unavailable, match="CVAT sent more than 0 MB when asked for frame 1 of task 1"):
        datastore.get_image_uri(IMAGE)
    monkeypatch.setattr(client, "JSON_BYTES", 100)
    datastore.refresh()
    with pytest.raises(Unavailable, match="when asked for the list of tasks"):
        datastore.list_images()


def test_a_list_without_an_end_is_no_trap(current: Cvat, connect: Connect, monkeypatch):
    page = current.page
    monkeypatch.setattr(current, "page", lambda *given: {**page(*given), "next": "http://x/?page=9"})
    assert len(connect(current).list_images()) == 17


def test_a_frame_that_is_no_picture_is_a_sentence(
    current: Cvat, connect: Connect, monkeypatch, tmp_path: Path
):
    picture = type(current.tasks[1].pictures[1])
    monkeypatch.setattr(picture, "content", b"no picture")
    with pytest.raises(Unprocessable, match="frame 1 of task 1 cannot be read as a picture"):
        connect(current).get_image_uri(IMAGE)
    monkeypatch.undo()
    monkeypatch.setattr(picture, "size", (40, 31))
    with pytest.raises(Unprocessable, match="frame 1 of task 1 is 40 x 30 pixels, and CVAT says 40 x 31"):
        connect(current).get_image_uri(IMAGE)
    assert not list(tmp_path.rglob("images/*"))


def test_a_result_on_another_server_is_not_fetched(current: Cvat, connect: Connect, monkeypatch):
    request = current.request

    def elsewhere(name: str):
        code, told = request(name)
        return code, {**told, "result_url": "http://elsewhere/secret"} if code == 200 else told

    monkeypatch.setattr(current, "request", elsewhere)
    with pytest.raises(Unavailable, match="that is none of its own"):
        connect(current).get_label_uri(IMAGE, "final")
