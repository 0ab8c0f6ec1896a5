"""One labelled image, read: slices as the network sees them, and the true mask of each structure.

Everything is a stack of slices (K, A, B): K along the slice axis, A and B the two others, increasing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lib.errors import NotFound, UserError
from lib.evaluation.datasets import Pair
from lib.imaging.store import DETACHED
from lib.imaging.volume import Volume, load_volume
from lib.imaging.window import Window, choose_window, to_uint8
from lib.prompts.geometry import describe_shape
from lib.sam.checkpoints import sha256_of

# Two programs' rounding of the same affine differs by far less, two grids by far more.
SAME_PLACE = 0.5  # voxels


@dataclass(frozen=True)
class Structure:
    """Something to find: its name, and its value in a label file."""

    name: str
    value: int


@dataclass(frozen=True, eq=False)
class Study:
    """An image and its labels on the same grid.

    Attributes
    ----------
    pair : Pair
    volume : Volume
    labels : ndarray
        (I, J, K) whole numbers, on the volume's grid.
    """

    pair: Pair
    volume: Volume
    labels: np.ndarray

    @cached_property
    def window(self) -> Window:
        """What becomes black and white, chosen as the app does for a request that names no window."""
        return choose_window(self.volume)

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.volume.n_slices

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between slices, and between voxels along the two axes of a slice."""
        a, b = self.volume.in_plane_axes
        spacing = self.volume.spacing
        return spacing[self.volume.slice_axis], spacing[a], spacing[b]

    @property
    def upwards(self) -> bool:
        """Whether the second axis of a slice points up in an upright picture: anterior or superior."""
        along = self.volume.affine[:3, self.volume.in_plane_axes[1]]
        return bool(along[np.argmax(np.abs(along))] > 0)

    @property
    def aspect(self) -> float:
        """Height of a voxel over its width, on a slice whose first axis goes across."""
        return self.spacing[2] / self.spacing[1]

    def plane(self, index: int) -> np.ndarray:
        """Slice `index` after the window: uint8 (A, B) or (A, B, 3)."""
        return to_uint8(self.volume.plane(index), self.window)

    def truth(self, structure: Structure) -> np.ndarray:
        """Where a structure is, bool (K, A, B)."""
        return np.ascontiguousarray(np.moveaxis(self.labels == structure.value, self.volume.slice_axis, 0))

    def structures(self, wanted: Sequence[str] = ()) -> list[Structure]:
        """The structures of this label file that are wanted, in the order of their values.

        Parameters
        ----------
        wanted : sequence of str
            Names, values, or ``name=value`` where the data set names none; empty for all.

        Raises
        ------
        UserError
            If the label file has none of them.
        """
        names = dict(self.pair.names)
        for text in wanted:
            name, equals, value = text.rpartition("=")
            if equals and value.isdecimal():
                names[int(value)] = name
        asked = {text.rpartition("=")[0] or text for text in wanted}
        found = [
            Structure(names.get(value, f"label {value}"), value)
            for value in map(int, np.unique(self.labels))
            if value != 0
        ]
        if wanted:
            found = [s for s in found if s.name in asked or str(s.value) in asked]
        if not found:
            what = f"none of {', '.join(wanted)}" if wanted else "no structure"
            raise UserError(f"label '{self.pair.label.name}' holds {what}.")
        return found


def read_study(pair: Pair) -> Study:
    """Read an image and its label file.

    Raises
    ------
    NotFound
        If one of them is not there.
    UserError
        If one cannot be read, or the labels are no whole numbers on the image's own grid.
    """
    if not pair.label.exists():
        raise NotFound(f"label '{pair.label.name}' of image '{pair.image.name}' does not exist.")
    volume, label = load_volume(pair.image), load_volume(pair.label)
    if pair.modality and not volume.modality:
        volume = replace(volume, modality=pair.modality)
    named = f"label '{pair.label.name}'"
    if label.is_rgb:
        raise UserError(f"{named} is a colour picture: its values must be the numbers of structures.")
    if label.shape3 != volume.shape3:
        raise UserError(
            f"{named} has {describe_shape(label.shape3)}, its image '{pair.image.name}' "
            f"{describe_shape(volume.shape3)}."
        )
    # a picture has no place in the patient
    if "raster" not in (volume.kind, label.kind) and (far := _apart(volume, label)) > SAME_PLACE:
        raise UserError(f"{named} lies up to {far:.1f} voxels beside its image '{pair.image.name}'.")
    values = np.asarray(label.voxels)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.rint(values)):
            raise UserError(f"{named} holds fractions: its values must be the numbers of structures.")
        values = values.astype(np.int64)
    return Study(pair, volume, values)


def fingerprint(pair: Pair) -> str:
    """12 hexadecimal digits that stand for the content of both files: another label is another case.

    Raises
    ------
    NotFound
        If one of them is not there.
    """
    digest = hashlib.sha256()
    for kind, path in (("image", pair.image), ("label", pair.label)):
        if not path.exists():
            raise NotFound(f"{kind} '{path.name}' of case {pair.name} does not exist.")
        for file in _files_of(path):
            digest.update(sha256_of(file).encode())
    return digest.hexdigest()[:12]


def _files_of(path: Path) -> list[Path]:
    """The files of an image: those of a series' folder; of a detached header, those of the same stem."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file())
    if path.suffix.lower() in DETACHED:
        return sorted(p for p in path.parent.iterdir() if p.name.startswith(path.stem + "."))
    return [path]


def _apart(volume: Volume, label: Volume) -> float:
    """How far the corners of two grids of the same shape lie from each other at most, in voxels."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in volume.shape3), (1,))), float)
    moved = np.linalg.solve(volume.affine, label.affine @ corners.T).T - corners
    return float(np.abs(moved).max())
