"""How long the next case takes, over HTTP, for pools of up to 100,000 images that are scored.

.venv/bin/python tests/benchmarks/next_case.py [--help]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "apps" / "biosam2"), str(REPOSITORY / "tests")]

from monailabel.datastore.local import LocalDatastore  # noqa: E402
from programs import MonaiLabel  # noqa: E402

from lib.activelearning.scores import INFO, CaseScore, StructureScore  # noqa: E402
from lib.activelearning.strategies import STRATEGIES  # noqa: E402

SIZES = (1_000, 10_000, 100_000)
LENGTH = 128  # numbers of an embedding: pooled features of the default checkpoint
STRUCTURES = ("liver", "spleen", "kidney left", "kidney right", "tumour")
CLUSTERS = 50
LABELLED = 100  # one image of so many
PEOPLE = 8
LOADING_SECONDS = 1800
LIMIT = 100.0  # ms at the 99th percentile


def make_studies(folder: Path, size: int, seed: int = 0) -> None:
    """A folder of images without content, and MONAI Label's file about them with a score for each."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(CLUSTERS, LENGTH))
    vectors = middles[rng.integers(CLUSTERS, size=size)] + 0.5 * rng.normal(size=(size, LENGTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = rng.random((size, len(STRUCTURES), 2))
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    objects: dict[str, Any] = {}
    for n in range(size):
        image, name = f"case{n:06d}", f"case{n:06d}.nii.gz"
        (folder / name).touch()
        found = {s: StructureScore(*shares[n, i].tolist()) for i, s in enumerate(STRUCTURES)}
        info = {"ts": 0, "name": name, INFO: CaseScore("key", vectors[n], found).to_info()}
        labels = {}
        if n % LABELLED == 0:
            (final / name).touch()
            labels = {"final": {"ext": ".nii.gz", "info": {"ts": 0, "name": name}}}
        objects[image] = {"image": {"ext": ".nii.gz", "info": info}, "labels": labels}
    about = {"name": "", "description": "", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (folder / "datastore_v2.json").write_text(json.dumps(about))


def measure(size: int, count: int, strategies: Sequence[str], work: Path) -> dict[str, list[float]]:
    """Milliseconds of each answer, by what was asked.

    Raises
    ------
    RuntimeError
        If the server does not start, does not come to know all scores, or gives one case to two people.
    """
    studies = work / "studies"
    make_studies(studies, size)
    conf = {"device": "cpu", "versions": work / "versions"}
    found: dict[str, list[float]] = {}
    with MonaiLabel(studies, work, conf, {"MONAI_LABEL_DATASTORE_AUTO_RELOAD": "true"}) as server:
        began = time.monotonic()
        _wait_until_scored(server, size)
        found["(all scores read after)"] = [1e3 * (time.monotonic() - began)]
        for strategy in strategies:
            people = [_Person(server.address, f"{strategy}{n}") for n in range(PEOPLE)]
            found[strategy] = [people[n % PEOPLE].ask(strategy) for n in range(count)]
            _check(people)
        people = [_Person(server.address, f"together{n}") for n in range(PEOPLE)]
        found["biosam2, 8 at once"] = _together(people, lambda person: person.ask("biosam2"), count)
        _check(people)
        found["biosam2, labels saved"] = _beside_labels(server, count)
    found["(update_image_info)"] = [_stock_write(studies)]
    return found


def _wait_until_scored(server: MonaiLabel, size: int) -> None:
    end = time.monotonic() + LOADING_SECONDS
    while (told := server.get("/info/").json()["next_case"])["scored"] < size:
        if time.monotonic() > end:
            raise RuntimeError(f"the server knows of {told} only")
        time.sleep(0.5)


class _Person:
    """Asks for one case after the other."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name, self.has = address, name, ""
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy on the way to this machine

    def ask(self, strategy: str) -> float:
        """The milliseconds that it took."""
        url, sent = f"{self.address}/activelearning/{strategy}", {"client_id": self.name}
        begin = time.perf_counter()
        answer = self.session.post(url, json=sent, timeout=600)
        took = 1e3 * (time.perf_counter() - begin)
        if not answer.ok or "id" not in answer.json():
            raise RuntimeError(f"the server answered {answer.status_code}: {answer.text[:200]}")
        self.has = answer.json()["id"]
        return took


def _check(people: Sequence[_Person]) -> None:
    if len({person.has for person in people}) < len(people):
        raise RuntimeError("two people have the same case")


def _together(people: Sequence[_Person], ask: Callable[[_Person], float], count: int) -> list[float]:
    took: list[float] = []
    threads = [
        threading.Thread(
            target=lambda person=person: took.extend(ask(person) for _ in range(count // PEOPLE))
        )
        for person in people
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def _beside_labels(server: MonaiLabel, count: int) -> list[float]:
    """While somebody else submits one label after the other, of which MONAI Label writes its whole file."""
    ended, submitter = threading.Event(), _Person(server.address, "submitter")

    def submit() -> None:
        while not ended.is_set():
            submitter.ask("random")
            sent = {"params": {"image": submitter.has}, "files": {"label": ("label.nii.gz", b"x")}}
            submitter.session.put(f"{server.address}/datastore/label", timeout=600, **sent).raise_for_status()

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        return [_Person(server.address, "asking").ask("biosam2") for _ in range(count)]
    finally:
        ended.set()
        thread.join()


def _stock_write(studies: Path) -> float:
    """Milliseconds of what MONAI Label's own route does for every case besides."""
    datastore = LocalDatastore(str(studies), auto_reload=False, read_only=True)
    begin = time.perf_counter()
    datastore.update_image_info("case000001", {"strategy": {}})
    return 1e3 * (time.perf_counter() - begin)


def table(results: dict[int, dict[str, list[float]]]) -> str:
    """A row for each strategy; p50 and p99 in ms for each size."""
    header = ["strategy", *(f"{size:,} images: p50, p99 (ms)" for size in results)]
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    rows = [[name, *(_cell(found.get(name)) for found in results.values())] for name in names]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cell(took: list[float] | None) -> str:
    if not took:
        return "-"
    if len(took) == 1:
        return f"{took[0]:,.0f}"
    return f"{np.percentile(took, 50):.1f}, {np.percentile(took, 99):.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="images, separated by commas")
    parser.add_argument("--requests", type=int, default=400, help="of each strategy")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="separated by commas")
    parser.add_argument("--limit", type=float, default=LIMIT, help="ms; a higher p99 ends with status 1")
    options = parser.parse_args()
    results = {}
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="next-case-") as work:
            results[size] = measure(size, options.requests, options.strategies.split(","), Path(work))
        print(f"{size} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n{table(results)}")
    p99 = np.percentile(results[max(results)][options.strategies.split(",")[0]], 99)
    return 0 if p99 < options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
