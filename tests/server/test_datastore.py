"""MONAI Label's datastore of a folder under several threads: no half-read table."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore

from lib.server.datastore import TABLE, Folder, guarded


@pytest.fixture
def folder(tmp_path: Path) -> LocalDatastore:
    for n in range(30):
        (tmp_path / f"image{n}.nii.gz").write_bytes(b"x")
    return guarded(LocalDatastore(str(tmp_path)))


def test_a_folder_is_guarded_and_others_left_alone(folder):
    assert type(folder) is Folder
    assert all(hasattr(LocalDatastore, name) for name in TABLE)
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
