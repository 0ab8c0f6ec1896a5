"""When the PACS is down, slow, broken or has lost something: a plain sentence, nothing half-written."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from lib.datastores.pacs import is_uid
from lib.errors import NotFound, Unavailable, UserError
from lib.imaging.answer import write_mask
from lib.imaging.volume import load_volume


@pytest.fixture
def series(proxy, write_series):
    made = write_series("patient")
    proxy.archive.add(made.folder)
    return made


def _left(folder: Path) -> list[str]:
    """What lies in the cache, MONAI Label's own empty folders and files apart."""
    own = {"labels", ".lock", "datastore_v2.json"}
    top = [path.name for path in folder.iterdir() if path.name not in own]
    return sorted(top + [path.name for path in (folder / "labels").rglob("*") if path.is_file()])


def _label(datastore, uid: str, tmp_path: Path) -> tuple[str, np.ndarray]:
    volume = load_volume(datastore.get_image_uri(uid))
    labels = np.zeros(volume.shape3, np.uint8)
    labels[3:9, 4:8, 2:4] = 1
    return str(write_mask(labels, volume, ".nii.gz", folder=tmp_path)), labels


def _patience(datastore, seconds: float) -> None:
    """Set the time limit: short for a slow archive only, since any may be slow on a busy machine."""
    datastore._pacs.timeout = seconds
    datastore._client._session.get_adapter("http://").seconds = seconds


