"""MONAI Label's datastores under several threads: no half-read table, no half-fetched series."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from monailabel.datastore import dicom
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from lib.server.datastore import TABLE, Archive, Folder, guarded


@pytest.fixture
def folder(tmp_path: Path) -> LocalDatastore:
    for n in range(30):
        (tmp_path / f"image{n}.nii.gz").write_bytes(b"x")
    return guarded(LocalDatastore(str(tmp_path)))


def test_a_folder_and_an_archive_are_guarded_and_others_left_alone(folder):
    assert type(folder) is Folder
    assert all(hasattr(LocalDatastore, name) for name in TABLE)
    archive = object.__new__(DICOMWebDatastore)
    assert type(guarded(archive)) is Archive
    other = object()
    assert guarded(other) is other


def test_the_list_is_whole_while_the_folder_is_read_again_and_again(folder):
    done = threading.Event()

    def read_again() -> None:
        while not done.is_set():
            folder.refresh()

    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(read_again)
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert len(folder.list_images()) == 30
                assert folder.get_image_uri("image3").endswith("image3.nii.gz")
                assert folder.status()["total"] == 30
        finally:
            done.set()
        busy.result()


def test_labels_saved_at_once_are_all_there(folder, tmp_path):
    label = tmp_path / "label.nii.gz"
    label.write_bytes(b"y")
    with ThreadPoolExecutor(8) as pool:
        saved = [pool.submit(folder.save_label, f"image{n}", str(label), "final", {}) for n in range(30)]
        seen = [pool.submit(folder.status) for _ in range(30)]
        for future in (*saved, *seen):
            future.result()
    assert folder.status()["completed"] == 30
    assert LocalDatastore(str(tmp_path)).status()["completed"] == 30, "and on disk"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive whose slices arrive one by one."""
    store = guarded(_make(tmp_path))
    fetched: defaultdict[str, int] = defaultdict(int)

    def download(_, series: str, folder: str, *__: object) -> None:
        fetched[series] += 1
        Path(folder).mkdir(parents=True)
        for n in range(5):
            (Path(folder) / f"{n}.dcm").write_bytes(b"")
            time.sleep(0.02)

    def convert(folder: str, is_seg: bool = False) -> str:
        file = tmp_path / f"{Path(folder).name}-{len(list(Path(folder).iterdir()))}.nii.gz"
        file.write_bytes(str(len(list(Path(folder).iterdir()))).encode())
        return str(file)

    monkeypatch.setattr(dicom, "dicom_web_download_series", download)
    monkeypatch.setattr(dicom, "dicom_to_nifti", convert)
    monkeypatch.setattr(Archive, "_dicom_info", lambda *_: {})
    store.fetched = fetched
    return store


def _make(tmp_path: Path) -> DICOMWebDatastore:
    store = object.__new__(DICOMWebDatastore)
    store._client, store._fetch_by_frame, store._convert_to_nifti = None, False, True
    LocalDatastore.__init__(store, str(tmp_path / "cache"), extensions=("*.nii.gz",))
    return store


def test_a_series_is_fetched_once_and_whole_for_everybody(archive):
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(archive.get_image_uri, series) for series in ("1.2", "1.3") * 3]
        paths = [future.result() for future in asked]
    assert archive.fetched == {"1.2": 1, "1.3": 1}
    # both images lie in the cache, made of all their slices
    assert {Path(path).read_bytes() for path in archive_files(archive)} == {b"5"}
    assert len({Path(path).name for path in paths}) >= 2


def archive_files(archive: Archive) -> list[Path]:
    return list(Path(archive._datastore.image_path()).glob("*.nii.gz"))


def test_a_series_may_be_removed_while_it_is_asked_for(archive):
    archive.get_image_uri("1.2")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(archive.get_image_uri, "1.2") for _ in range(20)]
        removed = pool.submit(archive.remove_image, "1.2")
        for future in (*asked, removed):
            future.result(20)
