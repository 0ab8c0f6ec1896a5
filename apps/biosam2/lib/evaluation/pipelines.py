"""The paper's three pipelines, each for one structure of one study: single slices, a volume, a video.

Masks are stacks of slices (K, A, B), see `study.py`; times are those of the model alone, from a cold start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lib.errors import UserError
from lib.evaluation import protocol as designs
from lib.evaluation.metrics import dice, iou, nsd
from lib.evaluation.protocol import Protocol, clicks_in
from lib.evaluation.simulate import Look, box_around, click_by_click, clicks, generator, next_click
from lib.evaluation.study import Structure, Study
from lib.prompts.prompts import SlicePrompts
from lib.sam.model import Model
from lib.sam.propagate import Target, propagate
from lib.sam.segment import segment

CVPR_CLICKS = 5

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice to look at: uint8 (A, B[, 3]), true mask and answer (A, B), and the prompts it had, if any.

    `upwards` and `aspect` are those of `Study`.
    """

    index: int
    plane: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    prompts: SlicePrompts | None
    upwards: bool = False
    aspect: float = 1.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one way of asking gave for one structure.

    Attributes
    ----------
    dice, nsd, iou : float
        Of the last answer. In a video, means over the frames.
    seconds, first : float
        Of the model: in all, and until the first mask.
    curve, nsd_curve : list of float
        After each answer, where there are several.
    slices : list of float
        Dice on each slice from the structure's first to its last (of a video, on each frame asked for).
    absence : float
        Of the slices reached that do not hold the structure, the share on which nothing was found.
    shown : tuple of Shown
        The prompted slice, and the one with the largest error if that is another.
    """

    dice: float
    nsd: float
    iou: float
    seconds: float
    first: float
    shown: tuple[Shown, ...]
    curve: list[float] = field(default_factory=list)
    nsd_curve: list[float] = field(default_factory=list)
    slices: list[float] = field(default_factory=list)
    absence: float = math.nan


class Clock:
    """Time spent in the model, and how much of it passed until the first mask."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first = math.nan

    def time(self, work: Callable[[], T]) -> T:
        """Do some of the model's work, which ends with a mask."""
        begin = time.perf_counter()
        done = work()
        self.seconds += time.perf_counter() - begin
        if math.isnan(self.first):
            self.first = self.seconds
        return done


def look_with(model: Model, zoom: bool) -> Look:
    """Single slices answered by a model."""

    def look(plane: np.ndarray, prompts: SlicePrompts) -> np.ndarray:
        return segment(model, plane, prompts, zoom).mask

    return look


def randomness(study: Study, structure: Structure, index: int, design: str, protocol: Protocol):
    """Random numbers for the prompts on a slice. All click designs share theirs: 1 click begins 3 clicks."""
    kind = "clicks" if clicks_in(design) else design
    return generator(protocol.seed, study.pair.name, structure.name, index, kind)


def on_slice(
    look: Look, study: Study, structure: Structure, index: int, design: str, protocol: Protocol
) -> Outcome:
    """The image pipeline: one slice by itself, prompted with clicks or a box."""
    plane, truth = study.plane(index), study.truth(structure)[index]
    rng = randomness(study, structure, index, design, protocol)
    clock = Clock()
    answers = list(_ask_slice(look, clock, plane, truth, design, protocol, rng))
    curve = [dice(mask, truth) for _, mask in answers]
    prompts, mask = answers[-1]
    # what has no error left is right for all clicks that would follow
    curve += curve[-1:] * (clicks_in(design) - len(curve))
    return Outcome(
        dice=curve[-1],
        nsd=nsd(mask, truth, study.spacing[1:], protocol.nsd_mm),
        iou=iou(mask, truth),
        seconds=clock.seconds,
        first=clock.first,
        shown=(_shown(study, index, truth, mask, prompts),),
        curve=curve if len(curve) > 1 else [],
    )


