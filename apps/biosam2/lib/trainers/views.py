"""Training samples: generated scenes seen through the windows that inference uses, several targets each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lib.imaging.window import stretched
from lib.trainers.generated import CONTRAST, acquire, generate_clip, generate_scene, is_seen

VIEWS_PER_SCENE = 6  # a scene costs more than a look at it
FAINT = 0.25  # see generated.CONTRAST
# share of the clips about what may not be seen: it can be followed, but nobody could tell where it ends
FAINT_CLIPS = 0.15
FAINT_ENDS = 0.25  # share of the clips about what hardly stands out, whether it ends or not
HIDDEN = 0.05  # share of the views that show structures which nobody could see
STRETCHED = 0.5  # share of the views in a window of their own: inference looks both ways
TARGETS_A_CLIP = 3  # the slices are encoded once for all of them


class View(NamedTuple):
    """One image and its targets, ready for the network.

    image : uint8 (S, S, 3); masks : uint8 (T, S, S), 0 or 1, T targets of the same image.
    """

    image: np.ndarray
    masks: np.ndarray


class GeneratedViews(IterableDataset):
    """An endless stream of `View`, the same for the same seed and number of workers.

    Parameters
    ----------
    size : int
        Side of the network's input, pixels.
    targets : int
        Targets per view.
    seed : int
    easy : int
        This many views, per worker, become harder from one to the next: from large, clean structures of high
        contrast to all of them. A fresh network learns what a prompt means from the easy ones.
    """

    def __init__(self, size: int, targets: int = 4, seed: int = 0, easy: int = 0) -> None:
        self.size, self.targets, self.seed, self.easy = size, targets, seed, easy

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        count = 0
        while True:
            for view in self.views(rng, min(1.0, count / self.easy) if self.easy else 1.0):
                count += 1
                yield view

    def views(self, rng: np.random.Generator, difficulty: float = 1.0) -> Iterator[View]:
        """The views of one freshly drawn scene; none if nothing in it can be seen."""
        scene = generate_scene(rng, difficulty=difficulty)
        if not scene.masks:
            return
        image = acquire(rng, scene.image, difficulty)
        # now and then also what hardly stands out: a box says where it is all the same
        contrast = FAINT if difficulty == 1 and rng.random() < 0.25 else CONTRAST
        if difficulty == 1 and rng.random() < HIDDEN:
            contrast = -1.0  # all that is left is a box, and what fits into boxes
        least_area, least = (
            0.003 + 0.02 * (1 - difficulty),
            (0.06 + 0.2 * (1 - difficulty)) * contrast / CONTRAST,
        )
        masks = [mask for mask in scene.masks if is_seen(image, mask, least, contrast)]
        for _ in range(VIEWS_PER_SCENE if masks else 0):
            view = look_at(rng, image, masks, self.targets, self.size, least_area)
            if view is not None:
                yield view


def look_at(
    rng: np.random.Generator,
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    targets: int,
    size: int,
    least_area: float = 0.003,
    centre: int | None = None,
) -> View | None:
    """One look at one of the structures of a square image, and at others that are in sight.

    Parameters
    ----------
    image : ndarray uint8 (H, H, 3)
    masks : sequence of ndarray bool (H, H), none empty
    targets : int
        Targets of the view; with fewer structures in sight they repeat.
    size : int
        Side of the network's input, pixels.
    least_area : float
        Share of the view that a structure must have; None is returned if the chosen one has less.
    centre : int, optional
        The structure to look at; drawn when left out.
    """
    centre = int(rng.integers(len(masks))) if centre is None else centre
    rows, columns = np.flatnonzero(masks[centre].any(1)), np.flatnonzero(masks[centre].any(0))
    window = _window(rng, rows, columns, limit=image.shape[0])
    if masks[centre][window].mean() < least_area:
        return None
    chosen = _in_sight(rng, masks, centre, window, targets, least_area)
    shown = np.stack([masks[chosen[i % len(chosen)]][window] for i in range(targets)])
    part = stretched(image[window]) if rng.random() < STRETCHED else image[window]
    return turned(rng)(resized(part, shown, size))


def _in_sight(
    rng: np.random.Generator,
    masks: Sequence[np.ndarray],
    centre: int,
    window: tuple[slice, slice],
    most: int,
    least_area: float,
) -> list[int]:
    """The structure that a window was made for and others in it, at most `most`; indices of `masks`."""
    chosen = [centre]
    for other in rng.permutation(len(masks)):
        if len(chosen) == most:
            break
        if other != centre and least_area < masks[other][window].mean() < 0.6:
            chosen.append(int(other))
    return chosen


def _window(rng, rows: np.ndarray, columns: np.ndarray, limit: int) -> tuple[slice, slice]:
    """A square around a structure, from one that it nearly fills to the whole scene."""
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = limit if rng.random() < 0.15 else int(extent * np.exp(rng.uniform(np.log(1.3), np.log(5.0))))
    side = int(np.clip(side, 40, limit))
    starts = []
    for line in (rows, columns):
        middle = (line[0] + line[-1] + 1) / 2 + rng.uniform(-0.5, 0.5) * max(0.0, side - extent)
        starts.append(int(np.clip(middle - side / 2, 0, limit - side)))
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def resized(image: np.ndarray, masks: np.ndarray, size: int) -> np.ndarray:
    """Colours and masks scaled as inference does it: uint8 (3 + T, S, S), the masks 0 or 255."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(
        pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    # masks are smooth shapes sampled on a coarse grid: bilinear and a threshold keep their borders smooth
    shapes = torch.from_numpy(masks.astype(np.float32))[None]
    shapes = torch.nn.functional.interpolate(shapes, (size, size), mode="bilinear", align_corners=False)
    return torch.cat([pixels[0], (shapes[0] > 0.5).float() * 255]).clamp(0, 255).byte().numpy()


