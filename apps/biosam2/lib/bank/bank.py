"""The final labels of the datastore as exemplars: the labelled slices nearest to an image."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException

from lib.errors import UserError
from lib.sam.exemplars import Exemplar, Labelled, Sought, pooled
from lib.sam.layouts import Layout, layout
from lib.sam.looks import ATTENDED
from lib.sam.model import Model
from lib.trainers.finetune.cases import LabelledCase, labelled_case
from lib.trainers.finetune.slices import LABELS, PIXELS, CachedCase, cache_case, forget_others
from lib.trainers.retrain.monai_label import FinalLabels

logger = logging.getLogger(__name__)

# Labelled patients that are asked about a structure, the nearest ones: more where they have few slices of it.
PATIENTS = 5
SLICES = 4  # of each patient and structure
SMALLEST = 12  # pixels of a structure on an exemplar


@dataclass(frozen=True, eq=False)
class _Known:
    """A labelled case, its slices on disk, and what they look like."""

    case: LabelledCase
    cached: CachedCase
    pixels: np.ndarray
    labels: np.ndarray
    areas: np.ndarray  # (slices, structures + 1)
    names: list[str]
    values: list[int]
    layout: Layout
    lock: threading.Lock = field(default_factory=threading.Lock)
    read: dict[Path, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, case: LabelledCase, cached: CachedCase) -> _Known:
        pixels, labels = (np.load(cached.folder / name, mmap_mode="r") for name in (PIXELS, LABELS))
        names = cached.structures
        most = len(names) + 1
        areas = np.stack([np.bincount(plane.ravel(), minlength=most) for plane in labels])
        return cls(case, cached, pixels, labels, areas, names, cached.values, layout(labels, names))

    def has(self, structure: str) -> bool:
        return structure in self.names and bool((self.areas[:, self._value(structure)] >= SMALLEST).any())

    def _value(self, structure: str) -> int:
        """On the cached slices, where values are 1, 2, … in the order of the names."""
        return 1 + self.names.index(structure)

    def embeddings(self, model: Model) -> np.ndarray:
        """Of its slices, as they are and as negatives: float32 (2, K, C); kept on disk beside them.

        In colour only as they are: (1, K, C).
        """
        path = self.cached.folder / f"looks-{model.checkpoint.version}-{model.size}.npy"
        with self.lock:  # of several who ask, one makes them
            if path not in self.read:
                self.read.clear()  # those of a model that is not served any more
                self.read[path] = self._embed(model, path)
            return self.read[path]

    def _embed(self, model: Model, path: Path) -> np.ndarray:
        try:
            return np.load(path)
        except (OSError, ValueError):
            ways = (False, True) if self.pixels.ndim == 3 else (False,)
            found = np.stack(
                [[pooled(model, self.plane(k, way)) for k in range(len(self.pixels))] for way in ways]
            )
        part = path.with_suffix(".part")
        try:
            with open(part, "wb") as file:
                np.save(file, found)
            os.replace(part, path)
        # a full disk, or the label was changed meanwhile: they can be made again
        except OSError as error:
            logger.warning("%s is not kept: %s", path.name, error)
        return found

    def plane(self, index: int, negative: bool) -> np.ndarray:
        plane = np.asarray(self.pixels[index])
        return 255 - plane if negative else plane

    def exemplars(self, model: Model, structure: str, negative: bool) -> list[Exemplar]:
        """Slices of a structure: from its first to its last, in even steps."""
        value = self._value(structure)
        on = np.flatnonzero(self.areas[:, value] >= SMALLEST)
        chosen = on[np.unique(np.linspace(0, len(on) - 1, min(SLICES, len(on))).round().astype(int))]
        embeddings = self.embeddings(model)[int(negative)]
        return [
            Exemplar(
                (self.case.sha256, int(index), value, negative),
                self.plane(index, negative),
                np.asarray(self.labels[index] == value),
                embeddings[index],
            )
            for index in chosen
        ]


@dataclass(frozen=True, eq=False)
class _Neighbour:
    """A labelled case, seen so that it is most like an image.

    Where one scanner shows bright what another shows dark, memory recognises nothing; a negative of the
    labelled slices it does (generated patients, one in five inverted: Dice 0.75 instead of 0.62).
    """

    known: _Known
    negative: bool
    likeness: float

    @classmethod
    def of(cls, known: _Known, model: Model, embeddings: np.ndarray) -> _Neighbour:
        likeness = [_likeness(way, embeddings) for way in known.embeddings(model)]
        return cls(known, bool(np.argmax(likeness)), max(likeness))


class LabelBank:
    """Kept up with the datastore's final labels; several threads may ask.

    Parameters
    ----------
    datastore : callable
        The app's datastore.
    folder : Path
        Where the slices of the labelled cases are kept; see `lib.trainers.finetune.slices`.
    """

    def __init__(self, datastore: Callable[[], Datastore], folder: Path) -> None:
        self._datastore, self._folder = datastore, folder
        self._stamps = FinalLabels(datastore)
        self._lock = threading.Lock()
        self._seen: dict[str, str] = {}
        self._known: dict[str, _Known] = {}

    def refresh(self) -> None:
        """Read what is new or changed since the last time.

        Raises
        ------
        Unavailable
            If the labels are in an archive that does not answer.
        """
        with self._lock:
            now = self._stamps()
            if now == self._seen:
                return
            known = {image: k for image, k in self._known.items() if now.get(image) == self._seen.get(image)}
            for image in sorted(now.keys() - known.keys()):
                found = self._read(image)
                if found is not None:
                    known[image] = found
            self._known, self._seen = known, now
            forget_others(self._folder, [k.case for k in known.values()])

    def _read(self, image: str) -> _Known | None:
        try:
            case = labelled_case(self._datastore(), image)
            return _Known.of(case, cache_case(case, self._folder))
        except (UserError, MONAILabelException, OSError) as error:
            logger.warning("the label of %s is no exemplar: %s", image, getattr(error, "msg", error))
            return None

    @property
    def fingerprint(self) -> str:
        """Stands for all labels; "" while there is none. The same labels have the same."""
        known = sorted(k.case.sha256 for k in self._known.values())
        return hashlib.sha256(" ".join(known).encode()).hexdigest()[:12] if known else ""

    def structures(self) -> dict[str, int]:
        """The names in all labels, and the index that each has in most of them; no two have the same."""
        counts: Counter[tuple[str, int]] = Counter()
        for known in list(self._known.values()):
            counts.update(zip(known.names, known.values, strict=True))
        found: dict[str, int] = {}
        taken: set[int] = set()
        for (name, value), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0][1], item[0][0])):
            if name not in found and value not in taken:
                found[name] = value
                taken.add(value)
        for name, _ in sorted(counts):
            if name not in found:  # another structure has its index
                found[name] = next(n for n in range(1, len(counts) + 2) if n not in taken)
                taken.add(found[name])
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def sought(self, model: Model, embeddings: np.ndarray, without: Path | None = None) -> dict[str, Sought]:
        """What is known of each structure from the labelled cases nearest to an image.

        Parameters
        ----------
        model : Model
        embeddings : ndarray float32 (K, C)
            Of the image's slices, see `lib.sam.exemplars.pooled`.
        without : Path, optional
            The image: its own label is no exemplar of it.

        Returns
        -------
        dict of Sought
            By structure; empty without labels.
        """
        own = without and without.resolve()
        cases = [known for known in list(self._known.values()) if known.case.pair.image.resolve() != own]
        near = [_Neighbour.of(known, model, embeddings) for known in cases]
        near.sort(key=lambda one: -one.likeness)
        found = {}
        for name in self.structures():
            having = [one for one in near if one.known.has(name)]
            patients: list[Labelled] = []
            slices = 0
            for one in having:
                if len(patients) >= PATIENTS and slices >= ATTENDED:
                    break
                exemplars = one.known.exemplars(model, name, one.negative)
                patients.append(Labelled(one.known.case.sha256, exemplars, one.known.layout))
                slices += len(exemplars)
            if patients:
                # Laplace's rule of succession: of one patient who has it little follows for the next
                share = (len(having) + 1) / (len(near) + 2)
                found[name] = Sought(patients, share)
        return found


def _likeness(some: np.ndarray, others: np.ndarray) -> float:
    """Mean over the slices of one image of how alike the most alike slice of the other is: cosine."""
    return float((others @ some.T).max(1).mean())


def middle(embeddings: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The embedding of an image from those of its slices: float32 (C,), of length 1."""
    mean = np.mean(embeddings, 0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-6)).astype(np.float32)
