"""A DICOMweb address and MONAI Label's settings make the datastore; nobody is asked for it."""

from __future__ import annotations

import monailabel.endpoints.infer
import pytest
import requests
from monailabel.config import Settings

from lib.datastores import connect
from lib.datastores.kept import Kept
from lib.datastores.pacs import TimeLimit
from lib.imaging.seg.write import Algorithm

URL = "http://127.0.0.1:9/dicom-web"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`connect`, in an environment."""

    def run(**environment: str):
        for name, value in {"CACHE_PATH": str(tmp_path / "cache"), **environment}.items():
            monkeypatch.setenv(f"MONAI_LABEL_DICOMWEB_{name}", value)
        monkeypatch.setattr(connect, "settings", Settings())
        # what it replaces is put back after the test
        monkeypatch.setattr(
            monailabel.endpoints.infer, "nifti_to_dicom_seg", monailabel.endpoints.infer.nifti_to_dicom_seg
        )
        return connect.connect(URL, lambda: Algorithm("x", "1"))

    return run


def test_a_pacs_that_is_down_does_not_keep_the_server_from_starting(make, tmp_path):
    datastore = make()
    assert datastore.status()["error"] == "the PACS cannot be reached: is it running?"
    assert list((tmp_path / "cache").iterdir())


def test_an_address_that_does_not_exist_is_said(make, monkeypatch):
    monkeypatch.setitem(globals(), "URL", "http://nowhere.invalid/dicom-web")
    assert make().status()["error"] == "the PACS cannot be reached: is it running?"


def test_ct_only_is_a_default_of_monai_label_and_not_a_choice(make):
    assert make()._search_filter == {}
    assert make(SEARCH_FILTER='{"Modality": "CT"}')._search_filter == {"Modality": "CT"}


def test_every_request_has_a_time_limit(make):
    session = make(PROXY_TIMEOUT="7")._client._session
    for address in (URL, "https://pacs.example"):
        assert isinstance(session.get_adapter(address), TimeLimit)
        assert session.get_adapter(address).seconds == 7


def test_the_person_s_name_and_password_are_sent(make):
    session = make(USERNAME="me", PASSWORD="secret")._client._session
    assert isinstance(session, requests.Session) and session.auth == ("me", "secret")


def test_an_answer_is_kept_and_a_failure_is_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lib.datastores.kept.time.monotonic", lambda: now[0])
    answers = iter([1, ValueError("down"), 2])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(ask)
    assert kept.peek() is None and kept.get() == 1 and kept.get() == 1 and kept.peek() == 1
    now[0] += 6
    assert kept.peek() is None
    with pytest.raises(ValueError, match="down"):
        kept.get()
    assert kept.get() == 2
    kept.drop()
    assert kept.peek() is None
