"""Labelled patients -> the same structures on the slices of another one, from SAM 2's memory.

Each slice is asked about from nearer and nearer: seen whole, which says where a structure is; from a wide
view of that place, which says it better; and close by, which says what its outline is and whether it is there
at all. Where to look is told by all structures together (`lib.sam.layouts`), and so is where a structure
begins and ends (`lib.sam.places`). What was found is then prompted for.

In a volume all labelled patients are remembered at once: attention picks those that tell something, voting
does not (patients of a drawn anatomy: Dice 0.82 with 16 slices at once, 0.73 with two voters of 8). On a
single image, which no neighbours help with, each answers by itself and they vote (`lib.sam.votes`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lib.errors import Cancelled
from lib.evaluation.metrics import dice
from lib.evaluation.simulate import deepest, largest
from lib.prompts.prompts import SlicePrompts
from lib.sam import zoom
from lib.sam.exemplars import Memories, Sought
from lib.sam.layouts import Fit, cells, laid, landmarks, together
from lib.sam.looks import CLOSE, TRUST, WIDE, Distance, Look, Looking, mean
from lib.sam.memory import Planes
from lib.sam.model import Model
from lib.sam.places import Region, run_of_slices
from lib.sam.segment import CLAMP, segment
from lib.sam.turns import as_long_work
from lib.sam.votes import Vote, elect, weights

# Of what tells on which slices a structure is: object scores beyond which one slice counts no more, how much
# the look at the whole slice counts beside the closer one, and what a closer look without a mask costs.
SURE, BESIDE, NO_MASK = 3.0, 0.5, 3.0
# Prompts on what memory found, as a person would give them, find its outline better than memory does (drawn
# anatomies: Dice 0.726 without, 0.757 with them), where both mean the same: Dice and pixels of that at least.
SAME, SMALLEST = 0.5, 8
OUTLINED = 1.0  # logits that a pixel then has at least
# Of whether a structure is on a single image: the mean object score at first sight that says no more than
# nothing, and how much the share of the patients that have it counts. The mean, since the highest of many is
# high for what is not there as well. (Planes of four anatomies with 5 labels drawn at random, 510 structures:
# mean Dice 0.63, an empty answer counting 1 where there is nothing; 0.54 by the closer looks alone.)
SAYS_NOTHING, USUAL = 1.0, 1.5
# Patients that are asked more closely about a single image, the surest ones of the structure at first sight.
# (Planes of four anatomies with 10 labels, 131 structures: mean Dice 0.63 with 3, 0.62 with all.)
VOTERS = 3

Progress = Callable[[int, int], None]


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
        On a single image with several labelled patients: how far these are from the answer.
    """

    mask: np.ndarray
    logits: np.ndarray
    presence: float
    score: float
    disagreement: float


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
        Of the image's slices, see `lib.sam.exemplars.pooled`.
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
    looking = Looking(model, planes, memories)
    way = _on_one_image if len(embeddings) == 1 else _through
    for name, one in as_long_work(way(looking, embeddings, known, names, _Steps(progress, cancelled))):
        found[name].append(one)
    return found


class _Steps:
    """Counts looks and outlines, tells how far they are, and stops when nobody wants the answer any more."""

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress, self._cancelled = progress, cancelled
        self._done = self.total = 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self.total)
        if self._cancelled and self._cancelled():
            raise Cancelled()


Answers = Generator[tuple[str, Found], None, None]


def _through(
    looking: Looking,
    embeddings: np.ndarray,
    known: Mapping[str, Sought],
    wanted: Sequence[str],
    step: _Steps,
) -> Answers:
    """All patients at once, slice by slice."""
    if not wanted:
        return
    search = _Search(looking, embeddings, known, wanted, step)
    step.total = search.steps + 3 * len(embeddings) * len(wanted)  # two closer looks, and an outline
    search.begin()
    for name in wanted:
        told = search.told(name)
        if told is None:
            answers = search.anywhere(name)
        else:
            close, told = search.at(name, told)
            answers = _in_one_run(search.seen[name], close, told, known[name].share)
        for index, answer in enumerate(answers):
            yield name, _outlined(looking.model, looking.planes(index), answer)
            step()


