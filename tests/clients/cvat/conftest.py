"""The real server, frames with two things that move on them, and what CVAT's functions are asked with."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import requests
from biosam2_cvat import runs
from clients.cvat.nuclio_double import CLIENT, Function, Nuclio
from PIL import Image
from programs import MonaiLabel

WIDTH, HEIGHT, COUNT = 160, 120, 5
LABEL = "cyst"


@dataclass(frozen=True)
class Movie:
    """Frames as PNG files, and where its two things are on each: bool (H, W)."""

    frames: list[bytes]
    left: list[np.ndarray]
    right: list[np.ndarray]
    empty: bytes

    @property
    def size(self) -> tuple[int, int]:
        return WIDTH, HEIGHT


def _ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1


def _png(*bright: np.ndarray, seed: int = 0) -> bytes:
    ground = np.random.default_rng(seed).normal(60, 5, (HEIGHT, WIDTH))
    for value, mask in zip((210, 170), bright, strict=False):
        ground[mask] += value - 60
    buffer = io.BytesIO()
    Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def movie() -> Movie:
    """One thing moves to the right and grows, the other moves up."""
    left = [_ellipse(45 + 3 * t, 62, 20 + t, 15) for t in range(COUNT)]
    right = [_ellipse(120, 80 - 3 * t, 14, 18) for t in range(COUNT)]
    frames = [_png(one, other, seed=t) for t, (one, other) in enumerate(zip(left, right, strict=True))]
    return Movie(frames, left, right, _png(seed=9))


@pytest.fixture(scope="session")
def biosam2(movie: Movie, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MONAI Label with this app; its datastore has one picture, labelled."""
    studies = tmp_path_factory.mktemp("studies")
    (studies / "labelled.png").write_bytes(movie.frames[0])
    (studies / "other.png").write_bytes(movie.frames[2])
    with MonaiLabel(studies, tmp_path_factory.mktemp("server")) as server:
        label = io.BytesIO()
        Image.fromarray(movie.left[0].astype(np.uint8)).save(label, "PNG")
        requests.put(
            f"{server.address}/datastore/label",
            params={"image": "labelled"},
            data={"params": json.dumps({"label_info": [{"name": LABEL, "idx": 1}]})},
            files={"label": ("label.png", label.getvalue())},
            timeout=60,
        ).raise_for_status()
        yield server.address


@pytest.fixture(scope="session")
def nuclio(biosam2: str) -> Iterator[Nuclio]:
    with deployed(BIOSAM2_SERVER=biosam2) as gateway:
        yield gateway


def deployed(port: int = 0, **environment: str) -> Nuclio:
    """The three functions of `apps/biosam2/clients/cvat/nuclio` behind a nuclio of their own."""
    kinds = ("detector", "interactor", "tracker")
    return Nuclio(*(Function(CLIENT / "nuclio" / kind, environment) for kind in kinds), port=port)


Call = Callable[..., requests.Response]


def call(gateway: Nuclio, kind: str, frame: bytes, **payload: Any) -> requests.Response:
    """What CVAT posts to nuclio for a function of this kind."""
    return requests.post(
        f"{gateway.address}/api/function_invocations",
        json={"image": base64.b64encode(frame).decode(), **payload},
        headers={"x-nuclio-function-name": f"biosam2-{kind}", "x-nuclio-path": "/"},
        timeout=120,
    )


def model_mask(biosam2: str, frame: bytes, **prompts: Any) -> np.ndarray:
    """The mask, bool (H, W), that the server answers with when it is asked about a frame directly."""
    sent = requests.post(f"{biosam2}/biosam2/pictures", files={"image": frame}, timeout=60)
    picture = sent.json()["picture"]
    asked = {"foreground": [], "background": [], "box": None, "mask": None, **prompts}
    answer = requests.post(f"{biosam2}/biosam2/pictures/{picture}/mask", json=asked, timeout=60)
    answer.raise_for_status()
    return runs.decode(answer.json()["mask"])


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Region similarity J: of what is in one, the share that is in both."""
    return float((one & other).sum() / max((one | other).sum(), 1))


@pytest.fixture
def clean_environment() -> Iterator[None]:
    """No variable of BioSAM-2's from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIOSAM2_")}
    with patch.dict(os.environ, kept, clear=True):
        yield


def agent_file(kind: str) -> Path:
    return CLIENT / "agents" / f"{kind}.py"
