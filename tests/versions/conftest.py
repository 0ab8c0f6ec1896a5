"""Versions of small files: nothing but their bytes matters here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.versions.store import Version, Versions

ABOUT = {
    "parent": 0,
    "created": "2026-11-22T03:00:00+00:00",
    "state": "published",
    "reason": "better on the site's structures",
    "run": "20261122_030000",
    "code": "0.1.0+gabc1234",
    "seconds": 512.3,
    "settings": {"steps": 800, "rate": 1e-4, "lora": {"rank": 8}},
    "labels": [
        {
            "image": "scan_1",
            "patient": "1",
            "sha256": "0123456789ab",
            "structures": ["caudate"],
            "use": "training",
        }
    ],
    "left_out": [{"image": "scan_2", "reason": "the label is empty"}],
    "gate": {
        "site": {
            "cases": 4,
            "served": 0.71,
            "candidate": 0.86,
            "structures": {"caudate": {"served": 0.6, "candidate": 0.8, "cases": 4}},
        },
        "general": None,
    },
}


@pytest.fixture(scope="session")
def prepare() -> Callable[[Path, bytes], Path]:
    """Fills a folder as a training does: a checkpoint and what was measured of it."""
    return _prepare


def _prepare(folder: Path, data: bytes) -> Path:
    (folder / "holdout" / "worst").mkdir(parents=True)
    (folder / "candidate.safetensors").write_bytes(data)
    (folder / "holdout" / "results.csv").write_bytes(b"case,dice\n")
    (folder / "holdout" / "worst" / "scan.png").write_bytes(b"PNG")
    return folder


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    base = tmp_path / "nano.safetensors"
    base.write_bytes(b"base")
    return Versions.of(tmp_path / "versions", base)


@pytest.fixture
def add(versions: Versions) -> Callable[..., Version]:
    """Adds a version with some of `ABOUT` changed."""

    def add(**changes: Any) -> Version:
        number = len(versions.all()) + 1
        prepared = _prepare(versions.folder / f".new-{number}", b"weights %d" % number)
        run = {"run": f"20261122_03000{number}"}
        return versions.add(prepared, {**ABOUT, **run, **changes})

    return add
