"""Training samples from real scans: labelled structures, and regions of like intensity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch.utils.data import IterableDataset, get_worker_info

from lib.evaluation.datasets import Pair, find_pairs
from lib.evaluation.study import read_study
from lib.imaging.window import to_uint8
from lib.trainers.generated import FAINTEST, MIN_AREA, acquire, is_seen
from lib.trainers.views import FAINT_CLIPS, VIEWS_PER_SCENE, View, always_there, clip_view, look_at

ISOTROPIC = 1.5  # ratio of spacings up to which a volume is also cut along its other axes
TOGETHER, MOST_TOGETHER = 0.4, 8  # in clips: how often one more neighbour belongs to a structure; at most
ALL_TOGETHER = 0.15  # how often all labels are also asked for as one: a brain, not its regions
TO_THE_END = 0.5  # share of the clips from where a structure is largest to just beyond its end
FARTHEST = 8  # slices that a clip may step over
REGIONS_ONLY = 0.3  # share of slices whose targets are regions of like intensity instead of labels


class Scan:
    """One labelled image, windowed; slices along one axis or several, padded to squares.

    Parameters
    ----------
    stacks : mapping of int to pair of ndarray
        By the array axis that it is cut along: pixels uint8 (K, A, B) or (K, A, B, 3), and labels (K, A, B).

    Attributes
    ----------
    axes : list of int
    used : dict of int to ndarray
        By axis: the slices that have a label.
    areas : dict of int to ndarray (slices, labels + 1)
        By axis: voxels of each label on each slice.
    """

    def __init__(self, stacks: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
        self.stacks = dict(stacks)
        self.axes = list(self.stacks)
        self.areas = {axis: _areas(labels) for axis, (_, labels) in self.stacks.items()}
        self.used = {axis: np.flatnonzero(areas[:, 1:].any(1)) for axis, areas in self.areas.items()}

    @classmethod
    def read(cls, pair: Pair) -> Scan:
        """An image file and its label file, cut along all axes if its voxels are about as long as wide."""
        study = read_study(pair)
        pixels = to_uint8(study.volume.voxels, study.window)  # (I, J, K) or (I, J, K, 3)
        spacing, shape = study.volume.spacing, study.volume.shape3
        even = max(spacing) < ISOTROPIC * min(spacing) and min(shape) > 64
        # a copy for each axis: a slice across the memory's order takes longer than all that is done with it
        stacks = {}
        for axis in [0, 1, 2] if even else [study.volume.slice_axis]:
            cut, labels = (np.ascontiguousarray(np.moveaxis(a, axis, 0)) for a in (pixels, study.labels))
            stacks[axis] = cut, labels
        return cls(stacks)

    def count(self, axis: int) -> int:
        """Number of slices along an axis."""
        return len(self.stacks[axis][0])

    def slice(self, axis: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A slice as a square picture, uint8 (H, H, 3), and its labels (H, H)."""
        image, labels = (stack[index] for stack in self.stacks[axis])
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, 2)
        side = max(labels.shape)
        pad = [(0, side - n) for n in labels.shape]
        return np.pad(image, [*pad, (0, 0)]), np.pad(labels, pad)


