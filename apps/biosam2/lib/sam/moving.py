"""One object followed through the frames of a video: what is lost is looked for again.

From slice to slice of a volume a structure that has ended is over. In a video an object is hidden, leaves the
picture, and comes back, perhaps elsewhere: so the picture is searched for what looks like it
(`lib.sam.likeness`), with what a person showed of it for all the memory that there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from lib.prompts.prompts import SlicePrompts
from lib.sam import prior, zoom
from lib.sam.likeness import Likeness, features_of, mean_over, peaks
from lib.sam.memory import Planes, masks_of_what_is_absent
from lib.sam.model import Model
from lib.sam.segment import in_ways, picture, to_logits, to_slice, to_square
from lib.sam.tracker import Tracker
from lib.sam.zoom import View

ALIKE = 4.0  # logits that a pixel gains, or pays, for what it looks like
TRUSTED = 0.4, 0.8  # likeness of the object itself, from which on that counts, and counts in full
# Shares of how much the object usually looks like itself: what looks less like it and fades as well is lost;
# what is learnt from, and what a search has found, must look more like it.
LOST_ALIKE, SURE_ALIKE, FOUND_ALIKE = 0.4, 0.6, 0.5
FOUND_SHARES = 0.15, 2.5  # of the area that it had before it was lost
WHOLE, AREAS = 0.75, 16  # of the largest area on so many frames: what is smaller is partly hidden
STEADY = 0.85, 1.18  # change of the area from frame to frame with which the middle tells the motion
SEEN = 20.0  # pixels of the network's input that an object's longer side must have where it is searched for
LEAST_ALIKE = -0.5  # a place's mean likeness, what is around it included, that is worth a closer look
LOOKS = 2  # at places that look like it, in each frame
OTHERS = 6  # places at most that look like it while it is seen elsewhere: those are others
# Shares of how much it usually looks like itself, and of its area: what has been found again must have as
# much within so many frames, or it is another one.
SETTLED, PROBATION = (0.8, 0.4), 4
MORE_ALIKE = 0.3  # likeness by which a place must look more like it than another one did not to be that one
NEXT_TO, MOVED = 0.75, 0.8  # radii that another is away from it, and that one moves by from frame to frame
STRAYED, STRAY_PRICE = 4.0, 0.15  # likeness that a place pays for each so many radii from where it should be
SEARCHED_AGAIN = 8  # frames after which the wider look is learnt from again


def tracker_of(
    model: Model,
    planes: Planes,
    count: int,
    prompts: dict[int, SlicePrompts],
    use_zoom: bool = True,
    thickness: float | None = None,
) -> Tracker:
    """The tracker of one structure: through a volume, or through a video if `thickness` is None.

    The published networks, which have seen a lot of videos, follow as they do upstream.
    """
    if thickness is None and model.checkpoint.architecture.draws_prompts:
        return Following(model, planes, count, prompts, use_zoom)
    return Tracker(model, planes, count, prompts, use_zoom, thickness)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What was found in a view: mask, bool (A, B); score; how much it looks like the object."""

    mask: np.ndarray
    score: float
    alike: float
    output: dict
    view: View
    features: torch.Tensor


