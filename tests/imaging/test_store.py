"""Volumes are read once, shared, and let go when there are too many."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.errors import NotFound, Unprocessable
from lib.imaging.store import VolumeStore, load_cached, signature
from lib.imaging.volume import Volume, load_volume


class CountingLoader:
    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[str] = []
        self.seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> Volume:
        with self._lock:
            self.calls.append(path.name)
        time.sleep(self.seconds)
        return load_volume(path)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three volumes of 2000 bytes each."""
    paths = [tmp_path / f"{n}.nii" for n in range(3)]
    for n, path in enumerate(paths):
        nib.save(nib.Nifti1Image(np.full((10, 10, 10), n, np.int16), np.eye(4)), path)
    return paths


def test_a_second_request_does_not_read_again(files):
    loader = CountingLoader()
    store = VolumeStore(10_000, loader)
    assert store.load(files[0]) is store.load(str(files[0]))
    assert loader.calls == ["0.nii"]
    assert (len(store), store.nbytes) == (1, 2000)


def test_two_names_of_one_file_share_it(files, tmp_path):
    loader = CountingLoader()
    store = VolumeStore(10_000, loader)
    link = tmp_path / "link.nii"
    link.symlink_to(files[0])
    assert store.load(files[0]) is store.load(link)


def test_the_least_recently_used_goes_first(files):
    loader = CountingLoader()
    store = VolumeStore(4000, loader)
    for n in (0, 1, 0, 2, 0, 1):
        store.load(files[n])
    assert loader.calls == ["0.nii", "1.nii", "2.nii", "1.nii"]
    assert store.nbytes == 4000


def test_a_volume_over_the_bound_is_kept_alone(files):
    loader = CountingLoader()
    store = VolumeStore(100, loader)
    assert store.load(files[0]) is store.load(files[0])
    store.load(files[1])
    assert len(store) == 1


def test_a_file_that_changed_is_read_again_and_replaces_the_old_one(files):
    store = VolumeStore(10_000)
    assert store.load(files[0]).voxels.max() == 0
    nib.save(nib.Nifti1Image(np.full((10, 10, 10), 9, np.int16), np.eye(4)), files[0])
    os.utime(files[0], ns=(1, 1))
    assert store.load(files[0]).voxels.max() == 9
    assert len(store) == 1


def test_a_folder_changes_when_a_slice_does(dicom_series, voxels):
    folder = dicom_series(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]))
    store = VolumeStore(10_000)
    assert store.load(folder) is store.load(folder)
    before = signature(folder)
    (folder / "IM0001").unlink()
    assert signature(folder) != before
    assert store.load(folder).n_slices == 4


def test_a_detached_header_changes_with_its_data(tmp_path):
    header, data = tmp_path / "a.mhd", tmp_path / "a.raw"
    header.write_text("x")
    data.write_bytes(b"1")
    before = signature(header)
    data.write_bytes(b"12")
    assert signature(header) != before


def test_concurrent_first_requests_read_once(files):
    loader = CountingLoader(seconds=0.2)
    store = VolumeStore(10_000, loader)
    with ThreadPoolExecutor(8) as pool:
        volumes = list(pool.map(store.load, [files[0]] * 8))
    assert loader.calls == ["0.nii"]
    assert all(volume is volumes[0] for volume in volumes)


def test_different_files_are_read_at_the_same_time(files):
    loader = CountingLoader(seconds=0.3)
    store = VolumeStore(10_000, loader)
    start = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(store.load, files))
    assert time.perf_counter() - start < 0.75


def test_a_failure_reaches_everyone_who_waited_and_is_not_kept(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"nothing")
    loader = CountingLoader(seconds=0.1)
    store = VolumeStore(10_000, loader)

    def attempt(_: int) -> type[BaseException] | None:
        try:
            store.load(path)
        except Unprocessable as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(attempt, range(4))) == {Unprocessable}
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)), path)
    assert store.load(path).shape3 == (3, 3, 3)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="'gone.nii'"):
        VolumeStore().load(tmp_path / "gone.nii")


def test_the_store_can_be_emptied(files):
    store = VolumeStore(10_000)
    volume = store.load(files[0])
    store.forget()
    assert len(store) == 0 and store.load(files[0]) is not volume


def test_a_negative_bound_is_a_bug():
    with pytest.raises(ValueError, match="-1"):
        VolumeStore(-1)


def test_the_server_shares_one_store(files):
    assert load_cached(files[0]) is load_cached(files[0])
