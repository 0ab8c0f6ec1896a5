"""A model slot that follows the versions: real checkpoints, swapped while requests come in."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch

from lib.sam.checkpoints import save_checkpoint
from lib.sam.model import ModelSlot
from lib.sam.network import NANO, build
from lib.versions.store import Versions

SIZE = 64


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build(NANO, SIZE).state_dict()


@pytest.fixture
def versions(tmp_path: Path, weights) -> Versions:
    """A base and two versions of it."""
    base = tmp_path / "nano.safetensors"
    save_checkpoint(base, weights, NANO)
    versions = Versions.of(tmp_path / "versions", base)
    for number in (1, 2):
        prepared = versions.folder / ".new-run"
        prepared.mkdir(parents=True)
        other = {key: value + 0.1 * number for key, value in weights.items()}
        save_checkpoint(prepared / "candidate.safetensors", other, NANO)
        versions.add(prepared, {"parent": number - 1})
    return versions


@pytest.fixture
def slot(versions) -> ModelSlot:
    return ModelSlot(versions.served_path, "cpu", 1 << 20, SIZE)


def test_another_version_is_served_from_the_next_request_on(versions, slot):
    base = slot.get()
    assert base.checkpoint.name == "nano"
    for number in (2, 1):
        versions.serve(number)
        model = slot.get()
        version = versions.get(number)
        assert model.checkpoint.name == version.name
        assert model.checkpoint.version == version.about["checkpoint"]
        assert model.size == SIZE
        assert slot.path == version.checkpoint
        assert slot.get() is model
    versions.rollback()
    assert slot.get().checkpoint == base.checkpoint


def test_a_server_that_starts_serves_what_was_served(versions):
    versions.serve(2)
    assert ModelSlot(versions.served_path, "cpu", 1 << 20, SIZE).get().checkpoint.name == "nano-v2"
    (versions.folder / "served.json").write_text("{")
    assert ModelSlot(versions.served_path, "cpu", 1 << 20, SIZE).get().checkpoint.name == "nano"


def test_a_version_that_cannot_be_read_leaves_the_model_and_going_back_loads_nothing(
    versions, slot, caplog, monkeypatch
):
    versions.serve(1)
    before = slot.get()
    versions.serve(2)
    checkpoint = versions.get(2).checkpoint
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    caplog.set_level(logging.ERROR)
    assert slot.get() is before and slot.get() is before
    assert len(caplog.records) == 1, "it is not tried at every click"
    versions.rollback()
    assert slot.get() is before, "with all that it has cached"
    checkpoint.write_bytes(whole)
    versions.serve(2)
    assert slot.get().checkpoint.name == "nano-v2"


def test_requests_during_a_swap_get_one_of_the_two_models(versions, slot):
    names: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            names.add(slot.get().checkpoint.name)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (1, 2, 1):
        versions.serve(number)
        while slot.get().checkpoint.name != versions.get(number).name:
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert names <= {"nano", "nano-v1", "nano-v2"}
    assert slot.get().checkpoint.name == "nano-v1"
