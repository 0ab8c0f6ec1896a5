"""Labelled slices of other patients -> the same structure on the slices of this one, from SAM 2's memory.

A labelled slice is remembered as if a person had prompted it. Then each slice is asked about twice: seen
whole, which says where the structure is and whether it is there at all, and close by, which says what its
outline is. Each time the labelled patients are asked one by one, and vote.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib.errors import Cancelled
from lib.sam import zoom
from lib.sam.memory import Memory, Planes, Remembering
from lib.sam.model import Model
from lib.sam.segment import CLAMP, picture, to_slice
from lib.sam.turns import as_long_work
from lib.sam.zoom import View

FAR = 32  # slices that lie between an exemplar and what it is asked about, for the pointers' positions
VOTER = 4  # slices of a labelled patient that are attended to at once, those most like the slice asked about
CLOSE = 2.5  # side of the close view, in extents of the structure on the exemplars
TRUST = 10.0  # logits beyond which a vote counts no more
REMEMBERED = 1024  # exemplars whose memory is kept for the next patient; 33 kB each for the embedded network

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A slice on which somebody has labelled a structure.

    Attributes
    ----------
    key : tuple
        Names the image, the slice and the label; with another label it is another one.
    patient : int
        Exemplars with the same number vote together.
    plane : ndarray uint8, (A, B) or (A, B, 3)
        After the window.
    mask : ndarray of bool, (A, B)
        Not empty.
    embedding : ndarray float32 (C,)
        See `pooled`.
    """

    key: tuple
    patient: int
    plane: np.ndarray
    mask: np.ndarray
    embedding: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """The answer on one slice.

    Attributes
    ----------
    mask : ndarray of bool, (A, B)
        Empty where the structure is absent.
    logits : ndarray float32 (A, B)
        How sure that is, voxel by voxel: above 0 it is the structure, if that is there at all.
    presence : float
        Object score, the mean of all votes: above 0 the structure is there.
    score : float
        Predicted IoU, 0 to 1, the mean of all votes.
    disagreement : float
        0 where all votes give the same mask, 1 where no two of them have a voxel in common; between votes and
        between the view of the whole slice and the close one.
    """

    mask: np.ndarray
    logits: np.ndarray
    presence: float
    score: float
    disagreement: float


@dataclass(frozen=True, eq=False)
class _Vote:
    """What one labelled patient makes of a slice in one view: logits (1, 1, h, w), object score, IoU."""

    logits: torch.Tensor
    presence: float
    score: float


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

    def of(self, model: Model, exemplar: Exemplar, view: View) -> dict:
        """The memory of one in a view, as sam2 keeps that of a prompted slice."""
        key = (model.checkpoint.version, model.size, exemplar.key, view)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            one = Remembering(model, lambda _: exemplar.plane, 1, view)
            one._condition_on_mask(0, exemplar.mask)
            found = one.memory.conditioning[0]
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return found


def find(
    model: Model,
    planes: Planes,
    count: int,
    exemplars: Sequence[Exemplar],
    memories: Memories,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Found]:
    """Find one structure on all slices of an image, step by step between other work.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    count : int
        Slices of the image.
    exemplars : sequence of Exemplar
        Of this structure, one at least.
    memories : Memories
    progress : callable, optional
        Called with the number of looks done and in all.
    cancelled : callable, optional
        Asked before every look.

    Returns
    -------
    list of Found
        By slice.

    Raises
    ------
    Cancelled
    """
    return list(as_long_work(_find(model, planes, count, exemplars, memories, progress, cancelled)))


