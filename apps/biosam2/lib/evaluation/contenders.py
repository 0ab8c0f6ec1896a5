"""Who is evaluated: checkpoints, opened one at a time, and classical methods beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from lib.evaluation import pipelines
from lib.evaluation.classical import CLASSICAL, look_in_box
from lib.evaluation.pipelines import Outcome
from lib.evaluation.protocol import BOX, Protocol
from lib.evaluation.study import Structure, Study
from lib.sam.checkpoints import load_network, resolve
from lib.sam.model import Model, choose_device, default_cache_bytes

Asked = Callable[[Study, Structure, list[int], str], Outcome]
"""Study, structure, prompted slices, design -> what came of it."""

CLASSICAL_VERSION = 1  # to be raised when a classical method changes: its rows are then made again


@dataclass(frozen=True)
class Contender:
    """Something to evaluate.

    Attributes
    ----------
    name : str
        As the report calls it.
    version : str
        The first 12 digits of the checkpoint's sha256; for a classical method, its name and a number.
    designs : tuple of str
        The prompts that it is asked with.
    open : callable
        Loads it; what it takes of memory goes with what is returned.
    about : str
        What it is, in words.
    """

    name: str
    version: str
    designs: tuple[str, ...]
    open: Callable[[], Asked]
    about: str = ""


def checkpoints(names: Iterable[str], folder: Path, protocol: Protocol, device: str) -> list[Contender]:
    """The checkpoints of `--checkpoint`: names of the catalogue, downloaded if need be, or paths.

    Parameters
    ----------
    names : iterable of str
    folder : Path
        Where named checkpoints are kept.
    device : str
        "auto", "cpu", "cuda", …

    Raises
    ------
    NotFound, UserError
        As `lib.sam.checkpoints.resolve` and `choose_device`.
    """
    choose_device(device)
    found: dict[str, Contender] = {}
    for name in names:
        path = resolve(name, folder, _progress(name))
        # all are tried now: the last of several should not turn out to be damaged after hours
        checkpoint, network = load_network(path, protocol.image_size)
        about = f"{checkpoint.architecture.name}, {network.image_size} x {network.image_size}"

        def load(path: Path = path) -> Asked:
            return _ask_model(path, protocol, device)

        contender = Contender(checkpoint.name, checkpoint.version, protocol.designs, load, about)
        found.setdefault(checkpoint.version, contender)
    alike = [c.name for c in found.values()]
    return [
        replace(c, name=f"{c.name} ({c.version})") if alike.count(c.name) > 1 else c for c in found.values()
    ]


def classical(protocol: Protocol) -> list[Contender]:
    """The classical methods, if the protocol asks single slices with boxes."""
    if protocol.pipeline != "image" or BOX not in protocol.designs:
        return []

    def opener(name: str) -> Callable[[], Asked]:
        def ask(study: Study, structure: Structure, prompted: list[int], design: str) -> Outcome:
            return pipelines.on_slice(look_in_box(name), study, structure, prompted[0], design, protocol)

        return lambda: ask

    def version(name: str) -> str:
        return f"{name.removesuffix(' in the box').lower()} {CLASSICAL_VERSION}"

    return [Contender(name, version(name), (BOX,), opener(name)) for name in CLASSICAL]


def _ask_model(path: Path, protocol: Protocol, device: str) -> Asked:
    checkpoint, network = load_network(path, protocol.image_size)
    where = choose_device(device)
    cache = default_cache_bytes(where)
    through = {"volume": pipelines.through_volume, "video": pipelines.through_video}

    def ask(study: Study, structure: Structure, prompted: list[int], design: str) -> Outcome:
        # with the embeddings of the row before, its time would depend on the order of the rows
        model = Model(network, checkpoint, where, cache)
        if protocol.pipeline == "image":
            look = pipelines.look_with(model, protocol.zoom)
            return pipelines.on_slice(look, study, structure, prompted[0], design, protocol)
        return through[protocol.pipeline](model, study, structure, prompted, design, protocol)

    return ask


def _progress(name: str) -> Callable[[int, int], None]:
    bar: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        if not bar:
            bar.append(tqdm(total=total, desc=f"downloading {name}", unit="B", unit_scale=True))
        bar[0].update(done - bar[0].n)

    return progress
