"""Training samples: generated scenes seen through the windows that inference uses, several targets each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lib.trainers.generated import acquire, generate_scene, is_seen

VIEWS_PER_SCENE = 4  # a scene costs more than a look at it


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
    least : float
        Share of the view that a target covers at least; large ones first makes a fresh network start.
    """

    def __init__(self, size: int, targets: int = 4, seed: int = 0, least: float = 0.003) -> None:
        self.size, self.targets, self.seed, self.least = size, targets, seed, least

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield from self.views(rng)

    def views(self, rng: np.random.Generator) -> Iterator[View]:
        """The views of one freshly drawn scene; none if nothing in it can be seen."""
        scene = generate_scene(rng)
        if not scene.masks:
            return
        image = acquire(rng, scene.image)
        extents = [(np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))) for m in scene.masks]
        for _ in range(VIEWS_PER_SCENE):
            centre = int(rng.integers(len(scene.masks)))
            if not is_seen(image, scene.masks[centre]):
                continue
            window = _window(rng, *extents[centre], limit=image.shape[0])
            if scene.masks[centre][window].mean() < self.least:
                continue
            chosen = [centre]
            for other in rng.permutation(len(scene.masks)):
                if len(chosen) == self.targets:
                    break
                part = scene.masks[other][window]
                if other != centre and self.least < part.mean() < 0.6 and is_seen(image, scene.masks[other]):
                    chosen.append(int(other))
            chosen = [chosen[i % len(chosen)] for i in range(self.targets)]
            masks = np.stack([scene.masks[c][window] for c in chosen])
            yield _augment(rng, image[window], masks, self.size)


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


def _augment(rng, image: np.ndarray, masks: np.ndarray, size: int) -> View:
    """Scale to the network's size as inference does, then flips, turns and contrast."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(
        pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    # masks are smooth shapes sampled on a coarse grid: bilinear and a threshold keep their borders smooth
    shapes = torch.from_numpy(masks.astype(np.float32))[None]
    shapes = torch.nn.functional.interpolate(shapes, (size, size), mode="bilinear", align_corners=False)
    stack = torch.cat([pixels[0], (shapes[0] > 0.5).float() * 255]).clamp(0, 255).byte().numpy()
    if rng.random() < 0.5:
        stack = stack[:, ::-1]
    stack = np.rot90(stack, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.2:
        stack = np.concatenate([255 - stack[:3], stack[3:]])
    return View(np.ascontiguousarray(stack[:3].transpose(1, 2, 0)), np.ascontiguousarray(stack[3:] > 127, np.uint8))
