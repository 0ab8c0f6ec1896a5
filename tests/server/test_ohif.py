"""What the server adds to OHIF: a script tag, the files behind it, where voxels are. No browser here."""

from __future__ import annotations

from pathlib import Path

import monailabel
import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.datastore.local import LocalDatastore

from lib.server import errors, ohif

BUNDLE = Path(monailabel.__file__).parent / "endpoints" / "static" / "ohif"
FILES = sorted(path.name for path in ohif.CLIENT.iterdir())


class App:
    """As much of the app as the routes ask for."""

    def __init__(self, folder: Path) -> None:
        self.folder = LocalDatastore(str(folder), images_dir=".", labels_dir="labels")

    def datastore(self) -> LocalDatastore:
        return self.folder

    def is_known(self, image: str, datastore: LocalDatastore) -> bool:
        return image in datastore.list_images()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    app = FastAPI()
    app.include_router(ohif.router)
    errors.install(app)
    affine = np.array([[0, -0.8, 0, 10], [0.7, 0, 0.1, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((7, 6, 5), np.int16), affine), tmp_path / "scan.nii.gz")
    served = App(tmp_path)
    monkeypatch.setattr(ohif, "ready_app", lambda: served)
    return TestClient(app)


@pytest.mark.parametrize("path", ["", "viewer", "monai-label", "a/mode/of/tomorrow"])
def test_every_page_of_ohif_has_the_script_once(client, path):
    answer = client.get(f"/ohif/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.count(ohif.SCRIPT) == 1
    assert answer.text.replace(ohif.SCRIPT, "") == (BUNDLE / "index.html").read_text()


def test_other_files_of_ohif_are_left_as_they_are(client):
    for name in ("app-config.js", "manifest.json", next(BUNDLE.glob("*.wasm")).name):
        assert client.get(f"/ohif/{name}").content == (BUNDLE / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_panel_is_served_and_asked_for_again_each_time(client, name):
    answer = client.get(f"/biosam2/ohif/{name}")
    assert answer.content == (ohif.CLIENT / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == ohif.TYPES[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["missing.js", "..%2F..%2Fmain.py", "%2Fetc%2Fpasswd", ".."])
def test_nothing_else_is_served(client, name):
    assert client.get(f"/biosam2/ohif/{name}").status_code == 404


def test_the_grid_of_an_image_is_in_the_coordinates_of_dicom(client):
    grid = client.get("/biosam2/grid", params={"image": "scan"}).json()
    assert grid["shape"] == [7, 6, 5]
    assert grid["slice_axis"] == 2
    assert grid["study"] is None
    # RAS of a NIfTI file: the first two turn their sign
    expected = [[0, 0.8, 0, -10], [-0.7, 0, -0.1, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(grid["to_world"], expected, atol=1e-5)


@pytest.mark.parametrize("image", ["nobody", "../scan", "/etc/passwd", ""])
def test_an_image_that_is_not_there_is_named(client, image):
    answer = client.get("/biosam2/grid", params={"image": image})
    assert answer.status_code == 404
    assert answer.json()["detail"] == f'image "{image}" is not in the datastore.'
