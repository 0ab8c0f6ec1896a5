"""One simulated person: takes a structure as it is offered, or begins it, and clicks until it is right.

Stacks are (K, A, B): slices along the volume's own axis, then the two axes of a slice, as in `study.py`.
Where it is clicked is the rule of the field (`simulate.next_click`); what a person does with a volume besides
is said here, and is the same whether there was a pre-label or nothing:

- Nothing yet: the first click is on the slice where the structure is largest, and is propagated through the
  volume (`biosam2_3d`). So are further ones on that slice, all of them anew, until the whole is worth mending
  (`TRUST`).
- Each click after that is on the slice with most wrong voxels, at the deepest point of its largest error. How
  it is answered is the `Rule`.
- What lies beyond an end of the structure is cut off at once, which counts as a click.
- What has not made it better is undone: the click has been made and counts, its answer is gone, and the same
  place is not clicked on again. The other slices come first then, until that one has changed.
- Where nothing helps any more, it counts as the most clicks, as with everybody who does not get there.
- A mask that is so far off that mending it makes no sense (`TRUST`) is deleted, which costs no click, and the
  structure is begun anew. One where there is nothing is deleted, too; that counts as a click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from lib.evaluation.metrics import MOST_CLICKS, dice
from lib.evaluation.simulate import largest, next_click

TARGET = 0.90  # Dice of a mask that a person accepts
TRUST = 0.30  # Dice of a mask that is worth mending
NEARBY = 3  # slices on each side that a correction is carried on to

Click = tuple[int, int, int]
"""Voxel (k, a, b) of a stack."""


class Rule(StrEnum):
    """How a click on a volume that has a mask already is answered."""

    SLICE = "slice"
    """`biosam2_2d`: the mask of its slice and all clicks on it, a new mask of that slice."""
    NEARBY = "nearby"
    """The same, and the slice is then propagated to its neighbours (`biosam2_3d`, `slice_range`), as far as
    that makes them better: the person looks on, and stops it where it goes wrong."""
    EVERYWHERE = "everywhere"
    """The same, but all slices that were clicked on are propagated through the volume; that one to its
    neighbours alone where this makes none better."""
    VOLUME = "volume"
    """`biosam2_3d`: the starting mask, if there was one, and all clicks, a new mask of all slices."""


class Server(Protocol):
    """What a person asks of the server about one image; masks come back as the server has them."""

    def on_slice(
        self, structure: str, clicks: Sequence[Click], positive: Sequence[bool], mask: np.ndarray | None
    ) -> np.ndarray:
        """`biosam2_2d`: clicks on one slice, and its mask bool (A, B) up to now -> bool (A, B)."""

    def through(
        self,
        structure: str,
        clicks: Sequence[Click],
        positive: Sequence[bool],
        mask: np.ndarray | None = None,
        slices: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """`biosam2_3d`: clicks, a starting mask bool (K, A, B), the slices to do -> bool (K, A, B)."""


@dataclass(eq=False)
class Work:
    """What became of one structure.

    Attributes
    ----------
    mask : ndarray of bool, (K, A, B)
        What the person accepts, or leaves at after the last click.
    curve : list of float
        Dice before the first click, and after each.
    """

    mask: np.ndarray
    curve: list[float] = field(default_factory=list)

    @property
    def clicks(self) -> int:
        """Clicks that were made."""
        return len(self.curve) - 1


@dataclass(frozen=True)
class Annotator:
    """A simulated person.

    Attributes
    ----------
    rule : Rule
    target : float
        Dice at which a mask is accepted.
    most : int
        Clicks after which it is left as it is.
    trust : float
        Dice under which a starting mask is deleted.
    """

    rule: Rule = Rule.EVERYWHERE
    target: float = TARGET
    most: int = MOST_CLICKS
    trust: float = TRUST

    def annotate(
        self, server: Server, structure: str, truth: np.ndarray, start: np.ndarray | None = None
    ) -> Work:
        """Annotate one structure of one image.

        Parameters
        ----------
        server : Server
        structure : str
            Its name.
        truth : ndarray of bool, (K, A, B)
            What the person sees.
        start : ndarray of bool, (K, A, B), optional
            The pre-label.
        """
        mask = np.zeros_like(truth) if start is None else start
        work = Work(mask, [dice(mask, truth)])
        if not truth.any():
            if mask.any():
                work.mask = np.zeros_like(truth)
                work.curve.append(1.0)
            return work
        if not mask.any() or work.curve[0] < self.trust:
            mask, start = np.zeros_like(truth), None
        _Sitting(self, server, structure, truth, work, mask, start).run()
        return work


class _Sitting:
    """The clicks of a person on one structure, and what each slice was before the first of them."""

    def __init__(
        self,
        person: Annotator,
        server: Server,
        structure: str,
        truth: np.ndarray,
        work: Work,
        mask: np.ndarray,
        start: np.ndarray | None,
    ) -> None:
        self.person, self.server, self.structure = person, server, structure
        self.truth, self.work, self.start = truth, work, start
        self.mask, self.value = mask, dice(mask, truth)
        self.clicks: list[Click] = []
        self.before: dict[int, np.ndarray] = {}
        self.refused: set[Click] = set()
        self.left: set[int] = set()  # slices as they were when a click on them was undone

    @property
    def begins(self) -> bool:
        """Whether there is nothing yet that is worth mending."""
        return self.value < self.person.trust

    def run(self) -> None:
        while self.value < self.person.target and self.work.clicks < self.person.most:
            click = self._next()
            if click is None:
                self.work.curve += [self.value] * (self.person.most - self.work.clicks)
                break
            self._make(click)
            self.work.curve.append(self.value)
        self.work.mask = self.mask

    def _next(self) -> Click | None:
        """Where the person clicks next; None where every place has been tried."""
        errors = (self.mask != self.truth).sum((1, 2))
        order = sorted(range(len(errors)), key=lambda k: (k in self.left, -errors[k]))
        if self.begins:
            order.insert(0, int(self.truth.sum((1, 2)).argmax()))
        for k in order:
            mask = self.mask[k].copy()
            while (point := next_click(mask, self.truth[k])) is not None:
                if self._is_new((k, *point)):
                    return (k, point[0], point[1])
                piece = largest(mask != self.truth[k])
                mask[piece] = self.truth[k][piece]  # it has been tried: look at the next largest error
        return None

    def _is_new(self, click: tuple[int, ...]) -> bool:
        return click not in self.refused and click not in self.clicks

    def _make(self, click: Click) -> None:
        """Click, look at the answer, and keep it or undo it."""
        self.clicks.append(click)
        k, whole, rule, begins = click[0], len(self.truth) > 1, self.person.rule, self.begins
        if whole and not begins and not self.truth[k].any():
            found = self._cut(k)
        elif whole and (begins or rule == Rule.VOLUME):
            found = self._through(self.clicks, self.start)
        else:
            found = self._on_slice(k)
        if not self._keep(found):
            self.clicks.remove(click)
            self.refused.add(click)
            self.left.add(k)
        elif whole and not begins:
            clicked = {index for index, *_ in self.clicks}
            far = rule == Rule.EVERYWHERE and self._carry_on(k, clicked, len(self.truth))
            if not far and rule in (Rule.NEARBY, Rule.EVERYWHERE):
                self._carry_on(k, {k}, NEARBY)

    def _cut(self, k: int) -> np.ndarray:
        """The mask less what is on a slice where the structure is not, and beyond it if that is its end."""
        there = np.flatnonzero(self.truth.any((1, 2)))
        found = self.mask.copy()
        if k < there[0]:
            found[: there[0]] = False
        elif k > there[-1]:
            found[there[-1] + 1 :] = False
        else:
            found[k] = False
        return found

    def _keep(self, found: np.ndarray) -> bool:
        """Take an answer if it is better."""
        value = dice(found, self.truth)
        if value <= self.value:
            return False
        self.left -= set(np.flatnonzero((found != self.mask).any((1, 2))).tolist())
        self.mask, self.value = found, value
        return True

    def _on_slice(self, k: int) -> np.ndarray:
        before = self.before.setdefault(k, self.mask[k].copy())
        found = self.mask.copy()
        on = [c for c in self.clicks if c[0] == k]
        if not before.any() and not any(self.truth[c] for c in on):
            found[k] = False
            return found
        found[k] = self.server.on_slice(
            self.structure, on, self._positive(on), before if before.any() else None
        )
        return found

    def _carry_on(self, k: int, corrected: set[int], reach: int) -> bool:
        """Have slices done from corrected ones, from slice `k` on both ways; those that were clicked on stay.

        Returns
        -------
        bool
            Whether that was better, and kept.
        """
        prompts = np.zeros_like(self.mask)
        for index in corrected:
            prompts[index] = self.mask[index]
        if not prompts.any():
            return False
        first, last = max(k - reach, 0), min(k + reach, len(self.mask) - 1)
        answer = self._through([], prompts, (first, last))
        clicked, found = {c[0] for c in self.clicks}, self.mask.copy()
        carried = []
        for way in (range(k - 1, first - 1, -1), range(k + 1, last + 1)):
            for index in way:
                if index in clicked:
                    continue
                truth = self.truth[index]
                if (answer[index] != truth).sum() > (self.mask[index] != truth).sum():
                    break
                found[index] = answer[index]
                carried.append(index)
        kept = self._keep(found)
        if kept:
            for index in carried:
                self.before.pop(index, None)
        return kept

    def _through(
        self, clicks: Sequence[Click], mask: np.ndarray | None, slices: tuple[int, int] | None = None
    ) -> np.ndarray:
        return self.server.through(self.structure, clicks, self._positive(clicks), mask, slices)

    def _positive(self, clicks: Sequence[Click]) -> list[bool]:
        return [bool(self.truth[c]) for c in clicks]
