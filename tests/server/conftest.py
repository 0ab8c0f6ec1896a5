"""A real server in this process, whose tasks take a step only when a test lets them."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import monailabel.app
import nibabel as nib
import numpy as np
import pytest
import requests
import torch
import uvicorn
from main import BioSAM2App
from monailabel.config import settings
from monailabel.interfaces.utils.app import apps

from lib import work
from lib.errors import Cancelled
from lib.infers.image_task import blank
from lib.infers.interactive import indexes
from lib.infers.slice_task import SliceTask
from lib.infers.volume_task import VolumeTask
from lib.sam.checkpoints import save_checkpoint
from lib.sam.network import NANO, build
from lib.server.install import install
from lib.server.queue import WorkQueue

APP = Path(__file__).resolve().parents[2] / "apps" / "biosam2"
SECONDS = 60  # far more than anything here takes
SHAPE = (40, 36, 8)
POINT = {"foreground": [[20, 18, 4]]}


class _Steps:
    """In place of the network: steps that are done when the test says so.

    Attributes
    ----------
    total : int
        Steps of each request.
    allowed : Semaphore
        Released by the test, once for every step.
    begun : list of str
        Labels of the requests, in the order in which they were begun.
    """

    def __init__(self, slot: Any, chosen: Any) -> None:
        super().__init__(slot, chosen)
        self.total, self.allowed, self.begun = 5, threading.Semaphore(0), []
        self.fail: Exception | None = None

    def answer(self, model, volume, window, prompts):
        self.begun.append(prompts.objects[0].label)
        for n in range(self.total):
            while not self.allowed.acquire(timeout=0.01):
                if work.is_cancelled():
                    raise Cancelled()
            if self.fail:
                raise self.fail
            work.report(n + 1, self.total)
        return blank(volume, 1), indexes(prompts), {"score": {}, "cached": False}


class StepByStep(_Steps, VolumeTask):
    """`biosam2_3d` without a network."""


class ClickByClick(_Steps, SliceTask):
    """`biosam2_2d` without a network."""


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> BioSAM2App:
    """The app on a folder of two volumes, with random weights at the smallest input."""
    folder = tmp_path_factory.mktemp("studies")
    for seed, name in enumerate(("scan", "other")):
        voxels = np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([0.9, 0.8, 3.0, 1.0])), folder / f"{name}.nii.gz")
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_checkpoint(weights, build(NANO).state_dict(), NANO)
    conf = {"checkpoint": str(weights), "device": "cpu", "image_size": "256"}
    return BioSAM2App(str(APP), str(folder), conf)


@pytest.fixture(scope="session")
def address(instance: BioSAM2App) -> Iterator[str]:
    """Where MONAI Label's own server answers with our app."""
    settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = instance.app_dir, instance.studies
    apps[f"{instance.app_dir}{instance.studies}"] = instance
    install(monailabel.app.app)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(monailabel.app.app, lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            apps.clear()


@pytest.fixture(autouse=True)
def queue(request: pytest.FixtureRequest) -> Iterator[WorkQueue | None]:
    """A queue of its own for every test that has a server: 2 clicks and 2 volumes at once, 2 of each wait."""
    if "address" not in request.fixturenames:
        yield None
        return
    monailabel.app.app.state.work_queue = WorkQueue(2, 2, 2, 3)
    yield monailabel.app.app.state.work_queue
    for left in monailabel.app.app.state.work_queue.unfinished():
        monailabel.app.app.state.work_queue.cancel(left.id)


@pytest.fixture
def volumes(instance: BioSAM2App, address: str, monkeypatch: pytest.MonkeyPatch) -> StepByStep:
    """`biosam2_3d`, step by step."""
    task = StepByStep(instance.slot, instance.biosam2)
    monkeypatch.setitem(instance._infers, "biosam2_3d", task)
    return task


@pytest.fixture
def clicks(instance: BioSAM2App, address: str, monkeypatch: pytest.MonkeyPatch) -> ClickByClick:
    """`biosam2_2d`, step by step."""
    task = ClickByClick(instance.slot, instance.biosam2)
    monkeypatch.setitem(instance._infers, "biosam2_2d", task)
    return task


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, for this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def labelled(instance: BioSAM2App, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Submit a label of image `scan`: a box of so many voxels a side."""
    datastore = instance.datastore()

    def label(side: int) -> None:
        volume = nib.load(datastore.get_image_uri("scan"))
        voxels = np.zeros(volume.shape, np.uint8)
        voxels[4 : 4 + side, 4 : 4 + side] = 3
        nib.save(nib.Nifti1Image(voxels, np.diag([0.9, 0.8, 3.0, 1.0])), tmp_path / "label.nii.gz")
        info = {"label_info": [{"name": "tumour", "idx": 3}]}
        datastore.save_label("scan", str(tmp_path / "label.nii.gz"), "final", info)

    label(10)
    yield label
    for image, tag in (("scan", "final"), ("other", "original"), ("scan", "original"), ("other", "auto")):
        if datastore.get_label_uri(image, tag):
            datastore.remove_label(image, tag)
    instance.bank.refresh()


@pytest.fixture
def ask(address: str) -> Iterator[Callable[..., Future[requests.Response]]]:
    """Sends a request to a model and does not wait for the answer: a future of it."""
    pool = ThreadPoolExecutor(20)

    def send(
        model: str = "biosam2_3d", files: dict[str, Any] | None = None, timeout: float = SECONDS, **fields
    ):
        query = {"image": fields.pop("image", "scan"), **fields.pop("query", {})}
        form = {"params": json.dumps({**POINT, **fields})}
        url = f"{address}/infer/{model}"
        return pool.submit(requests.post, url, params=query, data=form, files=files, timeout=timeout)

    yield send
    pool.shutdown(wait=False)


@pytest.fixture
def connect(address: str) -> Iterator[Callable[..., http.client.HTTPConnection]]:
    """Sends a request to `biosam2_3d` over a connection that the test can close at any moment."""
    opened = []

    def send(files: dict[str, Any] | None = None, **fields: object) -> http.client.HTTPConnection:
        form = {"params": json.dumps({**POINT, **fields})}
        url = f"{address}/infer/biosam2_3d?image=scan"
        sent = requests.Request("POST", url, data=form, files=files).prepare()
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=SECONDS)
        connection.request("POST", sent.path_url, sent.body, dict(sent.headers))
        opened.append(connection)
        return connection

    yield send
    for connection in opened:
        connection.close()


@pytest.fixture
def get(address: str) -> Callable[..., requests.Response]:
    def send(path: str, **query: str) -> requests.Response:
        return requests.get(f"{address}{path}", params=query, timeout=SECONDS)

    return send


@pytest.fixture
def cancel(address: str) -> Callable[..., requests.Response]:
    def send(id: str, **query: str) -> requests.Response:
        return requests.delete(f"{address}/biosam2/work/{id}", params=query, timeout=SECONDS)

    return send


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits until something is so, and returns what it is."""

    def wait(happens: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = happens()
            if found:
                return found
            time.sleep(0.01)
        pytest.fail("it never happened")

    return wait