class Following(Tracker):
    """One object on its way through the frames of a video, for networks that see prompts drawn.

    Of the frames it keeps nothing but what `Tracker` keeps and a few sums over features. It asks for the
    pictures of the prompted frames, of this one and of the one before.

    What looks like it beside it, on the last frame on which it is seen, is another one, and is known as such
    while it is lost; so is what was found again but does not come to look like it.
    """

    def __init__(
        self, model: Model, planes: Planes, count: int, prompts: dict[int, SlicePrompts], use_zoom: bool
    ) -> None:
        super().__init__(model, planes, count, prompts, use_zoom, None)
        self._near, self._far = Likeness(), Likeness()  # in the view of the memory, and in that of a search
        self._near_side = 0  # of the view that the first one was learnt in; 0 before that
        self._far_learnt = False
        self._since_far = 0  # frames since the second one was learnt
        self._alike: torch.Tensor | None = None  # of the cells in this look
        self._areas: deque[int] = deque([], AREAS)  # of the last frames on which it was seen
        # while it is lost, where others are, and how much they looked like it when it was seen beside them
        self._others: list[tuple[np.ndarray, float]] = []
        self._doubt = 0  # frames since it was found again, as long as it may be another one
        self._set_out(next(iter(self.prompts)), np.zeros(self.shape, bool))

    def start(self, check: Callable[[], None]) -> Iterator[tuple[int, np.ndarray, float]]:
        """Do the prompted frames; see `Tracker.start`."""
        yield from super().start(check)
        self._set_out(*next(iter(self.prompted.items())))

    def resume(self, index: int, mask: np.ndarray) -> None:
        """Go on behind a frame whose mask was found in another way; an empty one is of a lost object."""
        super().resume(index, mask)
        if mask.any():
            self.whole = mask
        self.lost = int(not mask.any())

    def track(self, index: int, backwards: bool) -> tuple[np.ndarray, float]:
        """The next frame on the way: its mask (bool, (A, B)) and score; empty and 0 while it is lost."""
        before = index + 1 if backwards else index - 1
        if before in self.prompted:
            self._set_out(before, self.prompted[before])
        if not self.whole.any():  # nothing was found where it was prompted, so there is nothing to look for
            return super().track(index, backwards)
        self._learn_near()
        answer = None if self.lost else self._go_on(index, backwards)
        if self._doubt:
            answer = self._unless_another(index, answer)
        if answer is None:
            # frames on which it was fading, or was no more, would tell the network that it is not there
            self.memory.recent.clear()
            self.way.clear()
            if not self.lost and not self._doubt:
                self._others = self._others_beside(before)
            self._doubt = 0
            answer = self._search(index, backwards)
        if answer is None:
            self.lost += 1
            self.previous = index, np.zeros(self.shape, bool)
            return self.previous[1], 0.0
        self._keep(index, answer)
        return answer.mask, answer.score

    def _set_out(self, index: int, mask: np.ndarray) -> None:
        """From a prompted frame everything begins anew."""
        self._begin_way()
        self.anchor, self.previous = index, (index, mask)
        self.whole = mask  # where it was last seen whole
        self._areas = deque([int(mask.sum())], AREAS)
        self.lost = 0  # frames since it was seen
        self._others, self._doubt = [], 0
        self.usual = 1.0  # how much it looks like what was learnt
        self._near_side, self._far_learnt, self._since_far = 0, False, 0

    def _go_on(self, index: int, backwards: bool) -> _Answer | None:
        """Look where it should be by now; None if it is not there any more."""
        assert self.previous is not None
        before, mask = self.previous
        answer = self._look_for(prior.moved(mask, self.motion), index, backwards)
        if self.use_zoom:
            known = zoom.union(*(zoom.extent(prompted) for prompted in self.prompted.values()))
            wider = zoom.wider_look(self.view, answer.mask, self.model.size, known)
            if wider is not None:
                self._move(wider, before)
                self._learn_near()
                answer = self._look_for(prior.moved(mask, self.motion), index, backwards)
        fades = prior.has_ended(answer.output["presence"], list(self.way))
        strange = answer.alike < LOST_ALIKE * self.usual
        return answer if answer.mask.any() and not (fades and strange) else None

    def _unless_another(self, index: int, answer: _Answer | None) -> _Answer | None:
        """What was found again and is in doubt, unless it turns out to be another one by now."""
        if answer is None:
            return None
        too_large = answer.mask.sum() > FOUND_SHARES[1] * self.whole.sum()
        if self._doubt <= PROBATION and not too_large:
            # where the others are by now must be known if it comes to a search; a search looks by itself
            self._without_others(self._alike_on(index, self._last_seen, 2 * LOOKS + len(self._others)))
            return answer
        self._others.append((_middle(answer.mask), answer.alike))
        self.lost = self._doubt
        return None

    def _search(self, index: int, backwards: bool) -> _Answer | None:
        """Look closer at the places that look most like it; None if it is at none of them."""
        middle = _middle(self.whole)
        due = np.clip(middle + self.motion * (self.lost + 1), 0, np.array(self.shape) - 1)
        ranked = []
        places = self._alike_on(index, due, 2 * LOOKS + len(self._others))
        for place, value in self._without_others(places):
            strayed = float(np.hypot(*(place - due))) / (self._radius * (1 + self.lost / 2))
            ranked.append((value - STRAY_PRICE * strayed / STRAYED, tuple(place)))
        found = []
        for value, promising in sorted(ranked, reverse=True)[:LOOKS]:
            if value > LEAST_ALIKE:
                shifted = prior.moved(self.whole, np.array(promising) - middle)
                answer = self._look_for(shifted, index, backwards, sought=True)
                share = answer.mask.sum() / self.whole.sum()
                if answer.alike > FOUND_ALIKE * self.usual and FOUND_SHARES[0] < share < FOUND_SHARES[1]:
                    found.append(answer)
        if not found:
            return None
        best = max(found, key=lambda one: one.alike)
        self.view = best.view
        return best

    def _alike_on(self, index: int, around: np.ndarray, count: int) -> list[tuple[np.ndarray, float]]:
        """The places (a, b) on a frame that look most like it, and how much, the best one first."""
        self._learn_far()
        view = self._search_view(around)
        with self.model.running():
            alike = self._far.of(self._features(self.planes(index), view))[0, 0].cpu().numpy()
        cell = np.array([view.na, view.nb]) / alike.shape[::-1]
        corner = np.array([view.a0, view.b0])
        return [
            (corner + (np.array([column, row]) + 0.5) * cell - 0.5, value)
            for (row, column), value in peaks(alike, self._radius / float(cell.mean()), count)
        ]

    def _others_beside(self, index: int) -> list[tuple[np.ndarray, float]]:
        """Where on the last frame on which it was seen something else looks like it, and how much."""
        assert self.previous is not None
        apart = ndimage.distance_transform_edt(~self.previous[1])
        limit = np.array(self.shape) - 1
        found = []
        for place, value in self._alike_on(index, self._last_seen, OTHERS):
            cell = np.clip(place.round().astype(int), 0, limit)
            if value > LEAST_ALIKE and apart[tuple(cell)] > NEXT_TO * self._radius:
                found.append((place, value))
        return found

    def _without_others(self, places: list[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]]:
        """Less those places where the others have moved to, which are looked up there the next time.

        What looks far more like it than the other did is not the other.
        """
        left = list(places)
        for number, (other, alike) in enumerate(self._others):
            near = [
                (float(np.hypot(*(place - other))), n)
                for n, (place, value) in enumerate(left)
                if value < alike + MORE_ALIKE
            ]
            if near and min(near)[0] <= MOVED * self._radius:
                self._others[number] = left.pop(min(near)[1])[0], alike
        return left

    @property
    def _last_seen(self) -> np.ndarray:
        """Its middle (a, b) on the frame before, where it was seen."""
        assert self.previous is not None
        return _middle(self.previous[1])

    @property
    def _radius(self) -> float:
        """Of the object, where it was last seen whole; pixels."""
        return float(np.sqrt(self.whole.sum() / np.pi))

    def _look_for(self, expected: np.ndarray, index: int, backwards: bool, sought: bool = False) -> _Answer:
        """Look where the object is expected, as it is shown there: bool (A, B).

        Where it is `sought`, the network, which does not expect it there, has no say in whether it is there.
        """
        start, view = self.prompted[self.anchor], self.memory.view
        if start.any() and expected.any():
            # what memory tells of places is right in a view that has come as far as the object
            view = zoom.moved(view, prior.shift_between(start, expected), self.shape)
        self.view = view
        embedding = self._embed(index)
        with self.model.running(), masks_of_what_is_absent(self.model) if sought else nullcontext() as said:
            features = features_of(embedding, picture(self.planes(index), view))
            self._alike = self._near.of(features) if self._near.is_known else None
            beside = to_logits(expected, view, self.model.size).to(self.model.device)
            output = self._step(embedding, index, previous=beside, backwards=backwards)
            if said:
                output["presence"] = max(min(said), 0.0)
            mask = to_slice(output["pred_masks"], view, self.shape) > 0
            alike = 1.0 if self._alike is None else mean_over(self._alike, self._seen(mask, view))
        return _Answer(mask, output["score"], alike, output, view, features)

    def _weigh(
        self, index: int, previous: torch.Tensor, low: torch.Tensor, high: torch.Tensor, present: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Less what does not look like it, and what is unlikely in any case; what fades has not ended."""
        if self._alike is not None:
            trust = float(np.clip((self.usual - TRUSTED[0]) / (TRUSTED[1] - TRUSTED[0]), 0, 1))
            gain = ALIKE * trust * self._alike.clamp(max=0.5)
            low, high = (
                logits
                + in_ways(
                    F.interpolate(gain, logits.shape[-2:], mode="bilinear", align_corners=False), len(logits)
                )
                for logits in (low, high)
            )
        return *self._pay(low, high, previous), present, float(present.max())

    def _keep(self, index: int, answer: _Answer) -> None:
        """Remember a frame on which it was found."""
        assert self.previous is not None
        self.memory.recent[index] = self._compact(answer.output)
        self.memory.forget(index)
        mask, last = answer.mask, self.previous[1]
        if not self.lost and STEADY[0] < mask.sum() / max(1, last.sum()) < STEADY[1]:
            self.motion = (self.motion + prior.shift_between(last, mask)) / 2
        if self.lost or self._doubt:
            self._doubt += 1
        self.lost, self.previous = 0, (index, mask)
        self.way.append(answer.output["presence"])
        self._since_far += 1
        if answer.alike > SETTLED[0] * self.usual and mask.sum() > SETTLED[1] * self.whole.sum():
            self._doubt = 0
        if self._doubt or answer.score < prior.SURE or answer.alike < SURE_ALIKE * self.usual:
            return
        self.known.add(index, prior.Known.of(mask))
        with self.model.running():
            self._near.learn(answer.features, self._seen(mask, answer.view))
        self.usual = 0.8 * self.usual + 0.2 * answer.alike
        self._areas.append(int(mask.sum()))
        if mask.sum() > WHOLE * max(self._areas):
            self.whole = mask
            if self._since_far >= SEARCHED_AGAIN:
                self._since_far = 0
                self._learn_from(self._far, self.planes(index), mask, lasting=False)

    # --- what it looks like ----------------------------------------------------------------------------

    def _learn_near(self) -> None:
        """Learn what it looks like in the view of the memory, if that is another one than before."""
        view = self.memory.view
        if self._near_side == view.side:
            return
        self._near, self._near_side = Likeness(), view.side
        known = dict(self.prompted)
        if self.previous is not None:
            known.setdefault(*self.previous)
        for index, mask in known.items():
            features = self._features(self.planes(index), view)
            with self.model.running():
                seen = self._seen(mask, view)
                self._near.learn(features, seen, lasting=index in self.prompted)
                if index == self.anchor and self._near.is_known:
                    self.usual = mean_over(self._near.of(features), seen)

    def _learn_far(self) -> None:
        """Learn what the prompted frames look like when they are searched, once it comes to that."""
        if not self._far_learnt:
            self._far_learnt = True
            for index, mask in self.prompted.items():
                self._learn_from(self._far, self.planes(index), mask, lasting=True)

    def _learn_from(self, likeness: Likeness, plane: np.ndarray, mask: np.ndarray, lasting: bool) -> None:
        if mask.any():
            view = self._search_view(_middle(mask))
            features = self._features(plane, view)
            with self.model.running():
                likeness.learn(features, self._seen(mask, view), lasting)

    def _search_view(self, place: np.ndarray) -> View:
        """The widest view around a place (a, b) in which the object is not too small to be made out."""
        side = self.model.size * 2 * self.known.reach / SEEN
        if not self.use_zoom:
            return zoom.whole(self.shape)
        return zoom.around(place, place, self.shape, self.model.size, least=side)

    def _features(self, plane: np.ndarray, view: View) -> torch.Tensor:
        pixels = picture(plane, view)
        embedding, _ = self.model.embed(pixels)
        with self.model.running():
            return features_of(embedding, pixels)

    def _seen(self, mask: np.ndarray, view: View) -> torch.Tensor:
        return to_square(mask, view, self.model.size // 4).to(self.model.device)


def _middle(mask: np.ndarray) -> np.ndarray:
    return np.array(ndimage.center_of_mass(mask))
