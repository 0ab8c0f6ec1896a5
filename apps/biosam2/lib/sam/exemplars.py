"""Labelled slices of other patients, and what the network remembers of them.

A labelled slice is remembered as if a person had prompted it (`lib.sam.looks`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.imaging.window import equalised
from lib.sam import zoom
from lib.sam.layouts import Layout
from lib.sam.memory import Remembering
from lib.sam.model import Model
from lib.sam.segment import picture
from lib.sam.zoom import View

REMEMBERED = 1024  # exemplars whose memory is kept for the next patient; 33 kB each for the embedded network


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A slice on which somebody has labelled a structure.

    Attributes
    ----------
    key : tuple
        Names the image, the slice and the label; with another label it is another one.
    plane : ndarray uint8, (A, B) or (A, B, 3)
        After the window.
    mask : ndarray of bool, (A, B)
        Not empty.
    embedding : ndarray float32 (C,)
        See `pooled`.
    """

    key: tuple
    plane: np.ndarray
    mask: np.ndarray
    embedding: np.ndarray


@dataclass(frozen=True, eq=False)
class Labelled:
    """A structure of a labelled patient.

    Attributes
    ----------
    patient : str
        The same for all structures of a patient, and for no other patient's.
    exemplars : sequence of Exemplar
        One at least.
    layout : Layout
        Of the patient; empty if nothing is known of where structures lie.
    """

    patient: str
    exemplars: Sequence[Exemplar]
    layout: Layout


@dataclass(frozen=True, eq=False)
class Sought:
    """A structure to be found.

    Attributes
    ----------
    patients : sequence of Labelled
        One at least; the nearest first.
    share : float
        Of the patients that have it, above 0 and below 1.
    """

    patients: Sequence[Labelled]
    share: float = 0.5

    @property
    def exemplars(self) -> list[Exemplar]:
        return [exemplar for one in self.patients for exemplar in one.exemplars]

    @property
    def layouts(self) -> list[Layout]:
        return [one.layout for one in self.patients]


def pooled(model: Model, plane: np.ndarray) -> np.ndarray:
    """What a slice looks like as a whole: the encoder's mean features, float32 (C,), of length 1."""
    embedding, _ = model.embed(picture(plane, zoom.whole(zoom.shape_of(plane))))
    with model.running():
        mean = embedding.levels[-1][0].float().mean((1, 2)).cpu().numpy()
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


class Memories:
    """What the network remembers of exemplars, kept for the next time; the least recently used go first."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self.most = most
        self._kept: OrderedDict[tuple, dict] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, model: Model, exemplar: Exemplar, view: View, equal: bool = False) -> dict:
        """The memory of one in a view, equalised or not, as sam2 keeps that of a prompted slice."""
        key = (model.checkpoint.version, model.size, exemplar.key, view, equal)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            one = Remembering(model, lambda _: shown(exemplar.plane, view, equal), 1, view)
            one._condition_on_mask(0, exemplar.mask)
            found = one.memory.conditioning[0]
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return found


def shown(plane: np.ndarray, view: View, equal: bool) -> np.ndarray:
    """A slice as it is, or with its contrast equalised in a view."""
    if not equal:
        return plane
    found = plane.copy()
    found[view.window] = equalised(plane[view.window])
    return found
