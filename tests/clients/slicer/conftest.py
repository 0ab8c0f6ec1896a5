"""3D Slicer's own data model with MONAI Label's own plugin in it; the server is the real one."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from clients.slicer.volumes import DIRECTIONS, Volume, write
from monailabel.client.client import MONAILabelClient

MADE_FOR = (("linux", "x86_64"), ("darwin", "arm64"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Volume]:
    """The volumes of `DIRECTIONS`, as files of the person's own."""
    folder = tmp_path_factory.mktemp("own")
    return {name: write(name, folder) for name in DIRECTIONS}


@pytest.fixture(scope="session")
def samples(volumes: dict[str, Volume], server: Any) -> Iterator[dict[str, Volume]]:
    """The same volumes, while they are also images of the datastore."""
    client = MONAILabelClient(server.url)
    for volume in volumes.values():
        client.upload_image(str(volume.path), volume.name)
    yield volumes
    for volume in volumes.values():
        remove_image(server.url, volume.name)


def remove_image(url: str, name: str) -> None:
    """Take an image and its labels out of the datastore."""
    requests.delete(f"{url}/datastore/image", params={"id": name}, timeout=60).raise_for_status()


@pytest.fixture
def taken_out(server: Any) -> Iterator[list[str]]:
    """Names of images, to be filled by the test, that are taken out of the datastore after it."""
    names: list[str] = []
    yield names
    for name in names:
        remove_image(server.url, name)


@pytest.fixture
def person(server: Any, tmp_path: Path) -> Iterator[Any]:
    """A `Person` at a Slicer that has the server's address and its models, with nothing open yet.

    The test fails if at its end Slicer shows a warning or an error.
    """
    if (sys.platform, platform.machine()) not in MADE_FOR:
        pytest.skip("there is no slicer-core for this kind of machine")
    from clients.slicer.desktop import Desktop
    from clients.slicer.person import Person

    with pytest.MonkeyPatch.context() as patch:
        person = Person(Desktop(tmp_path, patch), server.url)
        yield person
        person.leave()
        assert not person.desktop.errors


@pytest.fixture(scope="session")
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    def measure(found: np.ndarray, expected: np.ndarray) -> float:
        return 2 * float((found & expected).sum()) / float(found.sum() + expected.sum())

    return measure
