"""What memory of labelled slices makes of a slice: one look at it, whole or close by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from lib.sam import zoom
from lib.sam.exemplars import Exemplar, Memories, shown
from lib.sam.memory import Memory, Planes, Remembering, masks_of_what_is_absent
from lib.sam.model import Model
from lib.sam.network import BACKBONE_STRIDE
from lib.sam.segment import to_slice
from lib.sam.zoom import View

FAR = 32  # slices that lie between an exemplar and what it is asked about, for the pointers' positions
# Slices that are attended to at once, those most like the slice asked about. It takes time with their number
# and the square of the size, which bound them.
ATTENDED, CELLS = 16, 16 * 32 * 32
LEAST_ATTENDED = 4
# The closer looks: the side of the view, in extents of the structure on the exemplars, and whether contrast
# is equalised in it, which shows what is faint.
WIDE, CLOSE = (4.0, True), (2.5, False)
TRUST = 10.0  # logits beyond which a look counts no more

Distance = tuple[float, bool]  # how far a closer look is, see `WIDE`


@dataclass(frozen=True, eq=False)
class Look:
    """What memory makes of a slice in one view.

    Attributes
    ----------
    logits : ndarray float32 (A, B)
        -`lib.sam.segment.CLAMP` outside of the view. Of the mask that there is if there is one at all.
    presence, score : float
        Object score and predicted IoU.
    """

    logits: np.ndarray
    presence: float
    score: float

    @property
    def mask(self) -> np.ndarray:
        """Empty where the object score says that it is absent."""
        return (self.logits > 0) & (self.presence > 0)

    @property
    def likely(self) -> np.ndarray:
        """How likely each voxel is of the structure, float32 (A, B), 0 to 1."""
        return expit(self.logits) * expit(self.presence)

    @property
    def weighed(self) -> np.ndarray:
        """The logits, or surely nothing where the object score says that it is absent."""
        return self.logits if self.presence > 0 else np.minimum(self.logits, -TRUST)


class Looking:
    """Looks at the slices of an image.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    memories : Memories
    """

    def __init__(self, model: Model, planes: Planes, memories: Memories) -> None:
        self.model, self.planes, self.memories = model, planes, memories
        self.shape = zoom.shape_of(planes(0))

    def at_all(self, index: int, exemplars: Sequence[Exemplar]) -> Look:
        """At a whole slice, with the exemplars' whole slices for memory."""
        return self._look(index, zoom.whole(self.shape), exemplars, _whole)

    def closer(self, index: int, place: zoom.Corners, exemplars: Sequence[Exemplar], how: Distance) -> Look:
        """A closer look at a place: a structure as large as on the exemplars is as close there."""
        extents, equal = how
        boxes = [zoom.extent(exemplar.mask) for exemplar in exemplars]
        side = float(np.median([_side(box) for box in boxes if box is not None]))
        view = zoom.around(*place, self.shape, self.model.size, least=extents * side)
        return self._look(index, view, exemplars, _near(self.model.size, extents), equal)

    def most_alike(self, exemplars: Sequence[Exemplar], embedding: np.ndarray) -> list[Exemplar]:
        """Those most like the slice asked about, as many as are attended to at once."""
        cells = (self.model.size // BACKBONE_STRIDE) ** 2
        most = int(np.clip(CELLS // cells, LEAST_ATTENDED, ATTENDED))
        return sorted(exemplars, key=lambda e: -float(e.embedding @ embedding))[:most]

    def _look(
        self,
        index: int,
        view: View,
        exemplars: Sequence[Exemplar],
        view_of: Callable[[Exemplar], View],
        equal: bool = False,
    ) -> Look:
        known = [self.memories.of(self.model, one, view_of(one), equal) for one in exemplars]
        plane = shown(self.planes(index), view, equal)  # once: it is asked for several times
        asked = Remembering(self.model, lambda _: plane, len(known) + FAR + 1, view)
        asked.memory = Memory(view, dict(enumerate(known)))
        return _ask(asked, len(known) + FAR)


def _ask(asked: Remembering, index: int) -> Look:
    embedding = asked._embed(index)
    with asked.model.running(), masks_of_what_is_absent(asked.model) as presences:
        answer = asked._step(embedding, index, remember=False)
        logits = answer["pred_masks"].float().clamp(-TRUST, TRUST)
        shape = zoom.shape_of(asked.planes(index))
        return Look(to_slice(logits, asked.memory.view, shape), min(presences), answer["score"])


def mean(looks: Sequence[Look]) -> Look:
    """The mean of several looks at one slice."""
    return Look(
        np.mean([look.logits for look in looks], 0),
        float(np.mean([look.presence for look in looks])),
        float(np.mean([look.score for look in looks])),
    )


def _whole(exemplar: Exemplar) -> View:
    return zoom.whole(zoom.shape_of(exemplar.plane))


def _near(size: int, extents: float) -> Callable[[Exemplar], View]:
    """The close view of an exemplar, so many extents wide: its structure in the middle."""

    def view(exemplar: Exemplar) -> View:
        corners = zoom.extent(exemplar.mask)
        assert corners is not None  # there are no empty exemplars
        shape = zoom.shape_of(exemplar.mask)
        return zoom.around(*corners, shape, size, least=extents * _side(corners))

    return view


def _side(corners: zoom.Corners) -> float:
    return float(max(corners[1] - corners[0])) + 1
