"""Training samples: generated scenes seen through the windows that inference uses, several targets each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lib.trainers.generated import CONTRAST, acquire, generate_clip, generate_scene, is_seen

VIEWS_PER_SCENE = 6  # a scene costs more than a look at it
FAINT = 0.25  # see generated.CONTRAST


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
    """
    centre = int(rng.integers(len(masks)))
    rows, columns = np.flatnonzero(masks[centre].any(1)), np.flatnonzero(masks[centre].any(0))
    window = _window(rng, rows, columns, limit=image.shape[0])
    if masks[centre][window].mean() < least_area:
        return None
    chosen = [centre]
    for other in rng.permutation(len(masks)):
        if len(chosen) == targets:
            break
        if other != centre and least_area < masks[other][window].mean() < 0.6:
            chosen.append(int(other))
    shown = np.stack([masks[chosen[i % len(chosen)]][window] for i in range(targets)])
    return _augment(rng, image[window], shown, size)


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


def _augment(rng, image: np.ndarray, masks: np.ndarray, size: int, plain: bool = False) -> View:
    """Scale to the network's size as inference does; unless `plain`, also flips, turns and contrast."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(
        pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    # masks are smooth shapes sampled on a coarse grid: bilinear and a threshold keep their borders smooth
    shapes = torch.from_numpy(masks.astype(np.float32))[None]
    shapes = torch.nn.functional.interpolate(shapes, (size, size), mode="bilinear", align_corners=False)
    stack = torch.cat([pixels[0], (shapes[0] > 0.5).float() * 255]).clamp(0, 255).byte().numpy()
    if not plain:
        stack = stack[:, ::-1] if rng.random() < 0.5 else stack
        stack = np.rot90(stack, int(rng.integers(4)), (1, 2))
        if rng.random() < 0.2:
            stack = np.concatenate([255 - stack[:3], stack[3:]])
    return View(
        np.ascontiguousarray(stack[:3].transpose(1, 2, 0)), np.ascontiguousarray(stack[3:] > 127, np.uint8)
    )


class GeneratedClips(IterableDataset):
    """An endless stream of clips: uint8 (F, S, S, 3) images and (F, S, S) masks of one structure.

    The structure is on the first slice; later ones may be without it.
    """

    def __init__(self, size: int, frames: int = 4, seed: int = 0) -> None:
        self.size, self.frames, self.seed = size, frames, seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, 7, worker.id if worker else 0))
        while True:
            images, masks = generate_clip(rng, self.frames)
            good = [m for m in masks if m[0].sum() > 60 and m[0].mean() < 0.5 and is_seen(images[0], m[0])]
            # ends are what is hardest to see: every other clip has one, where there is one
            ending = [m for m in good if not all(mask.any() for mask in m)]
            for chosen in (ending if ending and rng.random() < 0.5 else good)[:2]:
                yield clip_view(rng, images, chosen, self.size)


def clip_view(
    rng: np.random.Generator, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slices of one structure through one window around where it is on the first of them.

    `images` are uint8 (H, H, 3), `masks` bool (H, H), the first not empty. Returns uint8 (F, S, S, 3) and
    (F, S, S).
    """
    rows, columns = np.flatnonzero(masks[0].any(1)), np.flatnonzero(masks[0].any(0))
    window = _window(rng, rows, columns, images[0].shape[0])
    views = [
        _augment(rng, image[window], mask[window][None], size, plain=True)
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.stack([v.image for v in views]), np.stack([v.masks[0] for v in views])


class Mixed(IterableDataset):
    """Samples of two endless streams, `share` of them of the second."""

    def __init__(self, first: IterableDataset, second: IterableDataset, share: float, seed: int = 0) -> None:
        self.streams, self.share, self.seed = (first, second), share, seed

    def __iter__(self) -> Iterator:
        rng = np.random.default_rng((self.seed, 17))
        streams = [iter(stream) for stream in self.streams]
        while True:
            yield next(streams[int(rng.random() < self.share)])