def through_volume(
    model: Model, study: Study, structure: Structure, prompted: list[int], design: str, protocol: Protocol
) -> Outcome:
    """The volume pipeline: prompts on the `prompted` slices, propagated to the others.

    Slices that the direction does not reach count as found empty.
    """
    truth, clock = study.truth(structure), Clock()
    if design == designs.CVPR:
        return _cvpr(model, study, structure, truth, protocol, clock)
    given = _prompt_slices(model, study, structure, truth, prompted, design, protocol, clock)
    masks, reached = _follow(model, study, given, protocol, clock)
    return _judge(study, truth, masks, reached, given, protocol, clock)


def through_video(
    model: Model, study: Study, structure: Structure, prompted: list[int], design: str, protocol: Protocol
) -> Outcome:
    """The video pipeline: the first frame with the structure is prompted, and all that follow are judged.

    Dice, IoU (J) and surface distance (F) are means over the frames from the prompted one on; without it when
    its mask was given. A frame where the structure is absent and none is found counts 1.

    Raises
    ------
    UserError
        If there is no such frame.
    """
    truth, clock = study.truth(structure), Clock()
    given = _prompt_slices(model, study, structure, truth, prompted, design, protocol, clock)
    first = prompted[0] + (design == designs.MASK)
    if first >= study.count:
        raise UserError(f"{structure.name} in video '{study.pair.name}' is on the last frame only.")
    masks, reached = _follow(model, study, given, protocol, clock)
    frames = range(first, study.count)
    each = [dice(masks[k], truth[k]) for k in frames]
    return Outcome(
        dice=float(np.mean(each)),
        nsd=float(np.mean([nsd(masks[k], truth[k], study.spacing[1:], protocol.nsd_mm) for k in frames])),
        iou=float(np.mean([iou(masks[k], truth[k]) for k in frames])),
        seconds=clock.seconds,
        first=clock.first,
        shown=_worth_seeing(study, truth, masks, given),
        slices=each,
        absence=_absence(truth, masks, reached),
    )


def _ask_slice(
    look: Look,
    clock: Clock,
    plane: np.ndarray,
    truth: np.ndarray,
    design: str,
    protocol: Protocol,
    rng: np.random.Generator,
) -> Iterator[tuple[SlicePrompts, np.ndarray]]:
    """The prompts of a design on one slice, and the answers to them."""

    def timed(plane: np.ndarray, prompts: SlicePrompts) -> np.ndarray:
        return clock.time(lambda: look(plane, prompts))

    if design == designs.BOX:
        prompts = clicks([], [], box=box_around(truth, protocol.jitter, rng))
        yield prompts, timed(plane, prompts)
    else:
        yield from click_by_click(plane, truth, clicks_in(design), timed, protocol.jitter, rng)


def _prompt_slices(
    model: Model,
    study: Study,
    structure: Structure,
    truth: np.ndarray,
    prompted: list[int],
    design: str,
    protocol: Protocol,
    clock: Clock,
) -> dict[int, SlicePrompts]:
    """Prompts of a design by slice; corrective clicks are made there first, before anything is propagated."""
    given = {}
    for index in prompted:
        rng = randomness(study, structure, index, design, protocol)
        if design == designs.MASK:
            given[index] = clicks([], [], mask=truth[index])
        elif clicks_in(design) > 1:
            look = look_with(model, protocol.zoom)
            answers = _ask_slice(look, clock, study.plane(index), truth[index], design, protocol, rng)
            *_, (given[index], _) = answers
        elif design == designs.BOX:
            given[index] = clicks([], [], box=box_around(truth[index], protocol.jitter, rng))
        else:
            point = next_click(np.zeros_like(truth[index]), truth[index], protocol.jitter, rng)
            given[index] = clicks([point], [True]) if point else clicks([], [])
    return given


