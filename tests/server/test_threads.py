"""MONAI Label's own requests: off the event loop, and otherwise as they were."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import threading

import monailabel.app
import pytest
import requests
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints import datastore, infer, info, login, proxy

from lib.server import threads


def test_every_request_that_could_keep_the_loop_has_a_plain_handler():
    made = {(route.path, *sorted(route.methods)) for route in threads.routes()}
    assert not any(inspect.iscoroutinefunction(route.endpoint) for route in threads.routes())
    known = [*threads.ROUTERS, login.router, infer.router]
    for module in vars(monailabel.app).values():
        router = getattr(module, "router", None)
        if getattr(module, "__name__", "").startswith("monailabel.endpoints"):
            assert router in known, f"{module.__name__} is new"
    for router in threads.ROUTERS:
        for route in router.routes:
            assert (route.path, *sorted(route.methods)) in made


def test_a_route_keeps_its_parameters_its_name_and_its_access_control():
    route = next(r for r in threads.routes() if r.path == "/datastore/label" and "PUT" in r.methods)
    original = next(r for r in datastore.router.routes if r.path == "/datastore/label" and "PUT" in r.methods)
    assert isinstance(original, APIRoute)
    assert inspect.signature(route.endpoint) == inspect.signature(original.endpoint)
    assert (route.name, route.responses) == (original.name, original.responses)
    assert len(route.dependant.dependencies) == len(original.dependant.dependencies) == 1


def test_a_handler_runs_in_a_thread_of_its_own(address, get, monkeypatch):
    ran_in = []

    def app_info():
        ran_in.append(threading.current_thread())
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return {"name": "here"}

    monkeypatch.setattr(info, "app_info", app_info)
    assert get("/info/").json() == {"name": "here"}
    assert "AnyIO" in ran_in[0].name


def test_a_slow_handler_keeps_nobody(address, get, monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: object) -> dict:
        entered.set()
        assert leave.wait(20)
        return {}

    monkeypatch.setattr(datastore, "save_label", slow)
    form = {"params": {"image": "scan"}, "files": {"label": ("label.nii.gz", b"x")}, "timeout": 20}
    answers = []
    saving = threading.Thread(
        target=lambda: answers.append(requests.put(f"{address}/datastore/label", **form))
    )
    saving.start()
    assert entered.wait(20)
    assert get("/info/").json()["name"] == "BioSAM-2"
    leave.set()
    saving.join(20)
    assert answers[0].status_code == 200


def test_a_handler_that_awaits_is_an_error_and_not_a_wrong_answer(address):
    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits"):
        threads.in_thread(waits)()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch):
    """A DICOMweb archive that says back what it was asked."""

    class Echo(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{self.command} {self.path} ".encode() + body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # the proxy's own view of it: the app goes on with its folder
    monkeypatch.setattr(
        proxy,
        "settings",
        settings.model_copy(update={"MONAI_LABEL_STUDIES": f"http://127.0.0.1:{server.server_port}"}),
    )
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_viewers_way_to_the_archive_still_works(address, archive, method):
    answer = requests.request(
        method, f"{address}/proxy/dicom/wado/studies/1.2/metadata", data=b"body", timeout=20
    )
    body = "body" if method == "POST" else ""
    assert answer.text == f"{method} /studies/1.2/metadata {body}"
