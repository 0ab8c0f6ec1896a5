"""A double of CVAT with three tasks, two projects, and a datastore on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lib.datastores.cvat import catalogue, exports
from lib.datastores.cvat.client import Account, CvatClient
from lib.datastores.cvat.datastore import CvatDatastore
from lib.datastores.cvat.exports import Exports

from .double import NAME, PASSWORD, Cvat, Picture, Task, runs, shape

WIDTH, HEIGHT = 40, 30
POLYP, TOOL, BACKGROUND, CELL = 11, 12, 13, 21


def pixels(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def blob(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A ragged mask with a hole, (height, width)."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    mask = (x - 22) ** 2 + (y - 14) ** 2 < 100
    mask &= rng.random(mask.shape) > 0.2
    mask[12:15, 20:24] = False
    return mask


def fill(cvat: Cvat) -> Cvat:
    """Two jobs of pictures, a video of which every second frame is taken, and cells in another project."""
    names = ["sub-01_left.png", "dir/sub-02_a.png", "../../etc/c.jpg", "plain.png", "last.png"]
    pictures = [Picture(name, pixels(n)) for n, name in enumerate(names)]
    pictures[2].format = "JPEG"
    cvat.tasks[1] = Task(1, 1, pictures, {1: [0, 2, "completed"], 2: [3, 4, "in progress"]})
    cvat.tasks[1].shapes = [
        # above the ellipse, though it was drawn before
        shape("polygon", 0, POLYP, [4, 4, 20, 4, 20, 16, 4, 16], z=2),
        shape("ellipse", 0, TOOL, [20, 15, 30, 9], rotation=30.0),
        shape("mask", 1, POLYP, runs(blob())),
        shape("mask", 1, BACKGROUND, runs(np.pad(np.ones((3, 3), bool), ((8, 19), (16, 21)))), z=1),
        shape("rectangle", 2, POLYP, [1, 1, 9, 9]),
        shape("mask", 3, POLYP, runs(blob())),
    ]
    video = [Picture("clip.mp4", pixels(10 + n, 32, 24)) for n in range(12)]
    jobs = {3: [0, 7, "completed"], 4: [6, 11, "new"], 5: [0, 11, "completed", "ground_truth"]}
    cvat.tasks[2] = Task(2, 1, video, jobs, "interpolation", start=4, step=2, deleted=(5,))
    moving = [
        shape("polygon", 0, POLYP, [2, 2, 10, 2, 10, 10, 2, 10]),
        shape("polygon", 2, POLYP, [8, 4, 16, 4, 16, 12, 8, 12]),
        shape("polygon", 3, POLYP, [8, 4, 16, 4, 16, 12, 8, 12], outside=True),
    ]
    cvat.tasks[2].tracks = [track(POLYP, moving)]
    cells = [Picture("cell.png", pixels(30))]
    cvat.tasks[7] = Task(7, 2, cells, {9: [0, 0, "completed"]}, shapes=[shape("mask", 0, CELL, runs(blob()))])
    return cvat


def track(label: int, shapes: list[dict]) -> dict:
    keys = ("label_id", "group", "source", "id")
    keyed = [{key: value for key, value in one.items() if key not in keys} for one in shapes]
    about = {"id": 1, "group": 0, "source": "manual", "attributes": [], "elements": []}
    return {"label_id": label, "frame": shapes[0]["frame"], "shapes": keyed, **about}


@pytest.fixture(params=["current", "2.15"])
def cvat(request: pytest.FixtureRequest) -> Iterator[Cvat]:
    """Of both generations, one after the other."""
    made = fill(Cvat(request.param == "current"))
    yield made
    made.stop()


@pytest.fixture
def current() -> Iterator[Cvat]:
    """Of the current generation only, for what is no matter of the API."""
    made = fill(Cvat())
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are looked at after milliseconds."""
    monkeypatch.setattr(exports, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(exports, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(catalogue, "SILENT_SECONDS", 0.0)


@pytest.fixture
def connect(tmp_path: Path) -> Callable[..., CvatDatastore]:
    """A datastore on a double, its cache in the test's folder; the same call is a restart."""

    def make(
        cvat: Cvat,
        project: str = "",
        account: Account | None = None,
        seconds: float = 20.0,
        export_seconds: float = 20.0,
    ) -> CvatDatastore:
        client = CvatClient(cvat.url, account or Account(NAME, PASSWORD), seconds)
        return CvatDatastore(client, tmp_path / "cache", project, Exports(client, export_seconds))

    return make
