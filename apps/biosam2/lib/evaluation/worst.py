"""Keeps the slices of the worst cases, to be looked at in the report; those of better ones are let go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lib.evaluation.pipelines import Shown
from lib.evaluation.results import Row, key_of
from lib.prompts.prompts import SlicePrompts

FOLDER = "worst"
COUNT = 4  # cases of each model, structure and prompt design

Group = tuple[str, ...]


class Worst:
    """The slices of the cases with the lowest Dice, in files.

    Parameters
    ----------
    out : Path
        Folder of the results; the files lie in `worst` in it.
    rows : iterable of dict
        What was measured before.
    """

    def __init__(self, out: Path, rows: Iterable[Row] = ()) -> None:
        self.folder = out / FOLDER
        self.folder.mkdir(exist_ok=True)
        self._kept: dict[Group, list[tuple[float, str, Row]]] = {}
        for row in rows:
            if self.path(row).exists():
                self._note(row)

    def path(self, row: Row) -> Path:
        """The file of a row, whether it is kept or not."""
        return self.folder / (hashlib.sha256("\0".join(key_of(row)).encode()).hexdigest()[:24] + ".npz")

    def keep(self, row: Row, shown: Iterable[Shown]) -> None:
        """Keep the slices of a row if it is among the worst."""
        if row in self._note(row):
            return
        arrays: dict[str, np.ndarray] = {}
        for number, one in enumerate(shown):
            arrays |= {f"{number}_{name}": value for name, value in _arrays(one).items()}
        part = self.path(row).with_suffix(".part.npz")
        np.savez_compressed(part, **arrays)
        part.replace(self.path(row))

    def _note(self, row: Row) -> list[Row]:
        """Count a row in; returns the rows that are let go, this one among them if it is not bad enough."""
        group = self._kept.setdefault(_group(row), [])
        group.append((float(row["dice"]), self.path(row).name, row))
        group.sort(key=lambda entry: entry[:2])
        gone = [entry[2] for entry in group[COUNT:]]
        del group[COUNT:]
        for old in gone:
            self.path(old).unlink(missing_ok=True)
        return gone

    def read(self, row: Row) -> list[Shown]:
        """The slices of a row; none if they were not kept."""
        if not self.path(row).exists():
            return []
        with np.load(self.path(row)) as file:
            numbers = sorted({name.split("_")[0] for name in file.files})
            return [_shown({n[2:]: file[n] for n in file.files if n[0] == number}) for number in numbers]


def _group(row: Row) -> Group:
    return tuple(row[name] for name in ("version", "pipeline", "protocol", "structure", "prompts"))


def _arrays(one: Shown) -> dict[str, np.ndarray]:
    arrays = {"index": np.array(one.index), "plane": one.plane, "truth": one.truth, "mask": one.mask}
    arrays |= {"upwards": np.array(one.upwards), "aspect": np.array(one.aspect)}
    if one.prompts is not None:
        arrays |= {"points": one.prompts.points, "positive": one.prompts.positive}
        if one.prompts.box is not None:
            arrays["box"] = np.array(one.prompts.box)
        if one.prompts.mask is not None:
            arrays["given"] = one.prompts.mask
    return arrays


def _shown(arrays: dict[str, np.ndarray]) -> Shown:
    prompts = None
    if "points" in arrays:
        box = tuple(arrays["box"].tolist()) if "box" in arrays else None
        prompts = SlicePrompts(arrays["points"], arrays["positive"], box, arrays.get("given"))
    return Shown(
        index=int(arrays["index"]),
        plane=arrays["plane"],
        truth=arrays["truth"],
        mask=arrays["mask"],
        prompts=prompts,
        upwards=bool(arrays["upwards"]),
        aspect=float(arrays["aspect"]),
    )