def _on_one_image(
    looking: Looking, embeddings: np.ndarray, known: Mapping[str, Sought], wanted: Sequence[str], step: _Steps
) -> Answers:
    """Each patient by itself; of those that are surest at first sight, the mask that most agree with."""
    searches: dict[str, _Search] = {}
    for patient in dict.fromkeys(one.patient for name in wanted for one in known[name].patients):
        has = {
            name: Sought([one], sought.share)
            for name, sought in known.items()
            for one in sought.patients
            if one.patient == patient
        }
        asked = [name for name in wanted if name in has]
        searches[patient] = _Search(looking, embeddings, has, asked, step)
    voters = {name: min(VOTERS, len(known[name].patients)) for name in wanted}
    step.total = sum(search.steps for search in searches.values()) + sum(2 * n + 1 for n in voters.values())
    for search in searches.values():
        search.begin()
    for name in wanted:
        having = [searches[one.patient] for one in known[name].patients]
        having.sort(key=lambda search: -search.seen[name][0].presence)
        votes = _votes(having[: voters[name]], name)
        presence = float(np.mean([search.seen[name][0].presence for search in having]))
        yield name, _elected(votes, presence, known[name].share)
        step()


class _Search:
    """Where memory of some patients sees structures in an image.

    Parameters
    ----------
    looking : Looking
    embeddings : ndarray float32 (K, C)
    known : mapping
        What these patients have.
    wanted : sequence of str
        Of that, what is to be found.
    step : callable
        Called after each look.

    Attributes
    ----------
    steps : int
        Looks at whole slices.
    seen : dict of lists of Look
        At the whole slices, of what is wanted and what lies beside it.
    """

    def __init__(
        self,
        looking: Looking,
        embeddings: np.ndarray,
        known: Mapping[str, Sought],
        wanted: Sequence[str],
        step: Callable[[], None],
    ) -> None:
        self.looking, self.known, self._step = looking, known, step
        # the others are looked at for where they are: they tell where these must be
        beside = {
            other for name in wanted for other in landmarks(name, known[name].layouts) if other in known
        }
        self.seen: dict[str, list[Look]] = {name: [] for name in sorted(beside.union(wanted))}
        self.count = len(embeddings)
        self.steps = self.count * len(self.seen)
        self.alike = {
            name: [looking.most_alike(known[name].exemplars, embedding) for embedding in embeddings]
            for name in self.seen
        }

    def begin(self) -> None:
        """Look at all slices as a whole."""
        for name in self.seen:
            for index in range(self.count):
                self.seen[name].append(self.looking.at_all(index, self.alike[name][index]))
                self._step()
        self._fit = Fit(
            {name: cells((look.likely for look in looks), self.count) for name, looks in self.seen.items()}
        )

    def told(self, name: str) -> Region | None:
        """Where all structures together say that one must be."""
        return self._fit.region(name, self.known[name].layouts)

    def at(self, name: str, told: Region) -> tuple[dict[int, Look], Region]:
        """Close looks, by slice, at where a structure is told to be, and what they tell of that."""
        look = partial(self._closer, name)
        wide = _around(told, self.seen[name], partial(look, WIDE), self._step)
        empty = np.zeros(self.looking.shape)
        likely = (wide[n].likely if n in wide else empty for n in range(self.count))
        own = (self._fit.seen[name] + cells(likely, self.count)) / 2
        told = self._fit.region(name, self.known[name].layouts, own) or told
        close = _around(told, self.seen[name], partial(_closest, partial(look, CLOSE), wide), self._step)
        return close, told

    def anywhere(self, name: str) -> list[Found]:
        """The answers on all slices, of what can be anywhere: where it is seen, it is looked at."""
        answers = []
        for index, place in enumerate(_places([one.mask for one in self.seen[name]])):
            closer = []
            for how in (WIDE, CLOSE):
                if place is not None:
                    closer.append(self._closer(name, how, index, place))
                self._step()
            answers.append(_both(self.seen[name][index], mean(closer) if closer else None))
        return answers

    def _closer(self, name: str, how: Distance, index: int, place: zoom.Corners) -> Look:
        return self.looking.closer(index, place, self.alike[name][index], how)