def turned(rng: np.random.Generator) -> Callable[[np.ndarray], View]:
    """A flip, a quarter turn and sometimes the negative: the same ones for every slice of a clip."""
    flip, turns, negative = rng.random() < 0.5, int(rng.integers(4)), rng.random() < 0.2

    def turn(stack: np.ndarray) -> View:
        stack = np.rot90(stack[:, ::-1] if flip else stack, turns, (1, 2))
        if negative:
            stack = np.concatenate([255 - stack[:3], stack[3:]])
        return View(
            np.ascontiguousarray(stack[:3].transpose(1, 2, 0)),
            np.ascontiguousarray(stack[3:] > 127, np.uint8),
        )

    return turn


class GeneratedClips(IterableDataset):
    """An endless stream of clips: uint8 (F, S, S, 3) images and (T, F, S, S) masks of T structures.

    The structures are on the first slice; later ones may be without them.
    """

    def __init__(self, size: int, frames: int = 4, seed: int = 0) -> None:
        self.size, self.frames, self.seed = size, frames, seed

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, 7, worker.id if worker else 0))
        while True:
            images, masks = generate_clip(rng, self.frames)
            good = [m for m in masks if m[0].sum() > 60 and m[0].mean() < 0.5]
            kind = rng.random()
            if kind < FAINT_CLIPS:
                good = [m for m in good if always_there(m)]
            else:
                # a faint structure ends as well: its shape says where
                contrast = FAINT if kind < FAINT_CLIPS + FAINT_ENDS else CONTRAST
                good = [m for m in good if is_seen(images[0], m[0], 0.06 * contrast / CONTRAST, contrast)]
            if not good:
                continue
            # ends are what is hardest to see: every other clip is about one, where there is one
            ending = [n for n, m in enumerate(good) if not always_there(m)]
            centre = ending[0] if ending and rng.random() < 0.5 else 0
            yield clip_view(rng, images, good, centre, self.size)


def always_there(masks: Sequence[np.ndarray]) -> bool:
    """Whether a structure is on every slice of a clip."""
    return all(mask.any() for mask in masks)


def clip_view(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    structures: Sequence[Sequence[np.ndarray]],
    centre: int,
    size: int,
) -> View:
    """Slices of some structures through one window around where one of them is on the first slice.

    Parameters
    ----------
    images : sequence of ndarray uint8 (H, H, 3), one a slice
    structures : sequence, one a structure, of sequences of ndarray bool (H, H), one a slice
        None is empty on the first slice.
    centre : int
        The structure that the window is made for.

    Returns
    -------
    View
        image (F, S, S, 3), masks (T, F, S, S); with fewer structures in sight they repeat.
    """
    first = [structure[0] for structure in structures]
    rows, columns = np.flatnonzero(first[centre].any(1)), np.flatnonzero(first[centre].any(0))
    window = _window(rng, rows, columns, images[0].shape[0])
    chosen = _in_sight(rng, first, centre, window, TARGETS_A_CLIP, 0.005)
    turn, stretch = turned(rng), rng.random() < STRETCHED
    views = []
    for t, image in enumerate(images):
        shown = np.stack([structures[n][t][window] for n in chosen])
        part = stretched(image[window]) if stretch else image[window]
        views.append(turn(resized(part, shown, size)))
    masks = np.stack([view.masks for view in views], 1)
    return View(np.stack([view.image for view in views]), masks[np.arange(TARGETS_A_CLIP) % len(chosen)])


class Mixed(IterableDataset):
    """Samples of two endless streams, `share` of them of the second."""

    def __init__(self, first: IterableDataset, second: IterableDataset, share: float, seed: int = 0) -> None:
        self.streams, self.share, self.seed = (first, second), share, seed

    def __iter__(self) -> Iterator:
        rng = np.random.default_rng((self.seed, 17))
        streams = [iter(stream) for stream in self.streams]
        while True:
            yield next(streams[int(rng.random() < self.share)])
