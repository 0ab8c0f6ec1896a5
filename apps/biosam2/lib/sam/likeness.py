"""What an object looks like beside what is around it: a linear model of features, fitted on the way.

Memory tells a network what to look for; a young one takes what lies in the same place for the same thing.
Its features, made to tell borders, tell objects apart as well, and so do colours, which it may never have
learnt to see: the cells of the object against all the others of the same picture, by weighted least squares
(as Robinson et al., "Learning Fast and Robust Target Models for Video Object Segmentation", CVPR 2020, with a
closed form in place of their descent).
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from lib.sam.embeddings import Embedding

LEVELS = 0, 1  # of the encoder's features, of stride 4 and 8: the coarser one cannot tell what is small
RECENT = 5  # pictures that are remembered beside the lasting ones
LASTING = 0.5  # weight of the lasting ones together, against the recent ones
DAMPING = 0.003  # of each feature's own size
LEAST_CELLS = 2.0  # of the object, to learn from


class Likeness:
    """How much each cell of a picture looks like an object: 1 as the object does, -1 as what is around it."""

    def __init__(self) -> None:
        # of each picture: the products of its features with each other and with what they should say
        self._lasting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=RECENT)
        self._weights: torch.Tensor | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is a picture that it has learnt from."""
        return bool(self._lasting or self._recent)

    def learn(self, features: torch.Tensor, shape: torch.Tensor, lasting: bool = False) -> None:
        """Learn from a picture, and forget the oldest one that is not lasting.

        Parameters
        ----------
        features : Tensor (C, h, w)
            See `features_of`.
        shape : Tensor float32 (1, 1, h, w)
            The object on the same picture, 0 to 1.
        lasting : bool
            Whether it is a person who says so.
        """
        cells = F.adaptive_avg_pool2d(shape, (features.shape[1], features.shape[2])).flatten().to(features)
        if float(cells.sum()) < LEAST_CELLS:
            return
        flat = features.flatten(1)
        # the object counts as much as everything else
        weight = cells / cells.sum() + (1 - cells) / (1 - cells).sum().clamp(min=1e-3)
        told = (flat * weight) @ flat.T, (flat * weight) @ (2 * cells - 1)
        if lasting:
            self._lasting.append(told)
        else:
            self._recent.append(told)
        self._weights = None

    def of(self, features: torch.Tensor) -> torch.Tensor:
        """How much each cell looks like it, float32 (1, 1, h, w), from -1 to 1.

        Raises
        ------
        ValueError
            If it has learnt nothing.
        """
        if self._weights is None:
            self._weights = self._fit()
        return torch.einsum("c,chw->hw", self._weights, features).clamp(-1, 1)[None, None]

    def _fit(self) -> torch.Tensor:
        kinds = [(LASTING, self._lasting), (1 - LASTING, list(self._recent))]
        shares = [(share / len(told), told) for share, told in kinds if told]
        if not shares:
            raise ValueError("there is no picture that this could have been learnt from")
        products = torch.stack([share * one for share, told in shares for one, _ in told]).sum(0)
        targets = torch.stack([share * one for share, told in shares for _, one in told]).sum(0)
        damped = (
            products
            + DAMPING * torch.diag(products.diagonal())
            + 1e-6 * torch.eye(len(products)).to(products)
        )
        return torch.linalg.solve(damped, targets)


def mean_over(likeness: torch.Tensor, shape: torch.Tensor) -> float:
    """The mean likeness of an object's cells; -1 if there are none.

    Parameters
    ----------
    likeness : Tensor (1, 1, h, w)
    shape : Tensor (1, 1, H, W)
        The object, 0 to 1, on a grid of its own.
    """
    cells = F.adaptive_avg_pool2d(shape, (likeness.shape[-2], likeness.shape[-1])).to(likeness)
    total = float(cells.sum())
    return float((likeness * cells).sum()) / total if total > 0 else -1.0


def mean_features(embedding: Embedding, shape: torch.Tensor) -> torch.Tensor:
    """What a structure looks like on the whole: the mean of the encoder's coarsest features over it, (C,).

    Parameters
    ----------
    embedding : Embedding
        Of the picture; if that was seen in two ways, of the first one.
    shape : Tensor float32 (1, 1, H, W)
        The structure on the same picture, 0 to 1.
    """
    features = embedding.levels[-1][0].float()
    weight = F.interpolate(shape, features.shape[-2:], mode="area")[0, 0]
    return (features * weight).sum((1, 2)) / weight.sum().clamp(min=1e-3)


def peaks(likeness: np.ndarray, radius: float, count: int) -> list[tuple[tuple[float, float], float]]:
    """The places that look most like an object of a radius: (row, column) and how much, the best one first.

    Parameters
    ----------
    likeness : ndarray (h, w)
    radius : float
        In cells.
    count : int
        At most so many; they are more than a diameter apart.
    """
    smooth = ndimage.gaussian_filter(likeness, max(0.6, 0.4 * radius), mode="nearest")
    found: list[tuple[tuple[float, float], float]] = []
    rows, columns = np.indices(smooth.shape)
    left = smooth.copy()
    while len(found) < count:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        if not np.isfinite(left[row, column]):
            break
        found.append(((float(row), float(column)), float(left[row, column])))
        left[np.hypot(rows - row, columns - column) <= 2 * radius + 1] = -np.inf
    return found


def features_of(embedding: Embedding, pixels: np.ndarray) -> torch.Tensor:
    """What tells the cells of a picture apart: (C, h, w), one cell for 4 x 4 pixels of the network's input.

    Parameters
    ----------
    embedding : Embedding
        Of the picture; if that was seen in two ways, of the first one.
    pixels : ndarray uint8, (H, W) or (H, W, 3)
        The picture.
    """
    levels = [embedding.levels[number][:1].float() for number in LEVELS]
    grid = levels[0].shape[-2:]
    colours = torch.from_numpy(pixels).to(levels[0]) / 127.5 - 1
    colours = colours[None, None] if colours.ndim == 2 else colours.movedim(-1, 0)[None]
    colours = F.interpolate(colours, grid, mode="bilinear", align_corners=False, antialias=True)
    # the same thing is as bright against its picture when the light fades
    spread, middle = torch.std_mean(colours, (2, 3), keepdim=True)
    colours = (colours - middle) / (2 * spread + 0.002)
    around = F.avg_pool2d(colours, 5, 1, 2, count_include_pad=False)
    upsampled = [F.interpolate(level, grid, mode="bilinear", align_corners=False) for level in levels]
    parts = [*upsampled, colours, around, colours**2, around**2, torch.ones_like(colours[:, :1])]
    return torch.cat(parts, 1)[0]
