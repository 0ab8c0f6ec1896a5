"""The real server on a real PACS: a click marks the voxel that was clicked, and labels go there and back."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from programs import MonaiLabel

from lib.imaging.answer import write_mask
from lib.imaging.readers.dicom_layout import read_layout
from lib.imaging.seg.read import read_seg
from lib.imaging.volume import load_volume

pytestmark = pytest.mark.slow


class Server(MonaiLabel):
    def infer(self, model: str, image: str, output: str = "all", **params: object) -> requests.Response:
        query = {"image": image, "output": output}
        body = {"params": json.dumps(params)}
        return requests.post(f"{self.address}/infer/{model}", params=query, data=body, timeout=120)


@pytest.fixture(scope="session")
def server(session_proxy, tmp_path_factory) -> Iterator[Server]:
    patience = {"MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT": "8"}
    with Server(session_proxy.url, tmp_path_factory.mktemp("server"), environment=patience) as running:
        yield running


CENTRE = (40, 28, 5)


def _bright(shape: tuple[int, int, int] = (72, 60, 10), base: int = 0) -> np.ndarray:
    """A bright ellipsoid around `CENTRE` on dark ground."""
    grid = np.indices(shape)
    parts = ((g - c) / r for g, c, r in zip(grid, CENTRE, (12, 10, 3.2), strict=True))
    inside = sum(part**2 for part in parts) <= 1
    noise = np.random.default_rng(1).normal(0, 6, shape)
    # both in the window of a body, once the intercept of a CT is taken off the base
    return (base + np.where(inside, 200, 50) + noise).round().astype(np.int16)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_click_on_a_series_of_the_pacs_marks_the_voxel_that_was_clicked(
    server, session_proxy, write_series, tmp_path, modality
):
    lps = np.diag([0.7, 0.9, -3.0, 1.0])  # written from head to foot
    base = 1024 * (modality == "CT")
    series = write_series("patient", _bright(base=base), lps, modality, skip=(2,))
    session_proxy.archive.add(series.folder)
    direct = load_volume(series.folder)
    # the slice that was written as number 5, wherever it is in the volume
    k = next(
        k for k in range(direct.n_slices) if (direct.voxels[..., k] == series.voxels[..., 5] - base).all()
    )
    click = [CENTRE[0], CENTRE[1], k]
    answer = server.infer(
        "biosam2_2d",
        series.uid,
        "image",
        foreground=[click],
        background=[],
        result_extension=".nrrd",
        result_dtype="uint8",
        result_compress=False,
    )
    assert answer.status_code == 200, answer.text
    payload = answer.content.split(b"\n\n", 1)[1]
    found = np.frombuffer(payload, np.uint8).reshape(direct.shape3, order="F")
    expected = series.voxels[..., 5] > base + 125
    assert found[tuple(click)] == 1 and not np.delete(found, k, axis=2).any()
    assert 2 * (found[..., k].astype(bool) & expected).sum() / (found[..., k].sum() + expected.sum()) > 0.7
    # what is missing is said beside the answer
    said = server.infer("biosam2_2d", series.uid, "json", foreground=[click], background=[]).json()
    assert said["warnings"][0].startswith("1 slice is missing")


def _save(server: Server, uid: str, labels: np.ndarray, tmp_path: Path, extension: str = ".nii.gz"):
    image = tmp_path / "image.nii.gz"
    image.write_bytes(server.get("/datastore/image", image=uid).content)
    file = write_mask(labels, load_volume(image), extension, folder=tmp_path)
    info = [{"name": "liver", "idx": 1}, {"name": "tumour", "idx": 2}]
    return requests.put(
        f"{server.address}/datastore/label",
        params={"image": uid, "tag": "final"},
        data={"params": json.dumps({"label_info": info})},
        files={"label": (file.name, file.read_bytes())},
        timeout=60,
    )


@pytest.mark.parametrize("kind", ["CT", "MR", "US"])
def test_a_label_goes_to_the_pacs_and_into_the_training_list(
    server, session_proxy, write_series, cine, tmp_path, kind
):
    if kind == "US":
        uid, shape = session_proxy.archive.add(cine), (100, 100, 2)
    else:
        series = write_series("patient", _bright(), modality=kind)
        uid, shape = session_proxy.archive.add(series.folder), (72, 60, 10)
    labels = np.zeros(shape, np.uint8)
    labels[20:30, 15:40, 1] = 1
    labels[35:40, 15:40, 1] = 2
    saved = _save(server, uid, labels, tmp_path)
    assert saved.status_code == 200, saved.text
    before = load_volume(tmp_path / "image.nii.gz")

    shutil.rmtree(server.cache)
    cases = server.get("/datastore/", output="train").json()
    (case,) = [case for case in cases if uid in case["image"]]
    image, label = load_volume(case["image"]), load_volume(case["label"])
    np.testing.assert_array_equal(label.voxels, labels)
    np.testing.assert_array_equal(image.voxels, before.voxels)
    np.testing.assert_array_equal(label.affine, before.affine)

    (tmp_path / "downloaded.nii.gz").write_bytes(
        server.get("/datastore/label", label=uid, tag="final").content
    )
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "downloaded.nii.gz").dataobj), labels)
    status = server.get("/datastore/").json()
    assert status["completed"] >= 1 and status["total"] >= status["completed"]


def test_the_next_sample_is_a_series_without_a_label(server, session_proxy, write_series, tmp_path):
    session_proxy.archive.clear()
    labelled = write_series("labelled", _bright())
    session_proxy.archive.add(labelled.folder)
    assert _save(server, labelled.uid, np.ones((72, 60, 10), np.uint8), tmp_path).status_code == 200
    fresh = write_series("fresh", _bright(), modality="US")
    session_proxy.archive.add(fresh.folder)
    time.sleep(6)  # lists are kept for seconds
    found = requests.post(f"{server.address}/activelearning/random", json={}, timeout=60).json()
    assert found["id"] == fresh.uid and Path(found["path"]).exists()


def test_an_answer_as_dicom_seg_has_every_slice(server, session_proxy, write_series, tmp_path):
    series = write_series("patient", _bright())
    session_proxy.archive.add(series.folder)
    answer = server.infer(
        "biosam2_2d",
        series.uid,
        "dicom_seg",
        foreground=[list(CENTRE)],
        background=[],
        label_info=[{"name": "liver", "idx": 1}],
    )
    assert answer.status_code == 200, answer.text
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.NumberOfFrames == 10
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "biosam2_nano"
    found = read_seg(seg, read_layout(series.folder))
    assert found.voxels[CENTRE] == 1 and found.segments[0].name == "liver"


@pytest.mark.parametrize("fault", ["error", "slow", "cut", "short"])
def test_a_pacs_that_fails_is_said_to_the_person_and_the_server_goes_on(
    server, session_proxy, write_series, tmp_path, fault
):
    series = write_series("patient", _bright())
    session_proxy.archive.add(series.folder)
    session_proxy.fault = fault
    click = {"foreground": [list(CENTRE)], "background": []}
    answer = server.infer("biosam2_2d", series.uid, "json", **click)
    assert answer.status_code == 503 and answer.json()["detail"].startswith("the PACS ")
    assert server.get("/info/").status_code == 200
    assert not [path for path in server.cache.rglob("*") if series.uid in path.name or ".part" in path.name]
    session_proxy.fault = ""
    assert server.infer("biosam2_2d", series.uid, "json", **click).status_code == 200
    session_proxy.fault = fault if fault in ("error", "slow") else "refuse"
    labels = np.zeros((72, 60, 10), np.uint8)
    labels[3:5, 3:5, 3:5] = 1
    saved = _save(server, series.uid, labels, tmp_path)
    assert saved.status_code == 503 and saved.json()["detail"].startswith("the PACS ")
    session_proxy.fault = ""
    assert server.infer("biosam2_2d", series.uid, "json", **click).status_code == 200


def test_a_label_of_a_deleted_series_is_refused_with_a_sentence(
    server, session_proxy, write_series, tmp_path
):
    series = write_series("patient", _bright())
    session_proxy.archive.add(series.folder)
    assert server.get("/datastore/image", image=series.uid).status_code == 200
    session_proxy.archive.delete(series.uid)
    saved = _save(server, series.uid, np.ones((72, 60, 10), np.uint8), tmp_path)
    assert saved.status_code == 404
    assert (
        saved.json()["detail"]
        == f'series "{series.uid}" is not in the PACS: it was deleted there or never was.'
    )


def test_a_series_that_the_pacs_does_not_have_is_not_found(server):
    answer = server.infer("biosam2_2d", "1.2.3.4.5", "json", foreground=[[1, 1, 1]])
    assert answer.status_code == 404
    assert server.get("/datastore/image", image="1.2.3.4.5").status_code == 404
    assert server.get("/datastore/label", label="1.2.3.4.5", tag="final").status_code == 404
