"""Labelled slices of other patients -> the same structures on the slices of this one, from SAM 2's memory.

A labelled slice is remembered as if a person had prompted it. Then each slice is asked about, from nearer
and nearer: seen whole, which says where a structure is; from a wide view of that place, which says it better;
and close by, which says what its outline is and whether it is there at all. Where to look is told by all
structures together (`lib.sam.layouts`), and so is where a structure begins and ends (`lib.sam.places`). What
was found is then prompted for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import expit

from lib.errors import Cancelled
from lib.evaluation.metrics import dice
from lib.evaluation.simulate import deepest, largest
from lib.imaging.window import equalised
from lib.prompts.prompts import SlicePrompts
from lib.sam import zoom
from lib.sam.layouts import Fit, Layout, cells, landmarks
from lib.sam.memory import Memory, Planes, Remembering, masks_of_what_is_absent
from lib.sam.model import Model
from lib.sam.network import BACKBONE_STRIDE
from lib.sam.places import Region, run_of_slices
from lib.sam.segment import CLAMP, picture, segment, to_slice
from lib.sam.turns import as_long_work
from lib.sam.zoom import View

FAR = 32  # slices that lie between an exemplar and what it is asked about, for the pointers' positions
# Slices that are attended to at once, those most like the slice asked about. All together: attention picks
# the patients that tell something, voting does not (patients of a drawn anatomy: Dice 0.82 with 16 at once,
# 0.73 with two voters of 8). It takes time with their number and the square of the size, which bound them.
ATTENDED, CELLS = 16, 16 * 32 * 32
LEAST_ATTENDED = 4
# The closer looks: the side of the view, in extents of the structure on the exemplars, and whether contrast
# is equalised in it, which shows what is faint.
WIDE, CLOSE = (4.0, True), (2.5, False)
TRUST = 10.0  # logits beyond which a look counts no more
# Of what tells on which slices a structure is: object scores beyond which one slice counts no more, how much
# the look at the whole slice counts beside the closer one, and what a closer look without a mask costs.
SURE, BESIDE, NO_MASK = 3.0, 0.5, 3.0
# Prompts on what memory found, as a person would give them, find its outline better than memory does (drawn
# anatomies: Dice 0.726 without, 0.757 with them), where both mean the same: Dice and pixels of that at least.
SAME, SMALLEST = 0.5, 8
OUTLINED = 1.0  # logits that a pixel then has at least
REMEMBERED = 1024  # exemplars whose memory is kept for the next patient; 33 kB each for the embedded network

Progress = Callable[[int, int], None]
Distance = tuple[float, bool]  # how far a closer look is, see `WIDE`


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
class Found:
    """The answer on one slice.

    Attributes
    ----------
    mask : ndarray of bool, (A, B)
        Empty where the structure is absent.
    logits : ndarray float32 (A, B)
        How sure that is, voxel by voxel: above 0 it is the structure, if that is there at all.
    presence : float
        Object score: above 0 the structure is there, as far as this slice by itself tells.
    score : float
        Predicted IoU, 0 to 1.
    disagreement : float
        0 where the whole slice and the close view give the same mask, 1 where these have no voxel in common.
    """

    mask: np.ndarray
    logits: np.ndarray
    presence: float
    score: float
    disagreement: float


@dataclass(frozen=True, eq=False)
class Sought:
    """A structure to be found.

    Attributes
    ----------
    exemplars : sequence of Exemplar
        One at least.
    layouts : sequence of Layout
        Of the labelled patients.
    share : float
        Of the patients that have it, above 0 and below 1.
    """

    exemplars: Sequence[Exemplar]
    layouts: Sequence[Layout] = ()
    share: float = 0.5


@dataclass(frozen=True, eq=False)
class _Look:
    """What memory makes of a slice in one view.

    Attributes
    ----------
    logits : ndarray float32 (A, B)
        -`CLAMP` outside of the view. Of the mask that there is if there is one at all.
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
            one = Remembering(model, lambda _: _shown(exemplar.plane, view, equal), 1, view)
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
    embeddings: np.ndarray,
    known: Mapping[str, Sought],
    memories: Memories,
    wanted: Callable[[str], bool] = lambda _: True,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, list[Found]]:
    """Find structures on all slices of an image, step by step between other work.

    What is found of one does not depend on which others are wanted.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    embeddings : ndarray float32 (K, C)
        Of the image's slices, see `pooled`.
    known : mapping
        What could be found, by name.
    memories : Memories
    wanted : callable, optional
        Name -> whether it is to be found.
    progress : callable, optional
        Called with the number of looks and outlines done, and in all.
    cancelled : callable, optional
        Asked before every look.

    Returns
    -------
    dict of lists of Found
        By name and slice.

    Raises
    ------
    Cancelled
    """
    names = [name for name in known if wanted(name)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    for name, one in as_long_work(
        _find(model, planes, embeddings, known, names, memories, progress, cancelled)
    ):
        found[name].append(one)
    return found


def _find(
    model: Model,
    planes: Planes,
    embeddings: np.ndarray,
    known: Mapping[str, Sought],
    wanted: Sequence[str],
    memories: Memories,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> Generator[tuple[str, Found], None, None]:
    if not wanted:
        return
    # the others are looked at for where they are: they tell where these must be
    beside = {other for name in wanted for other in landmarks(name, known[name].layouts) if other in known}
    seen: dict[str, list[_Look]] = {name: [] for name in sorted(beside.union(wanted))}
    count = len(embeddings)
    done, total = 0, count * (len(seen) + 3 * len(wanted))

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)
        if cancelled and cancelled():
            raise Cancelled()

    shape = zoom.shape_of(planes(0))
    whole = zoom.whole(shape)
    alike = {
        name: [_most_alike(model, known[name].exemplars, embedding) for embedding in embeddings]
        for name in seen
    }
    for name in seen:
        for index in range(count):
            seen[name].append(_look(model, planes(index), whole, alike[name][index], memories, _whole))
            step()
    shown = {name: cells((look.likely for look in looks), count) for name, looks in seen.items()}
    fit = Fit(shown)
    for name in wanted:
        layouts = known[name].layouts

        def look(how: Distance, index: int, place: zoom.Corners, name: str = name) -> _Look:
            return _closer(model, planes(index), place, alike[name][index], memories, how)

        told = fit.region(name, layouts)
        if told is None:
            answers = _anywhere(seen[name], look, step)
        else:
            wide = _around(told, seen[name], partial(look, WIDE), step)
            likely = (wide[n].likely if n in wide else np.zeros(shape) for n in range(count))
            told = fit.region(name, layouts, (shown[name] + cells(likely, count)) / 2) or told
            close = _around(told, seen[name], partial(_closest, partial(look, CLOSE), wide), step)
            answers = _in_one_run(seen[name], close, told, known[name].share)
        for index, answer in enumerate(answers):
            yield name, _outlined(model, planes(index), answer)
            step()


def _anywhere(
    seen: Sequence[_Look], look: Callable[[Distance, int, zoom.Corners], _Look], step: Callable[[], None]
) -> list[Found]:
    """The answers on all slices, of a structure that can be anywhere: where it is seen, it is looked at."""
    answers = []
    for index, place in enumerate(_places([one.mask for one in seen])):
        closer = []
        for how in (WIDE, CLOSE):
            if place is not None:
                closer.append(look(how, index, place))
            step()
        answers.append(_both(seen[index], _mean(closer) if closer else None))
    return answers


def _around(
    told: Region, seen: Sequence[_Look], look: Callable[[int, zoom.Corners], _Look], step: Callable[[], None]
) -> dict[int, _Look]:
    """Closer looks, by slice, at where a structure is told to be."""
    near, place = told.slices(len(seen)), told.corners(zoom.shape_of(seen[0].logits))
    looks = {}
    for index in range(len(seen)):
        if index in near:
            looks[index] = look(index, place)
        step()
    return looks


def _closest(
    look: Callable[[int, zoom.Corners], _Look], wide: Mapping[int, _Look], index: int, place: zoom.Corners
) -> _Look:
    """The mean of the wide look, a close one, and one more with what that has found in the middle."""
    looks = [wide[index]] if index in wide else []
    looks.append(look(index, place))
    found = zoom.extent(looks[-1].mask)
    return _mean(looks if found is None else [*looks, look(index, found)])


def _both(whole: _Look, close: _Look | None) -> Found:
    """The answer on a slice from both looks, of a structure that can be anywhere."""
    look = whole
    if close is not None:
        inside = close.logits > -CLAMP
        logits = np.where(inside, (whole.weighed + close.weighed) / 2, whole.weighed)
        look = _Look(logits, (whole.presence + close.presence) / 2, (whole.score + close.score) / 2)
    masks = [whole.mask, close.mask if close else look.mask]
    return Found(look.mask, look.logits, look.presence, look.score, disagreement(masks))


def _in_one_run(seen: Sequence[_Look], close: Mapping[int, _Look], told: Region, share: float) -> list[Found]:
    """The answers on all slices, of a structure of which all structures together say where it is.

    It is not where no closer look was worth while, and its outline is that of the closer look alone, since
    the other may be of something that looks like it.
    """

    def counts(look: _Look) -> float:
        return float(np.clip(look.presence, -SURE, SURE))

    evidence = {
        index: counts(look) + BESIDE * counts(seen[index]) - NO_MASK * (not (look.logits > 0).any())
        for index, look in close.items()
    }
    run = run_of_slices(evidence, told, len(seen), share)
    answers = []
    for index, whole in enumerate(seen):
        look = close.get(index) or _Look(np.full_like(whole.logits, -TRUST), -TRUST, 0.0)
        mask = (look.logits > 0) & (index in run)
        apart = disagreement([whole.mask, mask])
        answers.append(Found(mask, look.logits, look.presence, look.score, apart))
    return answers


def _outlined(model: Model, plane: np.ndarray, found: Found) -> Found:
    """An answer with the outline that a box and a click on it give, if that is of the same structure."""
    piece = largest(found.mask)
    corners, point = zoom.extent(piece), deepest(piece)
    if corners is None or piece.sum() < SMALLEST:
        return found
    box = float(corners[0][0]), float(corners[0][1]), float(corners[1][0]), float(corners[1][1])
    mask = segment(model, plane, SlicePrompts(np.array([point], float), np.array([True]), box, None)).mask
    if dice(mask, found.mask) < SAME:
        return found
    logits = np.where(mask, np.maximum(found.logits, OUTLINED), np.minimum(found.logits, -OUTLINED))
    return replace(found, mask=mask, logits=logits)


def _most_alike(model: Model, exemplars: Sequence[Exemplar], embedding: np.ndarray) -> list[Exemplar]:
    """Those most like the slice asked about, as many as are attended to at once."""
    cells = (model.size // BACKBONE_STRIDE) ** 2
    most = int(np.clip(CELLS // cells, LEAST_ATTENDED, ATTENDED))
    return sorted(exemplars, key=lambda e: -float(e.embedding @ embedding))[:most]


def _closer(
    model: Model,
    plane: np.ndarray,
    place: zoom.Corners,
    exemplars: Sequence[Exemplar],
    memories: Memories,
    how: Distance,
) -> _Look:
    """A closer look at a place: a structure as large as on the exemplars is as close there."""
    extents, equal = how
    boxes = [zoom.extent(exemplar.mask) for exemplar in exemplars]
    side = float(np.median([_side(box) for box in boxes if box is not None]))
    view = zoom.around(*place, zoom.shape_of(plane), model.size, least=extents * side)
    return _look(model, plane, view, exemplars, memories, _near(model.size, extents), equal)


def _mean(looks: Sequence[_Look]) -> _Look:
    return _Look(
        np.mean([look.logits for look in looks], 0),
        float(np.mean([look.presence for look in looks])),
        float(np.mean([look.score for look in looks])),
    )


def _look(
    model: Model,
    plane: np.ndarray,
    view: View,
    exemplars: Sequence[Exemplar],
    memories: Memories,
    view_of: Callable[[Exemplar], View],
    equal: bool = False,
) -> _Look:
    known = [memories.of(model, exemplar, view_of(exemplar), equal) for exemplar in exemplars]
    shown = _shown(plane, view, equal)  # once: it is asked for several times
    asked = Remembering(model, lambda _: shown, len(known) + FAR + 1, view)
    asked.memory = Memory(view, dict(enumerate(known)))
    return _ask(asked, len(known) + FAR)


def _shown(plane: np.ndarray, view: View, equal: bool) -> np.ndarray:
    """A slice as it is, or equalised in a view."""
    if not equal:
        return plane
    shown = plane.copy()
    shown[view.window] = equalised(plane[view.window])
    return shown


def _ask(asked: Remembering, index: int) -> _Look:
    embedding = asked._embed(index)
    with asked.model.running(), masks_of_what_is_absent(asked.model) as presences:
        answer = asked._step(embedding, index, remember=False)
        logits = answer["pred_masks"].float().clamp(-TRUST, TRUST)
        shape = zoom.shape_of(asked.planes(index))
        return _Look(to_slice(logits, asked.memory.view, shape), min(presences), answer["score"])


def _places(masks: Sequence[np.ndarray]) -> list[zoom.Corners | None]:
    """Where to look closer on each slice: where the structure is, or where it is on the nearest slice."""
    known = {i: box for i, mask in enumerate(masks) if (box := zoom.extent(mask))}
    return [known[min(known, key=lambda k: abs(k - index))] if known else None for index in range(len(masks))]


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
