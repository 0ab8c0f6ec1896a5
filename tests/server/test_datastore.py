"""MONAI Label's datastore of a folder: no half-read table with several threads, and otherwise as it was."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from monailabel.config import Settings
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.scores import INFO
from lib.server import datastore as datastore_module
from lib.server.datastore import TABLE, Folder
from lib.server.datastore import folder as open_folder


@pytest.fixture
def folder(tmp_path: Path) -> LocalDatastore:
    for n in range(30):
        (tmp_path / f"image{n}.nii.gz").write_bytes(b"x")
    return Folder(str(tmp_path))


def test_every_method_that_is_guarded_is_one_of_monai_labels():
    assert all(hasattr(LocalDatastore, name) for name in TABLE)


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


def test_what_is_removed_is_gone_at_once(tmp_path):
    """MONAI Label's own lists it until it has seen that the file is gone, and would not make it again."""
    studies, label = tmp_path / "studies", tmp_path / "label.nii.gz"
    studies.mkdir()
    for n in range(2):
        (studies / f"image{n}.nii.gz").write_bytes(b"x")
    label.write_bytes(b"y")
    folder = Folder(str(studies), auto_reload=True)
    try:
        for n in range(2):
            folder.save_label(f"image{n}", str(label), "original", {})
        folder.remove_label("image0", "original")
        assert folder.get_label_uri("image0", "original") == ""
        folder.remove_image("image1")
        assert folder.list_images() == ["image0"]
        assert LocalDatastore(str(studies)).list_images() == ["image0"], "and on disk"
    finally:
        folder._observer.stop()
        folder._observer.join()


def change(datastore: LocalDatastore, studies: Path, file: Path) -> dict:
    """Everything that happens to a folder; what the datastore tells of it at the end."""
    datastore.save_label("image1", str(file), "final", {"label_info": [{"name": "liver", "idx": 1}]})
    datastore.save_label("image2", str(file), "original", {})
    datastore.update_image_info("image3", {"odd": Path("a"), "text": "ä", "number": 0.1, "nothing": None})
    datastore.add_image("added", str(file), {"PatientID": "7"})
    (studies / "image4.nii.gz").unlink()
    (studies / "copied.nii.gz").write_bytes(b"x")
    (studies / "labels" / "final" / "image5.nii.gz").write_bytes(b"y")
    (studies / "labels" / "final" / "of-nothing.nii.gz").write_bytes(b"y")
    (studies / "labels" / "mine").mkdir()
    (studies / "labels" / "mine" / "image6.nii.gz").write_bytes(b"y")
    datastore.refresh()
    (studies / "labels" / "final" / "image1.nii.gz").unlink()
    datastore.refresh()
    told = {
        "images": sorted(datastore.list_images()),
        "labelled": sorted(datastore.get_labeled_images()),
        "status": datastore.status(),
        "infos": {image: datastore.get_image_info(image) for image in sorted(datastore.list_images())},
        "unknown": (datastore.get_image_info("nobody"), datastore.get_image_uri("nobody")),
        "file": json.loads((studies / "datastore_v2.json").read_text()),
    }
    return json.loads(json.dumps(told, sort_keys=True, default=str).replace(str(studies), "studies"))


def without_times(told):
    if isinstance(told, dict):
        return {key: without_times(value) for key, value in told.items() if key != "ts"}
    return told


def test_it_does_what_monai_labels_own_does(tmp_path):
    label = tmp_path / "label.nii.gz"
    label.write_bytes(b"y")
    told = []
    for kind in (LocalDatastore, Folder):
        studies = tmp_path / kind.__name__
        studies.mkdir()
        for n in range(10):
            (studies / f"image{n}.nii.gz").write_bytes(b"x")
        told.append(without_times(change(kind(str(studies)), studies, label)))
    assert told[0] == told[1]


def test_what_strategies_know_is_kept_and_not_sent_to_clients(folder):
    folder.update_image_info("image3", {INFO: {"key": "k"}, "PatientID": "7"})
    told = folder.json()["objects"]["image3"]["image"]["info"]
    assert INFO not in told and told["PatientID"] == "7"
    assert folder.get_image_info("image3")[INFO] == {"key": "k"}
    assert Folder(folder._datastore_path).get_image_info("image3")[INFO] == {"key": "k"}


def test_an_image_is_looked_up_while_somebody_writes(folder):
    with folder._table, ThreadPoolExecutor(1) as pool:
        uri = pool.submit(folder.get_image_uri, "image3").result(10)
        info = pool.submit(folder.get_image_info, "image3").result(10)
    assert uri == info["path"] and uri.endswith("image3.nii.gz")


# --- videos ----------------------------------------------------------------------------------------------


def test_videos_are_listed_and_of_dicom_files_those_of_several_frames(tmp_path):
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    shutil.copy(files / "SC_rgb_rle_2frame.dcm", tmp_path / "cine.dcm")
    shutil.copy(files / "CT_small.dcm", tmp_path / "slice.dcm")
    (tmp_path / "pictures.frames").mkdir()
    for name in ("film.mp4", "old.avi", "more.frames.zip", "scan.nii.gz", "notes.txt", "other.zip"):
        (tmp_path / name).write_bytes(b"x")
    folder = open_folder(str(tmp_path))
    assert sorted(folder.list_images()) == ["cine", "film", "more", "old", "pictures", "scan"]
    assert [name for name in sorted(folder.list_images()) if folder.is_video(name)] == [
        "film",
        "more",
        "old",
        "pictures",
    ]
    assert folder.get_image_uri("more").endswith("more.frames.zip")


def test_what_the_environment_says_is_listed_and_nothing_else(tmp_path, monkeypatch):
    said = Settings(MONAI_LABEL_DATASTORE_FILE_EXT=["*.nii.gz"])
    monkeypatch.setattr(datastore_module, "settings", said)
    (tmp_path / "film.mp4").write_bytes(b"x")
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    assert open_folder(str(tmp_path)).list_images() == ["scan"]
