"""The next case over HTTP: what clients send, what they read, and who has what."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from main import BioSAM2App
from monailabel.client.client import MONAILabelClient
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.endpoints.user import auth

from lib.activelearning.next_case import NextCase
from lib.activelearning.scores import INFO, CaseScore, StructureScore
from lib.server.datastore import Folder

IMAGES = 6
SHAPE = (8, 9, 4)


@pytest.fixture
def datastore(tmp_path: Path) -> LocalDatastore:
    (tmp_path / "studies").mkdir()
    for n in range(IMAGES):
        voxels = np.zeros(SHAPE, np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "studies" / f"image{n}.nii.gz")
    return Folder(str(tmp_path / "studies"))


@pytest.fixture
def next_case(
    instance: BioSAM2App, datastore: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> NextCase:
    """The running app, on a folder of six images of this test."""
    next_case = NextCase(lambda: datastore, tmp_path / "claims.json", 30)
    monkeypatch.setattr(instance, "_datastore", datastore)
    monkeypatch.setattr(instance, "next_case", next_case)
    monkeypatch.setattr(instance, "_strategies", next_case.strategies())
    return next_case


@pytest.fixture
def ask(address: str, next_case: NextCase) -> Callable[..., requests.Response]:
    def ask(client: str | None = None, strategy: str = "biosam2", **params: object) -> requests.Response:
        sent = {"client_id": client, **params}
        return requests.post(f"{address}/activelearning/{strategy}", json=sent, timeout=30)

    return ask


@pytest.fixture
def submit(address: str, tmp_path: Path) -> Callable[[str, str], None]:
    def submit(image: str, tag: str = "final") -> None:
        file = tmp_path / "label.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), file)
        with file.open("rb") as stream:
            requests.put(
                f"{address}/datastore/label",
                params={"image": image, "tag": tag},
                files={"label": ("label.nii.gz", stream)},
                timeout=30,
            ).raise_for_status()

    return submit


def test_a_client_that_takes_the_first_strategy_takes_the_default(address, next_case):
    strategies = requests.get(f"{address}/info/", timeout=30).json()["strategies"]
    assert list(strategies) == ["biosam2", "random", "foreground_random", "uncertainty", "diversity"]


def test_a_request_that_names_no_strategy_gets_the_default(address, next_case, monkeypatch):
    used = []
    default = next_case.strategies()["biosam2"]
    monkeypatch.setattr(type(default), "__call__", lambda self, *_: used.append(self) or {"id": "image1"})
    assert requests.post(f"{address}/activelearning/", json={}, timeout=30).json()["id"] == "image1"
    assert used[0].description == default.description


def test_the_answer_has_the_info_of_the_image_without_what_the_strategies_know(ask, datastore):
    score = CaseScore("key", np.ones(4, np.float32) / 2, {"liver": StructureScore(0.5, 1.0)})
    for n in range(IMAGES):
        info = {INFO: score.to_info(), "PatientID": f"patient{n}"}
        datastore.update_image_info(f"image{n}", info)
    answer = ask("anna").json()
    n = answer["id"].removeprefix("image")
    assert answer["PatientID"] == f"patient{n}" and answer["name"] == f"image{n}.nii.gz"
    assert Path(answer["path"]).exists()
    assert INFO not in answer


def test_monai_labels_own_client_gets_cases_one_after_the_other(address, next_case):
    client = MONAILabelClient(address, client_id="anna")
    given = {client.next_sample("biosam2", {})["id"] for _ in range(IMAGES)}
    assert given == {f"image{n}" for n in range(IMAGES)}


def test_people_at_once_never_get_the_same_case(ask):
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(ask, [f"person{n}" for n in range(8)])]
    given = [answer["id"] for answer in answers if "id" in answer]
    assert sorted(given) == [f"image{n}" for n in range(IMAGES)]
    assert [answer for answer in answers if "id" not in answer] == [
        {"message": next(answer["message"] for answer in answers if "message" in answer)}
    ] * 2


def test_a_submitted_label_ends_the_claim(ask, submit, next_case, datastore):
    image = ask("anna").json()["id"]
    submit(image, "original")
    assert next_case.claims.images() == {image}
    submit(image)
    assert next_case.claims.images() == set()
    rest = [ask(f"person{n}").json().get("id") for n in range(IMAGES)]
    assert image not in rest and rest.count(None) == 1


def test_a_click_prolongs_the_claim(ask, address, next_case, instance):
    now = 1000.0
    next_case.claims._clock = lambda: now
    image = ask("anna").json()["id"]
    now += 1700
    params = {"foreground": [[4, 4, 2]], "result_extension": ".nii.gz"}
    answer = requests.post(
        f"{address}/infer/biosam2_2d",
        params={"image": image},
        data={"params": json.dumps(params)},
        timeout=60,
    )
    assert answer.ok, answer.text
    now += 1700
    assert next_case.claims.images() == {image}


def test_a_case_can_be_given_back(ask, address, next_case):
    image = ask("anna").json()["id"]
    url = f"{address}/activelearning/claims/{image}"
    refused = requests.delete(url, params={"client_id": "ben"}, timeout=30)
    assert refused.status_code == 409 and "another annotator" in refused.json()["detail"]
    assert requests.delete(url, params={"client_id": "anna"}, timeout=30).json() == {}
    assert next_case.claims.images() == set()
    again = requests.delete(url, params={"client_id": "anna"}, timeout=30)
    assert again.status_code == 404 and image in again.json()["detail"]


def test_info_says_how_many_cases_people_have(ask, address):
    ask("anna")
    told = requests.get(f"{address}/info/", timeout=30).json()["next_case"]
    expected = {"labelled": 0, "unlabelled": IMAGES, "scored": 0, "claimed": 1}
    assert {key: told[key] for key in expected} == expected


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """With access control, behind which everybody is Anna."""
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    anna = auth.User(username="anna", roles=[settings.MONAI_LABEL_AUTH_ROLE_USER])
    monkeypatch.setattr(auth, "from_token", lambda _: anna)


def test_who_has_signed_in_is_one_annotator(ask, signed_in, next_case):
    first, second = (ask().json()["id"] for _ in range(2))
    assert next_case.claims.images() == {second} and first != second
    third = ask("another-program").json()["id"]
    assert next_case.claims.images() == {second, third}


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"client_id": 7}, "client_id"),
        ({"client_id": "x" * 201}, "client_id"),
        ({"labels": "liver"}, "labels"),
        ({"labels": [1]}, "labels"),
        ({"label_tag": ["final"]}, "label_tag"),
        ({"strategy": "random"}, "strategy"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_a_sentence(address, next_case, params, named):
    answer = requests.post(f"{address}/activelearning/biosam2", json=params, timeout=30)
    assert answer.status_code == 400
    assert named in answer.json()["detail"] and answer.json()["detail"].endswith(".")
    assert next_case.claims.images() == set()


def test_what_clients_may_send_besides_is_taken(ask):
    assert "id" in ask("anna", label_tag="final", labels=["liver"], session_id=None, extra={"a": 1}).json()


@pytest.mark.parametrize("sent", [{}, {"json": None}, {"json": {}}])
def test_a_request_without_parameters_is_answered(address, next_case, sent):
    assert "id" in requests.post(f"{address}/activelearning/random", timeout=30, **sent).json()


def test_an_unknown_strategy_is_refused(address, next_case):
    answer = requests.post(f"{address}/activelearning/magic", timeout=30)
    assert answer.status_code == 404
    assert '"magic" is not one of biosam2, random' in answer.json()["detail"]


def test_the_datastores_file_is_not_written_for_a_case(ask, datastore, next_case):
    file = Path(datastore._datastore_config_path)
    before = file.stat().st_mtime_ns
    ask("anna")
    assert file.stat().st_mtime_ns == before