def _follow(
    model: Model, study: Study, given: dict[int, SlicePrompts], protocol: Protocol, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """Propagate prompts: masks (K, A, B), and which slices were reached (K,)."""
    masks = np.zeros((study.count, *study.plane(next(iter(given))).shape[:2]), bool)
    reached = np.zeros(study.count, bool)
    target = Target(given, 0, study.count - 1)
    direction = protocol.direction
    assert direction is not None  # the protocol fills it in
    volume = study.volume
    thickness = None if protocol.pipeline == "video" else volume.thickness(volume.slice_axis)
    found = propagate(
        model, study.plane, study.count, [target], direction, protocol.zoom, thickness=thickness
    )
    while (one := clock.time(lambda: next(found, None))) is not None:
        masks[one.index], reached[one.index] = one.mask, True
    return masks, reached


def _cvpr(
    model: Model, study: Study, structure: Structure, truth: np.ndarray, protocol: Protocol, clock: Clock
) -> Outcome:
    """A box on the middle slice; then clicks, each at the deepest point of the largest error in 3D."""
    present = np.flatnonzero(truth.any((1, 2)))
    middle = int(present[len(present) // 2])
    rng = randomness(study, structure, middle, designs.CVPR, protocol)
    given = {middle: clicks([], [], box=box_around(truth[middle], protocol.jitter, rng))}
    curve, nsd_curve = [], []
    while True:
        masks, reached = _follow(model, study, given, protocol, clock)
        curve.append(dice(masks, truth))
        nsd_curve.append(nsd(masks, truth, study.spacing, protocol.nsd_mm))
        point = next_click(masks, truth, protocol.jitter, rng, study.spacing)
        if point is None or len(curve) > CVPR_CLICKS:
            break
        index, at = point[0], point[1:]
        old = given.get(index, clicks([], []))
        points = [*map(tuple, old.points), at]
        given[index] = clicks(points, [*old.positive, truth[point]], box=old.box)
    for values in (curve, nsd_curve):
        values += values[-1:] * (1 + CVPR_CLICKS - len(values))
    return _judge(study, truth, masks, reached, given, protocol, clock, curve, nsd_curve)


def _judge(
    study: Study,
    truth: np.ndarray,
    masks: np.ndarray,
    reached: np.ndarray,
    given: dict[int, SlicePrompts],
    protocol: Protocol,
    clock: Clock,
    curve: list[float] | None = None,
    nsd_curve: list[float] | None = None,
) -> Outcome:
    present = np.flatnonzero(truth.any((1, 2)))
    return Outcome(
        dice=curve[-1] if curve else dice(masks, truth),
        nsd=nsd_curve[-1] if nsd_curve else nsd(masks, truth, study.spacing, protocol.nsd_mm),
        iou=iou(masks, truth),
        seconds=clock.seconds,
        first=clock.first,
        shown=_worth_seeing(study, truth, masks, given),
        curve=curve or [],
        nsd_curve=nsd_curve or [],
        slices=[dice(masks[k], truth[k]) for k in range(present[0], present[-1] + 1)],
        absence=_absence(truth, masks, reached),
    )


def _absence(truth: np.ndarray, masks: np.ndarray, reached: np.ndarray) -> float:
    without = reached & ~truth.any((1, 2))
    return float(np.mean(~masks[without].any((1, 2)))) if without.any() else math.nan


def _worth_seeing(
    study: Study, truth: np.ndarray, masks: np.ndarray, given: dict[int, SlicePrompts]
) -> tuple[Shown, ...]:
    worst = int(np.argmax((masks != truth).sum((1, 2))))
    chosen = dict.fromkeys([min(given), worst])
    return tuple(_shown(study, k, truth[k], masks[k], given.get(k)) for k in chosen)


def _shown(
    study: Study, index: int, truth: np.ndarray, mask: np.ndarray, prompts: SlicePrompts | None
) -> Shown:
    return Shown(index, study.plane(index), truth, mask, prompts, study.upwards, study.aspect)