def _plain(error: UserError) -> str:
    said = str(error)
    assert "\n" not in said and "Traceback" not in said and "/" not in said.replace("and/or", "")
    return said


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("error", "the PACS answered with status 500 when asked for"),
        ("slow", "the PACS is too slow: no answer for 1 seconds"),
        ("cut", "the PACS broke off when asked for series"),
        ("short", "the PACS sent 7 of the 8 instances of series"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_works_the_next_time(
    proxy, connect, series, fault, sentence
):
    datastore = connect(proxy.url)
    _patience(datastore, 1 if fault == "slow" else 20)
    proxy.fault = fault
    with pytest.raises(Unavailable) as caught:
        datastore.get_image_uri(series.uid)
    assert _plain(caught.value).startswith(sentence) and caught.value.status == 503
    assert _left(datastore._folder) == []
    assert series.uid not in datastore._datastore.objects
    proxy.fault = ""
    _patience(datastore, 20)
    assert load_volume(datastore.get_image_uri(series.uid)).n_slices == 8


def test_a_pacs_that_is_down_is_said(proxy, connect, series):
    datastore = connect(proxy.url)
    proxy.stop()
    for ask in (
        datastore.list_images,
        datastore.get_labeled_images,
        datastore.datalist,
        lambda: datastore.get_image_uri(series.uid),
        lambda: datastore.get_label_uri(series.uid, "final"),
        lambda: datastore.has(series.uid),
    ):
        with pytest.raises(Unavailable, match="the PACS cannot be reached"):
            ask()


def test_an_image_that_is_here_is_answered_while_the_pacs_is_down(proxy, connect, series):
    datastore = connect(proxy.url)
    path = datastore.get_image_uri(series.uid)
    proxy.stop()
    datastore._catalogue.changed()
    assert datastore.has(series.uid) and datastore.get_image_uri(series.uid) == path
    status = datastore.status()
    assert status["total"] == 1 and "cannot be reached" in status["error"]


def test_a_silent_pacs_is_not_waited_for_at_every_click(proxy, connect, series):
    """MONAI Label asks for the status with every inference."""
    datastore = connect(proxy.url, seconds=0.5)
    proxy.fault = "slow"
    datastore.status()
    asked = len(proxy.asked)
    assert "too slow" in datastore.status()["error"]
    assert len(proxy.asked) == asked


@pytest.mark.parametrize("fault", ["error", "slow", "refuse"])
def test_a_label_that_cannot_be_stored_is_stored_nowhere(proxy, connect, series, tmp_path, fault):
    datastore = connect(proxy.url)
    file, labels = _label(datastore, series.uid, tmp_path)
    before = _left(datastore._folder)
    _patience(datastore, 1 if fault == "slow" else 20)
    proxy.fault = fault
    with pytest.raises(Unavailable) as caught:
        datastore.save_label(series.uid, file, "final", {})
    _plain(caught.value)
    proxy.fault = ""
    _patience(datastore, 20)
    time.sleep(proxy.delay + 0.5 if fault == "slow" else 0)  # what the slow one still does
    assert _left(datastore._folder) == before
    assert datastore.get_label_info(series.uid, "final") == {}
    if fault != "slow":
        assert proxy.archive.segs() == []
    datastore.save_label(series.uid, file, "final", {})
    np.testing.assert_array_equal(load_volume(datastore.get_label_uri(series.uid, "final")).voxels, labels)


def test_a_label_of_a_series_that_was_deleted_is_refused(proxy, connect, series, tmp_path):
    datastore = connect(proxy.url)
    file, _ = _label(datastore, series.uid, tmp_path)
    proxy.archive.delete(series.uid)
    with pytest.raises(NotFound, match=f'series "{series.uid}" is not in the PACS: it was deleted there'):
        datastore.save_label(series.uid, file, "final", {})
    assert proxy.archive.segs() == []
    assert datastore.get_label_info(series.uid, "final") == {}


def test_a_label_whose_series_was_deleted_is_not_listed(proxy, connect, series, write_series, tmp_path):
    other = write_series("other")
    proxy.archive.add(other.folder)
    datastore = connect(proxy.url)
    for uid in (series.uid, other.uid):
        datastore.save_label(uid, _label(datastore, uid, tmp_path)[0], "final", {})
    proxy.archive.delete(series.uid)
    datastore._catalogue.changed()
    assert len(proxy.archive.segs()) == 2
    assert datastore.get_labeled_images() == [other.uid]
    assert [Path(case["image"]).name for case in datastore.datalist()] == [f"{other.uid}.nii.gz"]


def test_a_series_deleted_in_the_pacs_is_not_found(proxy, connect, series):
    datastore = connect(proxy.url)
    assert datastore.list_images() == [series.uid]
    proxy.archive.delete(series.uid)
    with pytest.raises(NotFound, match="deleted there or never was"):
        datastore.get_image_uri(series.uid)
    assert _left(datastore._folder) == []


def test_a_label_deleted_in_the_pacs_counts_no_more(proxy, connect, series, tmp_path):
    datastore = connect(proxy.url)
    datastore.save_label(series.uid, _label(datastore, series.uid, tmp_path)[0], "final", {})
    (seg,) = proxy.archive.segs()
    with pytest.raises(UserError, match="delete it there"):
        datastore.remove_label(series.uid, "final")
    proxy.archive.delete(str(seg.SeriesInstanceUID))
    datastore._catalogue.changed()
    assert datastore.get_labeled_images() == [] and datastore.datalist() == []
    assert datastore.get_label_uri(series.uid, "final") == ""


def test_one_case_that_cannot_be_read_does_not_end_the_training_list(
    proxy, connect, series, write_series, tmp_path, caplog
):
    other = write_series("other")
    proxy.archive.add(other.folder)
    datastore = connect(proxy.url)
    for uid in (series.uid, other.uid):
        datastore.save_label(uid, _label(datastore, uid, tmp_path)[0], "final", {})
    import pydicom

    # a label that names the series but has nothing in it that lies there
    broken = pydicom.dcmread(series.files[0])
    broken.Modality, broken.SeriesInstanceUID = "SEG", broken.SeriesInstanceUID[:-3] + "999"
    broken.SOPInstanceUID = broken.file_meta.MediaStorageSOPInstanceUID = broken.SOPInstanceUID[:-3] + "999"
    reference = pydicom.Dataset()
    reference.SeriesInstanceUID = series.uid
    broken.ReferencedSeriesSequence = [reference]
    broken.ContentDate, broken.ContentTime = "20990101", "000000"
    broken.save_as(tmp_path / "broken.dcm")
    proxy.archive.add(tmp_path / "broken.dcm")
    datastore._catalogue.changed()
    (case,) = datastore.datalist()
    assert Path(case["image"]).name == f"{other.uid}.nii.gz"
    assert "no DICOM SEG or damaged" in caplog.text


@pytest.mark.parametrize("name", ["..", "../1.2", "1..2", "1.2/3", "", "1.2.", "1" * 65, "patient"])
def test_only_a_uid_names_an_image(proxy, connect, series, name):
    assert not is_uid(name)
    datastore = connect(proxy.url)
    proxy.asked.clear()
    assert not datastore.has(name)
    assert proxy.asked == []
    with pytest.raises(NotFound):
        datastore.save_label(name, "x.nii.gz", "final", {})


def test_a_download_by_a_server_that_was_killed_is_cleared_away(proxy, connect, series):
    import os

    folder = connect(proxy.url)._folder
    old, now = folder / ".part-old", folder / ".part-now"
    for left in (old, now):
        left.mkdir()
        (left / "x.dcm").write_bytes(b"half")
    os.utime(old, (1, 1))
    connect(proxy.url)
    assert not old.exists() and now.exists()


def test_two_requests_for_one_series_download_it_once(proxy, connect, series):
    from concurrent.futures import ThreadPoolExecutor

    datastore = connect(proxy.url)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(datastore.get_image_uri, [series.uid] * 4))
    assert len(paths) == 1
    assert len([asked for asked in proxy.asked if asked.endswith(f"/series/{series.uid}")]) == 1
