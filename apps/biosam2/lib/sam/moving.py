"""One object followed through the frames of a video: what is hidden or leaves the picture is looked for again.

From slice to slice of a volume a structure that has ended is over. In a video an object is hidden, leaves the
picture, and comes back, perhaps elsewhere: so what the network remembers of it stands still meanwhile, and the
whole picture is searched for what looks like it (`lib.sam.likeness`).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from lib.sam import prior, zoom
from lib.sam.likeness import Likeness, mean_over, peaks
from lib.sam.memory import Planes
from lib.sam.model import Model
from lib.sam.segment import in_ways, picture, to_logits, to_slice, to_square
from lib.sam.tracker import Tracker
from lib.sam.zoom import View
from lib.prompts.prompts import SlicePrompts

PRICE = float(os.environ.get("PRICE", 3))
KEEP_FLOOR = float(os.environ.get("KEEP", 0.1))
SEEK_FLOOR = float(os.environ.get("SEEK", 0.5))
SEEK_SIDE = 20
CANDIDATES = 2
ONE = bool(int(os.environ.get("ONE", 0)))
DEBUG = bool(os.environ.get("DEBUG"))


@dataclass(frozen=True, eq=False)
class _Answer:
    mask: np.ndarray
    score: float
    output: dict
    alike: float


class Following(Tracker):
    def __init__(self, model: Model, planes: Planes, count: int, prompts: dict[int, SlicePrompts], use_zoom: bool) -> None:
        super().__init__(model, planes, count, prompts, use_zoom, None)
        self.near = Likeness()
        self.near_side = 0
        self.kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=3)
        self.far: Likeness | None = None
        self.lost = 0
        self.anchor = next(iter(self.prompts))
        self.whole = np.zeros(self.shape, bool)
        self.usual = 1.0
        self._alike: torch.Tensor | None = None

    # --- the way

    def track(self, index: int, backwards: bool) -> tuple[np.ndarray, float]:
        step = -1 if backwards else 1
        before = index - step
        if before in self.prompted:
            self._set_out(before)
        if self.near_side != self.memory.view.side:
            self._learn_near()
        answer = None
        if not self.lost and self.previous is not None:
            answer = self._go_on(index, backwards)
        else:
            self._stand_still(index, step)
        if answer is None and self.whole.any():
            answer = self._seek(index, backwards)
        if answer is None:
            self.lost += 1
            return np.zeros(self.shape, bool), 0.0
        self._keep(index, answer)
        return answer.mask, answer.score

    def _set_out(self, before: int) -> None:
        mask = self.prompted[before]
        self.way.clear()
        self.motion = np.zeros(2)
        self.anchor, self.lost, self.usual = before, 0, 1.0
        self.previous = before, mask
        self.whole = mask
        self.kept.clear()
        self.far = None
        self.near_side = 0

    def _go_on(self, index: int, backwards: bool) -> _Answer | None:
        before, mask = self.previous
        answer = self._look_for(index, prior.moved(mask, self.motion), backwards)
        if self.use_zoom:
            known = zoom.union(*(zoom.extent(prompted) for prompted in self.prompted.values()))
            wider = zoom.wider_look(self.view, answer.mask, self.model.size, known)
            if wider is not None:
                self._move(wider, before)
                self._learn_near()
                answer = self._look_for(index, prior.moved(mask, self.motion), backwards)
        if DEBUG: print(index, "on", round(answer.output["presence"],1), round(answer.alike,2), round(self.usual,2), round(answer.score,2), end=" | ")
        return answer if answer.mask.any() and answer.alike > KEEP_FLOOR * self.usual else None

    def _keep(self, index: int, answer: _Answer) -> None:
        self.memory.recent[index] = self._compact(answer.output)
        self.memory.forget(index)
        last = self.previous[1]
        mask = answer.mask
        if self.lost == 0:
            alike_size = 0.85 < mask.sum() / max(1, last.sum()) < 1.18
            if alike_size:
                self.motion = 0.5 * self.motion + 0.5 * prior.shift_between(last, mask)
        self.lost = 0
        self.previous = index, mask
        sure = answer.score >= prior.SURE and answer.alike > 0.6 * self.usual
        if sure:
            self.known.add(index, prior.Known.of(mask))
            self.near.learn(self._embed(index), to_square(mask, self.view, self.model.size // 4))
            self.usual = 0.8 * self.usual + 0.2 * answer.alike
            if mask.sum() > 0.75 * self.whole.sum():
                self.whole = mask
                self.kept.append((self.planes(index), mask))
                self.far = None
            elif len(self.kept):
                pass

    # --- looks

    def _look_for(self, index: int, expected: np.ndarray, backwards: bool) -> _Answer:
        start = self.prompted[self.anchor]
        self.view = self.memory.view
        if start.any() and expected.any():
            self.view = zoom.moved(self.memory.view, prior.shift_between(start, expected), self.shape)
        embedding = self._embed(index)
        with self.model.running():
            self._alike = self.near.of(embedding) if self.near.is_known else None
            beside = to_logits(expected, self.view, self.model.size).to(self.model.device)
            output = self._step(embedding, index, previous=beside, backwards=backwards)
            mask = to_slice(output["pred_masks"], self.view, self.shape) > 0
            alike = 1.0 if self._alike is None else mean_over(self._alike, to_square(mask, self.view, self.model.size // 4))
            return _Answer(mask, output["score"], output, alike)

    def _weigh(self, index, previous, low, high, present):
        if self._alike is not None:
            gain = self._alike * PRICE
            if ONE: gain = -PRICE * ((-self._alike - 0.3) / 0.7).clamp(0, 1)
            extra = F.interpolate(gain, low.shape[-2:], mode="bilinear", align_corners=False)
            wide = F.interpolate(gain, high.shape[-2:], mode="bilinear", align_corners=False)
            low, high = low + in_ways(extra, len(low)), high + in_ways(wide, len(high))
        return *self._pay(low, high, previous), present, float(present.max())

    # --- seeking

    def _seek(self, index: int, backwards: bool) -> _Answer | None:
        size, radius = self.model.size, np.sqrt(self.whole.sum() / np.pi)
        centre = np.array(ndimage.center_of_mass(self.whole))
        expected = centre + self.motion * (self.lost + 1)
        view = self._search_view(expected)
        if self.far is None:
            self._learn_far()
        with self.model.running():
            alike = self.far.of(self.model.embed(picture(self.planes(index), view))[0])[0, 0].cpu().numpy()
        cell = np.array([view.na, view.nb]) / alike.shape[0]
        best = None
        found = []
        for (row, column), value in peaks(alike, radius / cell.mean(), 4):
            place = np.array([view.a0, view.b0]) + (np.array([column, row]) + 0.5) * cell - 0.5
            far = np.hypot(*(place - expected)) / (radius * (4 + 2 * self.lost))
            found.append((value - 0.15 * far, place, value))
        found.sort(key=lambda f: -f[0])
        if DEBUG: print(index, "seek", [(round(f[0],2), round(f[2],2), f[1].round()) for f in found[:3]], end=" ")
        for rank, place, value in found[:CANDIDATES]:
            if rank < 0:
                continue
            answer = self._look_for(index, prior.moved(self.whole, place - centre), backwards)
            share = answer.mask.sum() / self.whole.sum()
            if DEBUG: print("->", round(answer.output["presence"],1), round(answer.alike,2), round(float(share),2), round(answer.score,2), end=" ")
            if answer.mask.any() and answer.alike > SEEK_FLOOR * self.usual and 0.15 < share < 2.5:
                if best is None or answer.alike * min(share, 1)**.5 > best[0]:
                    best = answer.alike * min(share, 1)**.5, answer, self.view
        if DEBUG: print()
        if best is None:
            return None
        self.view = best[2]
        return best[1]

    def _search_view(self, place: np.ndarray) -> View:
        side = self.model.size * 2 * self.known.reach / SEEK_SIDE
        return zoom.around(place, place, self.shape, self.model.size, least=side)

    def _learn_near(self) -> None:
        self.near, self.near_side = Likeness(), self.memory.view.side
        view = self.view
        for index, mask in self.prompted.items():
            self._learn(self.near, self.planes(index), mask, self.memory.view, True)
        if self.previous is not None and self.previous[0] not in self.prompted and self.kept:
            pass
        with self.model.running():
            embedding = self._embed_at(self.planes(self.anchor), self.memory.view)
            if self.near.is_known:
                self.usual = mean_over(self.near.of(embedding), to_square(self.prompted[self.anchor], self.memory.view, self.model.size // 4))

    def _learn_far(self) -> None:
        self.far = Likeness()
        for index, mask in self.prompted.items():
            self._learn(self.far, self.planes(index), mask, self._search_view(np.array(ndimage.center_of_mass(mask))), True)
        for plane, mask in self.kept:
            self._learn(self.far, plane, mask, self._search_view(np.array(ndimage.center_of_mass(mask))), False)

    def _embed_at(self, plane, view):
        return self.model.embed(picture(plane, view))[0]

    def _learn(self, likeness, plane, mask, view, lasting):
        embedding = self._embed_at(plane, view)
        with self.model.running():
            likeness.learn(embedding, to_square(mask, view, self.model.size // 4), lasting)

    def _stand_still(self, index: int, step: int) -> None:
        """The memory's clock: what was last remembered lies just before this frame."""
        way = {i: o for i, o in self.memory.recent.items() if (i - self.anchor) * step > 0}
        rest = {i: o for i, o in self.memory.recent.items() if i not in way}
        self.memory.recent = rest | {i + step: o for i, o in way.items()}