def _find(
    model: Model,
    planes: Planes,
    count: int,
    exemplars: Sequence[Exemplar],
    memories: Memories,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> Generator[Found, None, None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, 2 * count)
        if cancelled and cancelled():
            raise Cancelled()

    looks = []
    for index in range(count):
        plane = planes(index)
        voters = _voters(exemplars, pooled(model, plane))
        view = zoom.whole(zoom.shape_of(plane))
        looks.append((view, voters, _votes(model, plane, view, voters, memories, _whole)))
        step()
    shape = zoom.shape_of(planes(0))
    seen = [_mean(votes, view, shape) for view, _, votes in looks]
    places = _places([logits > 0 if presence > 0 else None for logits, presence, _ in seen])
    for index, (view, voters, votes) in enumerate(looks):
        logits, presence, score = seen[index]
        masks = [to_slice(vote.logits, view, shape) > 0 for vote in votes]
        close = _close_view(places[index], voters, shape, model.size)
        if close is not None and close != view:
            nearer = _votes(model, planes(index), close, voters, memories, _near(model.size))
            near_logits, near_presence, near_score = _mean(nearer, close, shape)
            masks += [to_slice(vote.logits, close, shape) > 0 for vote in nearer]
            inside = near_logits > -CLAMP
            logits = np.where(inside, (logits + near_logits) / 2, logits)
            presence, score = (presence + near_presence) / 2, (score + near_score) / 2
        mask = (logits > 0) if presence > 0 else np.zeros(shape, bool)
        yield Found(mask, logits, presence, score, disagreement(masks))
        step()


def _voters(exemplars: Sequence[Exemplar], embedding: np.ndarray) -> list[list[Exemplar]]:
    """For each labelled patient, the slices most like the one asked about."""
    by_patient: dict[int, list[Exemplar]] = {}
    for exemplar in sorted(exemplars, key=lambda e: -float(e.embedding @ embedding)):
        chosen = by_patient.setdefault(exemplar.patient, [])
        if len(chosen) < VOTER:
            chosen.append(exemplar)
    return list(by_patient.values())


def _votes(
    model: Model,
    plane: np.ndarray,
    view: View,
    voters: Sequence[Sequence[Exemplar]],
    memories: Memories,
    view_of: Callable[[Exemplar], View],
) -> list[_Vote]:
    found = []
    for exemplars in voters:
        known = [memories.of(model, exemplar, view_of(exemplar)) for exemplar in exemplars]
        asked = Remembering(model, lambda _: plane, len(known) + FAR + 1, view)
        asked.memory = Memory(view, dict(enumerate(known)))
        found.append(_ask(asked, len(known) + FAR))
    return found


def _ask(asked: Remembering, index: int) -> _Vote:
    embedding = asked._embed(index)
    with asked.model.running():
        answer = asked._step(embedding, index, remember=False)
        return _Vote(answer["pred_masks"].float(), answer["presence"], answer["score"])


def _mean(votes: Sequence[_Vote], view: View, shape: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """The mean of votes: logits on the slice (A, B), object score, predicted IoU."""
    logits = torch.stack([vote.logits.clamp(-TRUST, TRUST) for vote in votes]).mean(0)
    presence = float(np.mean([vote.presence for vote in votes]))
    return to_slice(logits, view, shape), presence, float(np.mean([vote.score for vote in votes]))


def _places(masks: Sequence[np.ndarray | None]) -> list[zoom.Corners | None]:
    """Where to look closer on each slice: where the structure is, or where it is on the nearest slice."""
    known = {i: box for i, mask in enumerate(masks) if mask is not None and (box := zoom.extent(mask))}
    return [known[min(known, key=lambda k: abs(k - index))] if known else None for index in range(len(masks))]


def _whole(exemplar: Exemplar) -> View:
    return zoom.whole(zoom.shape_of(exemplar.plane))


def _near(size: int) -> Callable[[Exemplar], View]:
    """The close view of an exemplar: its structure in the middle."""

    def view(exemplar: Exemplar) -> View:
        corners = zoom.extent(exemplar.mask)
        assert corners is not None  # there are no empty exemplars
        shape = zoom.shape_of(exemplar.mask)
        return zoom.around(*corners, shape, size, least=CLOSE * _side(corners))

    return view


def _close_view(
    place: zoom.Corners | None, voters: Sequence[Sequence[Exemplar]], shape: tuple[int, int], size: int
) -> View | None:
    """The view of a place in which a structure as large as on the exemplars is as close as on theirs."""
    if place is None:
        return None
    boxes = [zoom.extent(e.mask) for exemplars in voters for e in exemplars]
    side = float(np.median([_side(box) for box in boxes if box is not None]))
    return zoom.around(*place, shape, size, least=CLOSE * side)


def _side(corners: zoom.Corners) -> float:
    return float(max(corners[1] - corners[0])) + 1


def disagreement(masks: Sequence[np.ndarray]) -> float:
    """1 less the mean Dice of all pairs of masks, bool (A, B); two empty ones agree."""
    if len(masks) < 2:
        return 0.0
    found = []
    for n, one in enumerate(masks):
        for other in masks[n + 1 :]:
            both = int(one.sum()) + int(other.sum())
            found.append(1 - 2 * int((one & other).sum()) / both if both else 0.0)
    return float(np.mean(found))
