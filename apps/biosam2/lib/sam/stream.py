"""One structure followed over pictures that come one at a time, nobody knows how many."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lib.prompts.prompts import SlicePrompts
from lib.sam import zoom
from lib.sam.memory import REACH
from lib.sam.model import Model
from lib.sam.tracker import Tracker
from lib.sam.turns import as_long_work

T = TypeVar("T")

ENDLESS = 1 << 30  # pictures in all, as far as the network is told


@dataclass(frozen=True, eq=False)
class Seen:
    """The answer on one picture: bool (A, B), empty where the structure is absent; score 0 to 1."""

    mask: np.ndarray
    score: float


class Stream:
    """A structure from its first picture on; the same as `propagate` through a video, picture by picture.

    Of the pictures only the first and the last one are kept: the tracker looks at these again when it has to
    look wider. The network's memory is bounded, so that the number of pictures costs nothing.

    What other weights have remembered is worthless. When another model is served, what was shown on the first
    picture and on the last one is remembered anew with that, and the way goes on: whoever follows a structure
    profits from a fine-tuned model at once, and no old one has to stay in memory for those who never end.

    Parameters
    ----------
    model : Model
    plane : ndarray uint8, (A, B) or (A, B, 3)
        The first picture.
    prompts : SlicePrompts
        On it; they must say where the structure is.
    use_zoom : bool
        Look at what the prompts point to; otherwise always at whole pictures.

    Attributes
    ----------
    seen : Seen
        On the last picture.
    """

    def __init__(self, model: Model, plane: np.ndarray, prompts: SlicePrompts, use_zoom: bool = True) -> None:
        self._index, self._planes, self._use_zoom = 0, {0: plane}, use_zoom
        self.seen = self._begin(model, prompts)
        self._intact = True
        # what was shown counts as the person's answer; where nothing was found the question stays
        shown = self.seen.mask
        self._first = (
            SlicePrompts(np.zeros((0, 2)), np.zeros(0, bool), None, shown) if shown.any() else prompts
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(A, B) of each picture."""
        return zoom.shape_of(self._planes[0])

    @property
    def nbytes(self) -> int:
        """Memory that it takes; pictures count in full, though others may have the same."""
        memory = self._tracker.memory
        tensors = [
            output[part]
            for output in (*memory.conditioning.values(), *memory.recent.values())
            for part in ("maskmem_features", "obj_ptr")
        ]
        masks = 2 * self.seen.mask.nbytes
        pictures = sum(plane.nbytes for plane in self._planes.values())
        return masks + pictures + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def step(self, model: Model, plane: np.ndarray) -> Seen:
        """The next picture.

        Parameters
        ----------
        model : Model
            The one that is served now.
        plane : ndarray uint8, (A, B) or (A, B, 3)
            As large as the first one.

        Raises
        ------
        ValueError
            If it is not.
        """
        if zoom.shape_of(plane) != self.shape:
            raise ValueError(f"a picture of {zoom.shape_of(plane)} pixels after those of {self.shape}")
        index = self._index + 1
        again = model is not self._tracker.model or not self._intact
        # what stops in between, such as a device without memory, leaves a tracker that nobody can trust
        self._intact = False
        if again:
            self._begin(model, self._first)
            if self._index > 0:
                _at_leisure(lambda: self._tracker.resume(self._index, self.seen.mask))
        self._planes[index] = plane
        self.seen = _at_leisure(lambda: Seen(*self._tracker.track(index, backwards=False)))
        self._intact, self._index = True, index
        self._forget()
        return self.seen

    def _begin(self, model: Model, prompts: SlicePrompts) -> Seen:
        self._tracker = Tracker(model, self._planes.__getitem__, ENDLESS, {0: prompts}, self._use_zoom)
        ((_, mask, score),) = _at_leisure(lambda: list(self._tracker.start(lambda: None)))
        return Seen(mask, score)

    def _forget(self) -> None:
        """Let go of what no picture to come can reach: nobody goes back."""
        memory = self._tracker.memory
        memory.recent = {i: output for i, output in memory.recent.items() if i > self._index - REACH}
        for index in [i for i in self._planes if i not in (0, self._index)]:
            del self._planes[index]


def _at_leisure(call: Callable[[], T]) -> T:
    """What `call` returns, done as long work: a click of somebody else goes first."""

    def steps() -> Generator[T, None, None]:
        yield call()

    (done,) = as_long_work(steps())
    return done
