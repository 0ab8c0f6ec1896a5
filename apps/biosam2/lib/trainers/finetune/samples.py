"""What the network is trained on: views of slices and short clips, each with its own random numbers.

Sample n is the same on any number of processes and after a resumption: several GPUs make the steps of
one, and a training that was killed those of one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lib.trainers.finetune.slices import CachedCase
from lib.trainers.generated import acquire, generate_scene, is_seen
from lib.trainers.patients import LEAST, patients_view
from lib.trainers.real import Scan, large_pieces, scanned_again
from lib.trainers.views import View, clip_view, look_at

# share of the samples that are generated anatomy: without it, what a site does not label is forgotten
REHEARSED = 0.5
FRAMES = 4  # slices of a clip
TARGETS = 3  # structures, or pieces of them, asked for in one view: the slice is encoded once
PIECES = 0.3  # share of the views that ask for the connected pieces of structures as well
SMALLEST = 9  # pixels of a slice
ATTEMPTS = 20
WITH_IT = 0.7  # share of the slices of other cases that are chosen because they have the structure


def can_be_shown(case: CachedCase) -> bool:
    """Whether a structure of a case is large enough to be looked at on some slice."""
    return bool((case.scan().areas[0][:, 1:] >= SMALLEST).any())


class Samples(Dataset):
    """The samples of one process.

    Parameters
    ----------
    cases : sequence of CachedCase
        At least one.
    size : int
        Side of the network's input, pixels.
    clips : float
        Share of the samples that are clips.
    seed : int
    numbers : sequence of int
        The samples that are this process's, in order.
    across : float
        Share of the samples that are slices of several cases (`lib.trainers.patients`).
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        size: int,
        clips: float,
        seed: int,
        numbers: Sequence[int],
        across: float = 0.0,
    ) -> None:
        self.scans = [case.scan() for case in cases]
        self.names = [case.structures for case in cases]
        self.size, self.clips, self.across, self.seed = size, clips, across, seed
        self.numbers = list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """A sample: `images` uint8 (S, S, 3) or (F, S, S, 3), `masks` uint8 (T[, F], S, S), and two more.

        These are `seed`, for the prompts, and `crossing`, whether the slices are of several cases.
        """
        number = self.numbers[place]
        rng = np.random.default_rng((self.seed, number))
        for _ in range(ATTEMPTS):
            view, crossing = None, False
            if rng.random() < REHEARSED:
                view = _rehearsal(rng, self.size)
            else:
                if self.across and rng.random() < self.across:
                    view = self._across(rng)
                    crossing = view is not None
                # of one case alone, or what has too few slices for a clip, there are views all the same
                view = self._of_one(rng) if view is None else view
            if view is not None and (masks := _seen(view.masks)) is not None:
                return {
                    "images": torch.from_numpy(view.image),
                    "masks": torch.from_numpy(masks),
                    "seed": int(rng.integers(2**31)),
                    "crossing": crossing,
                }
        raise RuntimeError("no structure of the cases is large enough to be looked at")

    def _of_one(self, rng: np.random.Generator) -> View | None:
        """A clip of a case, or a slice of it."""
        scan = self.scans[rng.integers(len(self.scans))]
        clip = self._clip(rng, scan) if rng.random() < self.clips else None
        return self._view(rng, scan) if clip is None else clip

    def _view(self, rng: np.random.Generator, scan: Scan) -> View | None:
        chosen = _choose(rng, scan, 0)
        if chosen is None:
            return None
        index, value = chosen
        image, labels = scan.slice(0, index)
        here = [v for v in np.unique(labels) if v and v != value]
        masks = [labels == value, *(labels == v for v in rng.permutation(here)[: TARGETS - 1])]
        if rng.random() < PIECES:
            pieces = large_pieces(masks[0], SMALLEST)
            masks = [*pieces, *masks] if len(pieces) > 1 else masks
        return look_at(rng, scanned_again(rng, image), masks, TARGETS, self.size, 0.0, centre=0)

    def _clip(self, rng: np.random.Generator, scan: Scan) -> View | None:
        if scan.count(0) < FRAMES:
            return None
        step = int(rng.integers(1, 1 + min(5, (scan.count(0) - 1) // (FRAMES - 1)))) * int(
            rng.choice([-1, 1])
        )
        chosen = _choose(rng, scan, (FRAMES - 1) * step)
        if chosen is None:
            return None
        index, value = chosen
        slices = [scan.slice(0, index + t * step) for t in range(FRAMES)]
        first = slices[0][1]
        others = rng.permutation([v for v in np.unique(first) if v and v != value])
        structures = [[labels == v for _, labels in slices] for v in (value, *others)]
        structures = [s for s in structures if s[0].sum() >= SMALLEST]
        look = int(rng.integers(2**31))  # one scanner for all slices
        images = [scanned_again(np.random.default_rng(look), image) for image, _ in slices]
        return clip_view(rng, images, structures, 0, self.size)

    def _across(self, rng: np.random.Generator) -> View | None:
        """A slice of a structure in one case, then slices of others, some of which may be without it."""
        first = int(rng.integers(len(self.scans)))
        chosen = _choose(rng, self.scans[first], 0)
        others = [n for n in range(len(self.scans)) if n != first]
        if chosen is None or not others:
            return None
        index, value = chosen
        image, labels = self.scans[first].slice(0, index)
        here = [value, *rng.permutation([v for v in np.unique(labels) if v and v != value])]
        names = [self.names[first][v - 1] for v in here]
        images, structures = [scanned_again(rng, image)], [[labels == v] for v in here]
        for n in rng.choice(others, FRAMES - 1):
            scan = self.scans[n]
            values = [1 + self.names[n].index(name) if name in self.names[n] else -1 for name in names]
            image, labels = scan.slice(0, _any_slice(rng, scan, values[0]))
            images.append(scanned_again(rng, image))
            for structure, v in zip(structures, values, strict=True):
                structure.append(labels == v)
        structures = [s for s in structures if s[0].sum() >= LEAST]
        return patients_view(rng, images, structures, self.size) if structures else None


def _any_slice(rng: np.random.Generator, scan: Scan, value: int) -> int:
    """A slice, more often than not with a label if the scan has it."""
    areas = scan.areas[0]
    known = 0 < value < areas.shape[1]
    with_it = np.flatnonzero(areas[:, value] >= SMALLEST) if known else np.zeros(0, int)
    if len(with_it) and rng.random() < WITH_IT:
        return int(rng.choice(with_it))
    return int(rng.integers(len(areas)))


def _rehearsal(rng: np.random.Generator, size: int) -> View | None:
    """A look at a generated scene, as the embedded checkpoint was trained on."""
    scene = generate_scene(rng)
    image = acquire(rng, scene.image)
    masks = [mask for mask in scene.masks if is_seen(image, mask)]
    return look_at(rng, image, masks, TARGETS, size) if masks else None


def _seen(masks: np.ndarray) -> np.ndarray | None:
    """Targets (T, ...) with those that vanished in the scaling replaced by the first one, if that is seen."""
    first = masks.reshape(len(masks), -1) if masks.ndim == 3 else masks[:, 0].reshape(len(masks), -1)
    there = first.any(1)
    return masks[np.where(there, np.arange(len(masks)), 0)] if there[0] else None


def _choose(rng: np.random.Generator, scan: Scan, reach: int) -> tuple[int, int] | None:
    """A slice and a label on it, every label as likely; from the slice on there are `reach` more."""
    areas = scan.areas[0]
    first, last = max(0, -reach), min(len(areas), len(areas) - reach)
    large = areas[first:last, 1:] >= SMALLEST
    values = np.flatnonzero(large.any(0))
    if not len(values):
        return None
    value = int(rng.choice(values))
    return first + int(rng.choice(np.flatnonzero(large[:, value]))), value + 1