def _votes(searches: Sequence[_Search], name: str) -> list[Vote]:
    """What each patient says of a structure on a single image."""
    regions = [search.told(name) for search in searches]
    agreed = together([region for region in regions if region is not None])
    votes = []
    for search, told in zip(searches, regions, strict=True):
        own = None
        if told is None or agreed is None:
            (found,) = search.anywhere(name)
        else:
            close, told = search.at(name, told)
            (patient,) = search.known[name].patients
            own = laid(search.alike[name][0][0].mask, patient.layout[name].region, told, search.looking.shape)
            look = close[0]
            found = Found(look.logits > 0, look.logits, look.presence, look.score, 0.0)
        found = _outlined(search.looking.model, search.looking.planes(0), found)
        votes.append(Vote(found.mask, own, found.logits, found.presence, found.score))
    return votes


def _elected(votes: Sequence[Vote], presence: float, share: float) -> Found:
    """The answer on a single image: what most patients agree with, if the structure is there.

    Parameters
    ----------
    votes : sequence of Vote
    presence : float
        Object score of the whole image, the mean of what all patients say.
    share : float
        Of the patients that have it.
    """
    mask, agreement = elect(votes)
    presence += USUAL * float(np.log(share / (1 - share))) - SAYS_NOTHING
    weight = weights(votes)
    logits = _with_outline(np.tensordot(weight, [vote.logits for vote in votes], 1), mask)
    score = float(weight @ [vote.score for vote in votes])
    return Found(mask & (presence > 0), logits, presence, score, 1 - agreement)


def _around(
    told: Region, seen: Sequence[Look], look: Callable[[int, zoom.Corners], Look], step: Callable[[], None]
) -> dict[int, Look]:
    """Closer looks, by slice, at where a structure is told to be."""
    near, place = told.slices(len(seen)), told.corners(zoom.shape_of(seen[0].logits))
    looks = {}
    for index in range(len(seen)):
        if index in near:
            looks[index] = look(index, place)
        step()
    return looks


def _closest(
    look: Callable[[int, zoom.Corners], Look], wide: Mapping[int, Look], index: int, place: zoom.Corners
) -> Look:
    """The mean of the wide look, a close one, and one more with what that has found in the middle."""
    looks = [wide[index]] if index in wide else []
    looks.append(look(index, place))
    found = zoom.extent(looks[-1].mask)
    return mean(looks if found is None else [*looks, look(index, found)])


def _both(whole: Look, close: Look | None) -> Found:
    """The answer on a slice from both looks, of a structure that can be anywhere."""
    look = whole
    if close is not None:
        inside = close.logits > -CLAMP
        logits = np.where(inside, (whole.weighed + close.weighed) / 2, whole.weighed)
        look = Look(logits, (whole.presence + close.presence) / 2, (whole.score + close.score) / 2)
    masks = [whole.mask, close.mask if close else look.mask]
    return Found(look.mask, look.logits, look.presence, look.score, disagreement(masks))


def _in_one_run(seen: Sequence[Look], close: Mapping[int, Look], told: Region, share: float) -> list[Found]:
    """The answers on all slices, of a structure of which all structures together say where it is.

    It is not where no closer look was worth while, and its outline is that of the closer look alone, since
    the other may be of something that looks like it.
    """

    def counts(look: Look) -> float:
        return float(np.clip(look.presence, -SURE, SURE))

    evidence = {
        index: counts(look) + BESIDE * counts(seen[index]) - NO_MASK * (not (look.logits > 0).any())
        for index, look in close.items()
    }
    run = run_of_slices(evidence, told, len(seen), share)
    answers = []
    for index, whole in enumerate(seen):
        look = close.get(index) or Look(np.full_like(whole.logits, -TRUST), -TRUST, 0.0)
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
    return replace(found, mask=mask, logits=_with_outline(found.logits, mask))


def _with_outline(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.maximum(logits, OUTLINED), np.minimum(logits, -OUTLINED))


def _places(masks: Sequence[np.ndarray]) -> list[zoom.Corners | None]:
    """Where to look closer on each slice: where the structure is, or where it is on the nearest slice."""
    known = {i: box for i, mask in enumerate(masks) if (box := zoom.extent(mask))}
    return [known[min(known, key=lambda k: abs(k - index))] if known else None for index in range(len(masks))]


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
