"""Checkpoints: the catalogue of published ones, downloading, opening, saving."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
import safetensors
import safetensors.torch
import torch
from sam2.modeling.sam2_base import SAM2Base

from lib.errors import NotFound, UserError
from lib.sam.network import Architecture, build, recognise

logger = logging.getLogger(__name__)

EMBEDDED = "biosam2_nano"
BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Published:
    """A checkpoint that can be downloaded: its address, its size in bytes and its sha256."""

    url: str
    nbytes: int
    sha256: str


CATALOGUE = {
    name: Published(f"{BASE_URL}{name}.pt", nbytes, sha256)
    for name, nbytes, sha256 in (
        (
            "sam2.1_hiera_tiny",
            156_008_466,
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        ),
        (
            "sam2.1_hiera_small",
            184_416_285,
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        ),
        (
            "sam2.1_hiera_base_plus",
            323_606_802,
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        ),
        (
            "sam2.1_hiera_large",
            898_083_611,
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        ),
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """Which weights are in use.

    Attributes
    ----------
    name : str
        The file's name without its ending.
    version : str
        The first 12 digits of the file's sha256: the same weights have the same version anywhere.
    architecture : Architecture
    """

    name: str
    version: str
    architecture: Architecture

    def __str__(self) -> str:
        return f"{self.name} ({self.version})"


def resolve(checkpoint: str, folder: Path, progress: Progress | None = None) -> Path:
    """The file of a checkpoint named in a setting, downloaded first when it is a published one.

    Parameters
    ----------
    checkpoint : str
        `biosam2_nano`, a name of the catalogue, or a path.
    folder : Path
        Where checkpoints are kept.

    Raises
    ------
    NotFound
        If it is neither a known name nor a file.
    UserError
        If a download fails or is not what the catalogue says.
    """
    if checkpoint in CATALOGUE:
        path = folder / f"{checkpoint}.pt"
        if not path.exists():
            download(CATALOGUE[checkpoint], path, progress)
        return path
    if checkpoint == EMBEDDED:
        return folder / f"{EMBEDDED}.safetensors"
    file = os.path.expanduser(checkpoint)
    if os.path.isfile(file):  # unlike pathlib's, it says no to what cannot be a path
        return Path(file)
    known = ", ".join([EMBEDDED, *CATALOGUE])
    raise NotFound(f'checkpoint "{checkpoint}" is neither a file nor one of {known}.')


def download(source: Published, path: Path, progress: Progress | None = None) -> None:
    """Fetch a checkpoint; an interrupted download goes on where it stopped.

    The file appears at `path` only when it is whole and its sha256 is right.

    Raises
    ------
    UserError
        If the server does not answer or stops midway, what came cannot be stored, or it is not what the
        catalogue says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    have = part.stat().st_size if part.exists() else 0
    if have > source.nbytes:
        part.unlink()
        have = 0
    if have < source.nbytes:
        try:
            _fetch(source, part, have, progress)
        except OSError as error:  # requests' own errors are of this kind, as is a full disk
            raise UserError(
                f"checkpoint {path.name} could not be downloaded from {source.url} ({_reason(error)}); "
                "start again to go on where it stopped."
            ) from error
        # an answer without a length may end early without an error
        have = part.stat().st_size
        if have < source.nbytes:
            raise UserError(
                f"checkpoint {path.name} came only to {have} of {source.nbytes} bytes; "
                "start again to go on where it stopped."
            )
    found = sha256_of(part)
    if found != source.sha256:
        part.unlink()
        raise UserError(
            f"checkpoint {path.name} was downloaded but its sha256 is {found[:12]}…, not "
            f"{source.sha256[:12]}…; it was removed."
        )
    os.replace(part, path)


def _reason(error: OSError) -> str:
    answer = getattr(error, "response", None)
    return type(error).__name__ if answer is None else f"status {answer.status_code}"


def _fetch(source: Published, part: Path, have: int, progress: Progress | None) -> None:
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(source.url, headers=headers, stream=True, timeout=30) as answer:
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        done = have if resumed else 0
        with open(part, "ab" if resumed else "wb") as file:
            for chunk in answer.iter_content(1 << 20):
                file.write(chunk)
                done += len(chunk)
                if done > source.nbytes:  # never fill the disk with something else
                    break
                if progress:
                    progress(done, source.nbytes)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_network(path: Path, image_size: int | None = None) -> tuple[Checkpoint, SAM2Base]:
    """The network of a checkpoint: SAM 2, SAM 2.1 or MedSAM2 `.pt`, or safetensors.

    Nothing in the file is executed (`weights_only=True`, safetensors).

    Parameters
    ----------
    path : Path
    image_size : int, optional
        Side of the network's input in pixels; the architecture's own when left out.

    Raises
    ------
    NotFound
        If there is no such file.
    UserError
        If it is not a whole checkpoint of a network that is known here.
    """
    if not path.is_file():
        raise NotFound(f"checkpoint {path.name} is not there.")
    weights, metadata = _read(path)
    written = metadata.get("architecture")
    architecture = recognise(weights) if written is None else Architecture.from_json(written)
    network = build(architecture, image_size)
    expected = {key: value.shape for key, value in network.state_dict().items()}
    wrong = [key for key in expected if key not in weights or weights[key].shape != expected[key]]
    wrong += sorted(set(weights) - set(expected))
    if wrong:
        raise UserError(
            f"checkpoint {path.name} does not fit {architecture.name[:80]}: "
            f"{wrong[0][:80]} is missing or different."
        )
    network.load_state_dict(weights)
    return Checkpoint(path.stem, sha256_of(path)[:12], architecture), network


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file and its metadata."""
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(weights, dict):
                weights = weights.get("model", weights)
    # what torch, zipfile, pickle and safetensors raise on damaged files is not written down anywhere
    except Exception as error:
        raise UserError(f"checkpoint {path.name} is not readable: it is damaged or no checkpoint.") from error
    if (
        not isinstance(weights, dict)
        or not weights
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items())
    ):
        raise UserError(f"checkpoint {path.name} holds no network weights.")
    return {key: value.float() for key, value in weights.items()}, metadata


def save_checkpoint(
    path: Path, weights: dict[str, torch.Tensor], architecture: Architecture, **metadata: str
) -> None:
    """Write a checkpoint as half-precision safetensors that carries its architecture; atomic.

    Parameters
    ----------
    metadata
        More to keep beside the weights, as text.
    """
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in weights.items()}
    data = safetensors.torch.save(half, {"architecture": architecture.to_json(), **metadata})
    part = path.with_suffix(".part")
    part.write_bytes(data)  # safetensors' own writing makes files that only their owner can read
    os.replace(part, path)
