"""Prompts on some slices -> masks on all of them, both ways, with SAM 2's memory.

Frames come one at a time from a function, features from the embedding cache, and only the memories within
the network's reach are kept, so that the number of slices costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lib.errors import Cancelled
from lib.prompts.prompts import Direction, SlicePrompts
from lib.sam.memory import Planes
from lib.sam.model import Model
from lib.sam.moving import tracker_of
from lib.sam.segment import pointed_at
from lib.sam.turns import as_long_work

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Target:
    """One structure to follow.

    Attributes
    ----------
    prompts : dict of int to SlicePrompts
        By slice index, in any order.
    first, last : int
        The slices it may be on, inclusive.

    Raises
    ------
    ValueError
        If a prompt is not on these slices or empty, or no prompt says where the structure is. `Prompts`
        refuses that with a sentence for the person; here it is an error in our code.
    """

    prompts: dict[int, SlicePrompts]
    first: int
    last: int

    def __post_init__(self) -> None:
        if not all(self.first <= index <= self.last for index in self.prompts):
            raise ValueError(f"prompts on slices {sorted(self.prompts)} not in {self.first} to {self.last}")
        if any(p.is_empty for p in self.prompts.values()):
            raise ValueError("a slice without a prompt among the prompted ones")
        if all(pointed_at(p) is None for p in self.prompts.values()):
            raise ValueError("no prompt says where the structure is")


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The answer for one structure on one slice: bool (A, B), score 0 to 1 (0 where it is absent)."""

    target: int
    index: int
    mask: np.ndarray
    score: float


def propagate(
    model: Model,
    planes: Planes,
    count: int,
    targets: list[Target],
    direction: Direction = Direction.BOTH,
    use_zoom: bool = True,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    thickness: float | None = None,
) -> Iterator[SliceMask]:
    """Follow each structure from its prompted slices through its range, step by step between other work.

    Every slice with a box or a mask, or else the first one with a positive click, stands by itself, as in
    SAM 2's first interaction. Clicks on further slices correct what is found there from the others
    (`Tracker`), and then count as prompted themselves. Between two prompted slices each reaches to the
    middle.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    count : int
        Slices of the volume.
    targets : list of Target
    progress : callable, optional
        Called with the number of slices done and in all (counted per structure).
    cancelled : callable, optional
        Asked before every slice.
    thickness : float, optional
        From slice to slice, in pixels of a slice; None for the frames of a video.

    Yields
    ------
    SliceMask
        Once per structure and slice of its range that `direction` reaches.

    Raises
    ------
    Cancelled
    """
    yield from as_long_work(
        _follow(model, planes, count, targets, direction, use_zoom, progress, cancelled, thickness)
    )


def _follow(
    model: Model,
    planes: Planes,
    count: int,
    targets: list[Target],
    direction: Direction,
    use_zoom: bool,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
    thickness: float | None,
) -> Generator[SliceMask, None, None]:
    routes = [list(_route(target, direction)) for target in targets]
    total = sum(len(t.prompts) + len(route) for t, route in zip(targets, routes, strict=True))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    def check() -> None:
        if cancelled and cancelled():
            raise Cancelled()

    for number, (target, route) in enumerate(zip(targets, routes, strict=True)):
        check()
        tracker = tracker_of(model, planes, count, target.prompts, use_zoom, thickness)
        for index, mask, score in tracker.start(check):
            yield SliceMask(number, index, mask, score)
            step()
        for index, backwards in route:
            check()
            mask, score = tracker.track(index, backwards)
            yield SliceMask(number, index, mask, score)
            step()


def _route(target: Target, direction: Direction) -> Iterable[tuple[int, bool]]:
    """The slices that have no prompt, in the order in which they are done, each with "going backwards"."""
    prompted = sorted(target.prompts)
    for here, following in zip(prompted, [*prompted[1:], None], strict=True):
        end = target.last if following is None else following - 1
        if following is not None and direction == Direction.BOTH:
            end = (here + following) // 2
        if direction != Direction.BACKWARD:
            yield from ((index, False) for index in range(here + 1, end + 1))
    for before, here in zip([None, *prompted[:-1]], prompted, strict=True):
        end = target.first if before is None else before + 1
        if before is not None and direction == Direction.BOTH:
            end = (before + here) // 2 + 1
        if direction != Direction.FORWARD:
            yield from ((index, True) for index in range(here - 1, end - 1, -1))
