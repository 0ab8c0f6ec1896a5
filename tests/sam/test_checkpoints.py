"""Checkpoints: opening every kind, refusing everything else in one sentence, downloading."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import NotFound, UserError
from lib.sam import checkpoints, network
from lib.sam.checkpoints import CATALOGUE, Published, download, load_network, resolve, save_checkpoint
from lib.sam.model import ModelSlot
from lib.sam.network import NANO, PUBLISHED, Architecture


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_network) -> Path:
    path = tmp_path_factory.mktemp("model") / "mine.safetensors"
    save_checkpoint(path, small_network.state_dict(), NANO, step="7")
    return path


def _refusal(path: Path) -> str:
    """The one sentence that a file is refused with; the folder it lies in stays out of it."""
    with pytest.raises(UserError) as caught:
        load_network(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    assert str(path.parent) not in sentence
    return sentence


# --- opening -------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_comes_back_in_half_precision_with_its_architecture(saved, small_network):
    checkpoint, net = load_network(saved)
    assert checkpoint.architecture == NANO
    assert checkpoint.name == "mine"
    assert checkpoint.version == hashlib.sha256(saved.read_bytes()).hexdigest()[:12]
    for key, value in small_network.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value.half().float(), rtol=0, atol=0)
    weights, metadata = checkpoints._read(saved)
    assert metadata["step"] == "7"
    assert saved.stat().st_size < 2.1 * sum(value.numel() for value in weights.values())
    assert not list(saved.parent.glob("*.part"))


def test_a_network_that_is_loaded_does_not_train_by_itself(saved):
    assert not load_network(saved)[1].training


@pytest.mark.parametrize("wrapped", [True, False], ids=["under model", "bare"])
@pytest.mark.parametrize("sam21", [True, False], ids=["SAM 2.1", "SAM 2"])
def test_a_pt_file_is_recognised_by_its_tensors(tmp_path, wrapped, sam21):
    architecture = replace(NANO, sam21=sam21)
    weights = network.build(architecture, 64).state_dict()
    path = tmp_path / "brought.pt"
    torch.save({"model": weights} if wrapped else weights, path)
    checkpoint, net = load_network(path, 64)
    assert checkpoint.architecture == architecture
    torch.testing.assert_close(net.state_dict(), weights, rtol=0, atol=0)


def test_a_published_network_is_loaded_at_another_input_size(tmp_path):
    tiny = PUBLISHED["hiera_tiny"]
    path = tmp_path / "medsam2.pt"
    torch.save({"model": {k: v.half() for k, v in network.build(tiny, 512).state_dict().items()}}, path)
    checkpoint, net = load_network(path, 512)
    assert checkpoint.architecture == tiny
    assert net.image_size == 512
    assert net.sam_image_embedding_size == 32


@pytest.mark.parametrize("size", [512, 1024])
def test_the_same_weights_serve_every_input_size(saved, size):
    _, net = load_network(saved, size)
    assert net.image_size == size
    assert {key: v.shape for key, v in net.state_dict().items()} == {
        key: v.shape for key, v in checkpoints._read(saved)[0].items()
    }


@pytest.mark.parametrize("size", [0, -32, 100, 1 << 20])
def test_an_input_size_that_no_network_can_have_is_refused(size):
    with pytest.raises(UserError, match="image_size must be a multiple of 32"):
        network.build(NANO, size)


# --- refusing ------------------------------------------------------------------------------------------


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"^checkpoint none\.pt is not there\.$"):
        load_network(tmp_path / "none.pt")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n", b"\x80\x04", b"PK\x03\x04", bytes(100)])
def test_a_file_of_another_kind_is_refused(tmp_path, ending, content):
    path = tmp_path / f"other{ending}"
    path.write_bytes(content)
    assert _refusal(path) == f"checkpoint {path.name} is not readable: it is damaged or no checkpoint."


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, saved, ending):
    whole = saved
    if ending == ".pt":
        whole = tmp_path / "whole.pt"
        torch.save(checkpoints._read(saved)[0], whole)
    path = tmp_path / f"cut{ending}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "is not readable" in _refusal(path)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused_or_read_but_never_raises_anything_else(tmp_path, ending):
    path = tmp_path / f"damaged{ending}"
    if ending == ".pt":
        torch.save({"model": {"a": torch.ones(8), "b": torch.ones(3)}}, path)
    else:
        save_checkpoint(path, {"a": torch.ones(8), "b": torch.ones(3)}, NANO)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(damaged), 3)
        damaged[where] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        _refusal(path)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_code_in_a_file_is_not_executed(tmp_path, write):
    path, trace = tmp_path / "harmful.pt", tmp_path / "was_here"
    if write == "torch":
        torch.save({"model": _Harmful(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": _Harmful(trace)}))
    assert "is not readable" in _refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], {"model": 3}, {"model": {}}, {"a": "text"}, {1: torch.ones(1)}, torch.ones(3)],
    ids=["nothing", "a list", "a number", "no weights", "text", "numbered", "a tensor"],
)
def test_a_file_without_named_weights_is_refused(tmp_path, content):
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    assert _refusal(path) == "checkpoint odd.pt holds no network weights."


PATCH = "image_encoder.trunk.patch_embed.proj.weight"


@pytest.mark.parametrize(
    "weights",
    [
        {"layer.weight": torch.ones(2)},
        {PATCH: torch.tensor(1.0)},
        {PATCH: torch.ones(96, 3, 7, 7)},
        {"image_encoder.trunk.blocks.x.weight": torch.ones(1)},
        {f"image_encoder.trunk.blocks.{'9' * 5000}.weight": torch.ones(1)},
    ],
    ids=["another network", "no patches", "no blocks", "unnumbered blocks", "a huge number"],
)
def test_the_weights_of_another_network_are_refused(tmp_path, weights):
    path = tmp_path / "other.pt"
    torch.save(weights, path)
    assert "holds no SAM 2 network that is known here" in _refusal(path)


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, saved, change):
    weights, _ = checkpoints._read(saved)
    key = "memory_encoder.out_proj.weight"
    if change == "missing":
        del weights[key]
    elif change == "more":
        key = "zzz.weight" * 100
        weights[key] = torch.ones(1)
    else:
        weights[key] = weights[key][:-1]
    path = tmp_path / "near.safetensors"
    save_checkpoint(path, weights, NANO)
    sentence = _refusal(path)
    assert key[:80] in sentence and len(sentence) < 300


# --- architectures in metadata -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [NANO, *PUBLISHED.values()], ids=lambda a: a.name)
def test_an_architecture_comes_back_from_json(architecture):
    assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": -48},
        {"embed_dim": 0},
        {"embed_dim": 10**9},
        {"embed_dim": 48.0},
        {"embed_dim": "48"},
        {"embed_dim": None},
        {"embed_dim": 512, "stages": [2, 2, 2, 64]},
        {"num_heads": 7},
        {"stages": [1, 2, 6]},
        {"stages": [1, 2, 6, 10**9]},
        {"stages": [1, 2, -6, 1]},
        {"stages": 3},
        {"stages": [[1], 2, 6, 1]},
        {"window_spec": [8, 8, 8, 0]},
        {"pos_embed_size": [10**6, 10**6]},
        {"global_att_blocks": [True]},
        {"d_model": 100},
        {"d_model": 10**6},
        {"mem_dim": 48},
        {"memory_layers": 10**6},
        {"memory_feedforward": 10**9},
        {"image_size": 10**6},
        {"sam21": "yes"},
        {"name": 3},
        {"code": "import os"},
    ],
    ids=str,
)
def test_an_architecture_that_makes_no_sense_is_refused_before_anything_is_allocated(change):
    with pytest.raises(UserError, match=r"architecture is not readable: .*\.$"):
        Architecture.from_json(json.dumps(asdict(NANO) | change))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', "{}", "[" * 100_000, "1" * 5000], ids=repr)
def test_what_is_not_an_architecture_is_refused(text):
    with pytest.raises(UserError, match="architecture is not readable"):
        Architecture.from_json(text)


# --- names and downloads -------------------------------------------------------------------------------


def test_the_catalogue_names_the_four_published_networks_with_sizes_and_hashes():
    assert list(CATALOGUE) == [f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")]
    for name, entry in CATALOGUE.items():
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.nbytes > 100_000_000
        assert entry.url.startswith("https://") and entry.url.endswith(f"/{name}.pt")


def test_a_name_or_a_path_is_resolved_to_its_file(tmp_path, saved):
    (tmp_path / "sam2.1_hiera_tiny.pt").touch()
    assert resolve("sam2.1_hiera_tiny", tmp_path) == tmp_path / "sam2.1_hiera_tiny.pt"
    assert resolve("biosam2_nano", tmp_path) == tmp_path / "biosam2_nano.safetensors"
    assert resolve(str(saved), tmp_path) == saved


@pytest.mark.parametrize("name", ["nothing", "~nobody-here/x.pt", "a\0b", "x" * 5000, ""])
def test_what_is_neither_a_name_nor_a_file_is_not_found(tmp_path, name):
    with pytest.raises(NotFound, match="is neither a file nor one of biosam2_nano, sam2.1_hiera_tiny"):
        resolve(name, tmp_path)


PAYLOAD = np.random.default_rng(5).integers(0, 256, 3_500_000, np.uint8).tobytes()


class _Server:
    """A local server with one file, and the faults of real ones.

    Attributes
    ----------
    drop_after : int or None
        Bytes after which the next answer breaks off.
    """

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.drop_after: int | None = None
        self.status, self.honours_range, self.says_length = 200, True, True
        self.payload = PAYLOAD

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.honours_range else 0
        body = self.payload[start:]
        handler.send_response(206 if start else 200)
        if self.says_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        drop, self.drop_after = self.drop_after, None
        handler.wfile.write(body[:drop])
        handler.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = _Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.source = Published(
        f"http://127.0.0.1:{http.server_port}/x.pt", len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest()
    )
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@contextmanager
def _refused(path: Path):
    with pytest.raises(UserError) as caught:
        yield caught
    assert str(caught.value).endswith(".") and str(path.parent) not in str(caught.value)
    assert not path.exists()


def test_a_download_arrives_whole_and_reports_its_progress(server, tmp_path):
    path, seen = tmp_path / "new" / "x.pt", []
    download(server.source, path, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == PAYLOAD
    assert seen[-1] == (len(PAYLOAD), len(PAYLOAD))
    assert seen == sorted(seen)
    assert [p.name for p in path.parent.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("says_length", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, says_length):
    path = tmp_path / "x.pt"
    server.drop_after, server.says_length = 2_300_000, says_length
    with _refused(path) as caught:
        download(server.source, path)
    assert "start again to go on where it stopped" in str(caught.value)
    kept = (tmp_path / "x.pt.part").stat().st_size
    assert kept >= 1 << 20
    download(server.source, path)
    assert server.ranges == [None, f"bytes={kept}-"]
    assert path.read_bytes() == PAYLOAD


def test_a_server_that_cannot_resume_sends_everything_again(server, tmp_path):
    path = tmp_path / "x.pt"
    (tmp_path / "x.pt.part").write_bytes(PAYLOAD[:1000])
    server.honours_range = False
    download(server.source, path)
    assert path.read_bytes() == PAYLOAD


def test_a_file_that_had_already_arrived_is_not_asked_for_again(server, tmp_path):
    path = tmp_path / "x.pt"
    (tmp_path / "x.pt.part").write_bytes(PAYLOAD)
    download(server.source, path)
    assert path.read_bytes() == PAYLOAD and server.ranges == []


def test_a_leftover_larger_than_the_file_is_thrown_away(server, tmp_path):
    path = tmp_path / "x.pt"
    (tmp_path / "x.pt.part").write_bytes(PAYLOAD + b"more")
    download(server.source, path)
    assert path.read_bytes() == PAYLOAD


def test_another_file_than_the_catalogues_is_removed(server, tmp_path):
    path = tmp_path / "x.pt"
    server.payload = PAYLOAD[:-1] + b"?"
    with _refused(path) as caught:
        download(server.source, path)
    assert "sha256" in str(caught.value) and "removed" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_too_much_is_cut_off(server, tmp_path):
    path = tmp_path / "x.pt"
    server.payload = PAYLOAD * 4
    with _refused(path):
        download(server.source, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_refuses_is_named_with_its_status(server, tmp_path, status):
    path = tmp_path / "x.pt"
    server.status = status
    with _refused(path) as caught:
        download(server.source, path)
    assert f"status {status}" in str(caught.value)


def test_a_server_that_is_not_there_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = tmp_path / "x.pt"
    with _refused(path) as caught:
        download(Published("http://127.0.0.1:9/x.pt", 10, "0" * 64), path)
    assert "ConnectionError" in str(caught.value)


# --- the served file -----------------------------------------------------------------------------------


@pytest.fixture
def slot(tmp_path, saved) -> ModelSlot:
    path = tmp_path / "served.safetensors"
    path.write_bytes(saved.read_bytes())
    return ModelSlot(path, "cpu", 1 << 20, 64)


def test_a_file_that_stays_is_loaded_once(slot):
    assert slot.get() is slot.get()


def test_a_new_file_is_served_at_the_next_request(slot, small_network):
    before = slot.get()
    weights = {key: value + 1 for key, value in small_network.state_dict().items()}
    save_checkpoint(slot.path, weights, NANO)
    after = slot.get()
    assert after is not before
    assert after.checkpoint.version != before.checkpoint.version
    assert after.size == before.size == 64


def test_a_damaged_file_leaves_the_served_model_and_a_whole_one_replaces_it(slot, saved):
    before = slot.get()
    slot.path.write_bytes(saved.read_bytes()[:1000])
    assert slot.get() is before
    slot.path.write_bytes(saved.read_bytes())
    assert slot.get() is not before


def test_a_deleted_file_leaves_the_served_model(slot):
    before = slot.get()
    slot.path.unlink()
    assert slot.get() is before


def test_no_room_for_the_new_model_leaves_the_served_one(slot, saved, monkeypatch):
    before = slot.get()
    slot.path.write_bytes(saved.read_bytes() + b"")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lib.sam.model.load_network", full)
    slot.path.touch()
    assert slot.get() is before


def test_a_slot_needs_a_file_to_begin_with(tmp_path):
    with pytest.raises(NotFound):
        ModelSlot(tmp_path / "none.safetensors", "cpu", 1 << 20)
    with pytest.raises(UserError, match="device abacus is not available"):
        ModelSlot(tmp_path / "none.safetensors", "abacus", 1 << 20)