class RealScans:
    """The scans of several data sets; one of them is drawn, then a scan of it, then a slice."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.sets = [[Scan.read(pair) for pair in find_pairs(folder).pairs] for folder in folders]

    def draw(self, rng: np.random.Generator) -> tuple[Scan, int, int]:
        """A scan, an axis and the index of a slice that has labels."""
        scans = self.sets[rng.integers(len(self.sets))]
        scan = scans[rng.integers(len(scans))]
        axis = scan.axes[rng.integers(len(scan.axes))]
        return scan, axis, int(rng.choice(scan.used[axis]))


class RealViews(IterableDataset):
    """An endless stream of `View` from real scans.

    Parameters
    ----------
    scans : RealScans
    size : int
        Side of the network's input, pixels.
    targets : int
        Targets per view.
    seed : int
    """

    def __init__(self, scans: RealScans, size: int, targets: int = 4, seed: int = 0) -> None:
        self.scans, self.size, self.targets, self.seed = scans, size, targets, seed

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, 11, worker.id if worker else 0))
        while True:
            scan, axis, index = self.scans.draw(rng)
            image, labels = scan.slice(axis, index)
            masks = _regions(rng, image) if rng.random() < REGIONS_ONLY else _structures(rng, labels)
            image = scanned_again(rng, image)
            masks = [mask for mask in masks if is_seen(image, mask, 0.02, FAINTEST)]
            for _ in range(VIEWS_PER_SCENE if masks else 0):
                view = look_at(rng, image, masks, self.targets, self.size)
                if view is not None:
                    yield view


class RealClips(IterableDataset):
    """An endless stream of clips from real volumes, as `lib.trainers.views.GeneratedClips` makes them."""

    def __init__(self, scans: RealScans, size: int, frames: int = 4, seed: int = 0) -> None:
        self.scans, self.size, self.frames, self.seed = scans, size, frames, seed

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, 13, worker.id if worker else 0))
        while True:
            scan, axis, index = self.scans.draw(rng)
            step = int(rng.integers(1, 6)) * int(rng.choice([-1, 1]))
            centre = None
            if rng.random() < TO_THE_END:
                centre, index, step = _to_the_end(rng, scan.areas[axis], index, self.frames)
            indices = [index + t * step for t in range(self.frames)]
            if not 0 <= indices[-1] < scan.count(axis):
                continue
            first, labels = scan.slice(axis, index)
            values, counts = np.unique(labels, return_counts=True)
            values = rng.permutation(values[(counts > 60) & (values > 0) & (values != centre)])[:8]
            slices = [(first, labels), *(scan.slice(axis, i) for i in indices[1:])]
            groups = [_with_neighbours(rng, labels, int(value)) for value in values]
            if centre is not None:
                groups.insert(0, [centre])
            if rng.random() < ALL_TOGETHER:
                groups.insert(0, list(np.flatnonzero(scan.areas[axis].any(0))[1:]))
            structures = [[np.isin(shown, group) for _, shown in slices] for group in groups]
            if rng.random() < FAINT_CLIPS:
                structures = [s for s in structures if always_there(s)]
            else:
                structures = [s for s in structures if is_seen(first, s[0], 0.02, FAINTEST)]
            if not structures:
                continue
            look = int(rng.integers(2**31))  # one scanner for all slices
            images = [scanned_again(np.random.default_rng(look), image) for image, _ in slices]
            yield clip_view(rng, images, structures, 0, self.size)


def _areas(labels: np.ndarray) -> np.ndarray:
    """Voxels of each label on each slice: (K, A, B) -> (K, labels + 1)."""
    most = int(labels.max(initial=0)) + 1
    return np.stack([np.bincount(plane.ravel(), minlength=most) for plane in labels])


def _structures(rng: np.random.Generator, labels: np.ndarray) -> list[np.ndarray]:
    """Pieces of labelled structures; now and then of two neighbours as one."""
    labelled = labels > 0
    found = []
    for value in rng.permutation(np.unique(labels[labelled]))[:12]:
        mask = labels == value
        if rng.random() < 0.15:
            beside = np.unique(labels[ndimage.binary_dilation(mask, iterations=2)])
            mask = mask | (labels == rng.choice(beside)) if beside.min() > 0 else mask
        found += large_pieces(mask)
    if rng.random() < ALL_TOGETHER:
        found += large_pieces(labelled)
    return found


def _to_the_end(rng: np.random.Generator, areas: np.ndarray, index: int, frames: int) -> tuple[int, int, int]:
    """A label of a slice, the slice where it is largest, and a step that leaves it on a clip's last slices.

    Parameters
    ----------
    areas : ndarray (slices, labels + 1)
    """
    label = int(rng.choice(np.flatnonzero(areas[index, 1:]) + 1))
    largest = int(areas[:, label].argmax())
    there, forwards = np.flatnonzero(areas[:, label]), int(rng.choice([-1, 1]))
    left = (there[-1] - largest if forwards > 0 else largest - there[0]) + 1
    step = int(np.ceil(left / max(1, frames - 1 - int(rng.integers(0, 3)))))
    return label, largest, min(step, FARTHEST) * forwards


def _with_neighbours(rng: np.random.Generator, labels: np.ndarray, value: int) -> list[int]:
    """A label, now and then with labels that touch it: an atlas divides finer than people ask.

    Parameters
    ----------
    labels : ndarray (H, H)
        Of one slice, with the label.
    """
    group = [value]
    while len(group) < MOST_TOGETHER and rng.random() < TOGETHER:
        ring = ndimage.binary_dilation(np.isin(labels, group), iterations=2)
        beside = np.setdiff1d(labels[ring], [0, *group])
        if not len(beside):
            break
        group.append(int(rng.choice(beside)))
    return group


def _regions(rng: np.random.Generator, image: np.ndarray) -> list[np.ndarray]:
    """Pieces of like intensity after a blur: what a person sees as one thing whatever it is called."""
    grey = ndimage.gaussian_filter(image.mean(2), rng.uniform(0.7, 3.0))
    inside = grey[grey > 8]
    if not len(inside):
        return []
    edges = np.unique(np.quantile(inside, np.sort(rng.uniform(0.05, 0.95, int(rng.integers(1, 4))))))
    bands = np.digitize(grey, edges)
    found = []
    for band in np.unique(bands):
        mask = ndimage.binary_opening(bands == band, iterations=1)
        if rng.random() < 0.5:
            mask = ndimage.binary_fill_holes(mask)
        found += large_pieces(mask)
    return found


def large_pieces(mask: np.ndarray, least: int = max(MIN_AREA, 30)) -> list[np.ndarray]:
    """The connected pieces of a mask that can be asked for, of `least` pixels at least; the largest eight."""
    numbered, _ = ndimage.label(mask)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    order = np.argsort(-sizes)[:8]
    return [numbered == n for n in order if least <= sizes[n] < 0.6 * mask.size]


def scanned_again(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Half of the images as they are, the others as another scanner and window would show them."""
    if rng.random() < 0.5:
        return image
    return acquire(rng, image.mean(2).astype(np.float32) / 255, difficulty=rng.uniform(0, 0.5))
