"""A site that has collected labels and trained: real files, and as much of an app as the page asks for."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from monailabel.datastore.local import LocalDatastore

from lib.evaluation.pipelines import Shown
from lib.evaluation.results import COLUMNS, Results, Row
from lib.evaluation.runner import TABLE
from lib.evaluation.worst import Worst
from lib.prompts.prompts import SlicePrompts
from lib.server.datastore import Folder
from lib.versions.store import Version, Versions

BASE = "biosam2_nano"
DIGITS = "0123456789ab"
NOW = datetime.now(UTC)
RUNS = itertools.count()


class Site:
    """The folder of everything, and the stand-in for the app.

    Parameters
    ----------
    folder : Path
    labels : sequence of (image, time, structures)
        Final labels that were submitted; None for an image without one.
    """

    def __init__(
        self, folder: Path, labels: Sequence[tuple[str, datetime | None, Sequence[str]]] = ()
    ) -> None:
        self.folder = folder
        self.run = f"20261122_03{next(RUNS):04d}"  # the pace of one training says nothing about another
        base = folder / f"{BASE}.safetensors"
        base.write_bytes(b"base")
        self.versions = Versions.of(folder / "versions", base)
        (self.versions.folder / "runs").mkdir(parents=True)
        self._datastore = _datastore(folder / "studies", labels)
        self._trainers = {"biosam2": None}
        self.retraining: Any = None
        self.slot = SimpleNamespace(get=self._model, device="cpu")

    def datastore(self) -> LocalDatastore:
        return self._datastore

    def _model(self) -> Any:
        path = self.versions.served_path()
        about = self.versions.get(self.versions.served_number()).about
        checkpoint = SimpleNamespace(name=path.stem, version=about.get("checkpoint", DIGITS))
        return SimpleNamespace(checkpoint=checkpoint)

    def round(
        self,
        served: float,
        candidate: float,
        published: bool = True,
        structures: Mapping[str, tuple[float, float]] | None = None,
        **about: Any,
    ) -> Version:
        """A training and its end: a version, which is served if it is better."""
        number = len(self.versions.all()) + 1
        prepared = self.versions.folder / f".new-{number}"
        prepared.mkdir()
        (prepared / "candidate.safetensors").write_bytes(f"weights {number}".encode())
        learnt = [f"case{n:02}" for n in range(4 * number)]
        told = {
            "parent": self.versions.served_number(),
            "created": (NOW - timedelta(days=3 * (12 - number))).isoformat(timespec="seconds"),
            "state": "published" if published else "kept",
            "reason": "Better by more than the noise." if published else "Not better by more than the noise.",
            "code": "0.1.0+gabc1234",
            "seconds": 512.3,
            "labels": [
                {
                    "image": image,
                    "patient": image,
                    "sha256": DIGITS,
                    "structures": list(structures or ["caudate"]),
                    "use": "hold-out" if n % 4 == 3 else "training",
                }
                for n, image in enumerate(learnt)
            ],
            "left_out": [],
            "gate": {"site": site(served, candidate, structures or {}), "general": GENERAL},
            **about,
        }
        version = self.versions.add(prepared, told)
        if published:
            self.versions.serve(version.number)
        return self.versions.get(version.number)

    def hold_out(self, version: Version, cases: Mapping[tuple[str, str], float]) -> list[Row]:
        """Results of a version, by image and structure, with the slices that an evaluation keeps."""
        out = version.path / "holdout"
        out.mkdir()
        results, kept, rows = Results(out / TABLE), Worst(out), []
        for n, ((image, structure), dice) in enumerate(cases.items()):
            named = {"case": image, "structure": structure, "version": version.about["checkpoint"]}
            asked = {"model": version.name, "pipeline": "image", "prompts": "box", "slices": "7"}
            row = {**dict.fromkeys(COLUMNS, ""), **named, **asked, "dice": f"{dice:.6g}"}
            kept.keep(row, [_slice(n, dice)])
            results.add(row)
            rows.append(row)
        return rows

    def progress(self, **fields: Any) -> None:
        """What the training says about itself."""
        path = self.versions.folder / "runs" / "progress.json"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"run": self.run, "started": now, "updated": now, **fields}))
        os.replace(part, path)


GENERAL = {
    "cases": 24,
    "served": 0.841,
    "candidate": 0.838,
    "difference": -0.003,
    "low": -0.011,
    "high": 0.006,
    "margin": 0.02,
}


def site(served: float, candidate: float, structures: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """A gate's figures on the hold-out, with intervals of a plausible width."""
    difference, half = candidate - served, 0.04
    return {
        "cases": 4,
        "served": served,
        "candidate": candidate,
        "difference": difference,
        "low": difference - 0.03,
        "high": difference + 0.03,
        "candidate_low": candidate - half,
        "candidate_high": min(candidate + half, 1.0),
        "structures": {
            name: {
                "served": before,
                "candidate": after,
                "cases": 4,
                "candidate_low": after - half,
                "candidate_high": min(after + half, 1.0),
            }
            for name, (before, after) in structures.items()
        },
    }


def _datastore(folder: Path, labels: Sequence[tuple[str, datetime | None, Sequence[str]]]) -> Any:
    """MONAI Label's datastore of a folder: its table as it writes it, and files by those names."""
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    objects = {}
    for image, moment, names in labels:
        file = f"{image}.nii.gz"
        (folder / file).touch()
        objects[image] = {"image": {"ext": ".nii.gz", "info": {"ts": 0, "name": file}}, "labels": {}}
        if moment is None:
            continue
        (final / file).touch()
        named = [{"name": name, "idx": n + 1} for n, name in enumerate(names)]
        info = {"label_info": named, "ts": int(moment.timestamp()), "name": file}
        objects[image]["labels"] = {"final": {"ext": ".nii.gz", "info": info}}
    table = {"name": "d", "description": "", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (folder / "datastore_v2.json").write_text(json.dumps(table))
    return Folder(str(folder))


def _slice(seed: int, dice: float) -> Shown:
    """A slice with an ellipse, and an answer that is off by more the worse it is."""
    rng = np.random.default_rng(seed)
    across, down = np.indices((96, 80))
    head = ((across - 48) / 42) ** 2 + ((down - 40) / 35) ** 2 < 1
    middle, radii = rng.uniform(34, 56, 2), rng.uniform(9, 16, 2)

    def ellipse(shift: float) -> np.ndarray:
        x, y = (across - middle[0] - shift) / radii[0], (down - middle[1] + shift / 2) / radii[1]
        return np.asarray(x**2 + y**2 < 1)

    truth = ellipse(0)
    plane = 20 + 70 * head + 60 * truth + rng.normal(0, 10, head.shape)
    return Shown(
        index=7,
        plane=np.clip(plane, 0, 255).astype(np.uint8),
        truth=truth,
        mask=ellipse((1 - dice) * 1.4 * radii[0]),
        prompts=SlicePrompts(np.array([[middle[0], middle[1]]]), np.array([True]), None, None),
        upwards=False,
        aspect=1.0,
    )
