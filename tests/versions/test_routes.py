"""`/biosam2/versions` at an app that has nothing but versions."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user

from lib.server import errors
from lib.server import versions as routes
from lib.versions.store import Versions


class App:
    """As much of the app as the routes ask for."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self.synced = 0

    def sync_registry(self) -> None:
        self.synced += 1


@pytest.fixture
def instance(versions) -> App:
    return App(versions)


@pytest.fixture
def client(instance, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    app = FastAPI()
    app.include_router(routes.router)
    errors.install(app)
    monkeypatch.setattr(routes, "ready_app", lambda: instance)
    return TestClient(app)


def test_the_list_says_what_is_known_of_each_and_which_is_served(client, versions, add):
    assert client.get("/biosam2/versions").json() == {"served": 0, "versions": []}
    added = [add(), add(parent=1)]
    versions.serve(2)
    answer = client.get("/biosam2/versions")
    assert answer.json() == {"served": 2, "versions": [version.about for version in added]}


def test_another_version_is_served_and_the_registry_told(client, versions, add, instance):
    add()
    add(parent=1)
    answer = client.post("/biosam2/versions/2/serve")
    assert answer.status_code == 200
    assert answer.json() == client.get("/biosam2/versions").json()
    assert versions.served_number() == answer.json()["served"] == 2
    assert client.post("/biosam2/versions/rollback").json()["served"] == 1
    assert client.post("/biosam2/versions/0/serve").json()["served"] == 0
    assert instance.synced == 3


def test_an_app_without_a_registry_serves_as_well(client, versions, add, monkeypatch):
    add()
    monkeypatch.delattr(App, "sync_registry")
    assert client.post("/biosam2/versions/1/serve").json()["served"] == 1


def test_what_cannot_be_served_is_a_sentence_and_changes_nothing(client, versions, add, instance):
    for _ in range(3):
        add()
    versions.serve(3)
    versions.prune(2)
    versions.get(2).checkpoint.unlink()
    for path, status, sentence in (
        ("9/serve", 404, "version 9 is not one of 0, 1, 2, 3."),
        ("1/serve", 400, "version 1 was pruned: its checkpoint is gone."),
        ("2/serve", 404, "version 2 has no checkpoint: nano-v2.safetensors is not there."),
        ("best/serve", 422, "number: Input should be a valid integer"),
        ("99999999999999999999/serve", 404, "version 99999999999999999999 is not one of"),
    ):
        answer = client.post(f"/biosam2/versions/{path}")
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"].startswith(sentence)
    versions.serve(0)
    answer = client.post("/biosam2/versions/rollback")
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "nano itself is served: there is no version before it.",
    )
    assert instance.synced == 0


def test_only_administrators_may_change_what_is_served(client, versions, add, monkeypatch):
    add()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    roles = [settings.MONAI_LABEL_AUTH_ROLE_USER]
    client.app.dependency_overrides[get_current_user] = lambda: User(username="she", roles=roles)
    assert client.get("/biosam2/versions").status_code == 200
    for path in ("/biosam2/versions/1/serve", "/biosam2/versions/rollback"):
        assert client.post(path).status_code in (401, 403)
    assert versions.served_number() == 0
    roles.append(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)
    assert client.post("/biosam2/versions/1/serve").status_code == 200
