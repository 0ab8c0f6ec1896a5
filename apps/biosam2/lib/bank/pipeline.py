"""An image -> all structures of the label bank in it, with what is needed to say how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.bank.bank import LabelBank, middle
from lib.sam.exemplars import Memories, pooled
from lib.sam.memory import Planes
from lib.sam.model import Model
from lib.sam.search import Found, find


@dataclass(frozen=True, eq=False)
class Prelabel:
    """All structures on all slices of an image.

    Attributes
    ----------
    labels : ndarray uint8 or uint16 (K, A, B)
        Slice by slice: 0, and the index of the structure that is surest of the voxel.
    found : dict of str to list of Found
        By structure and slice.
    indexes : dict of str to int
        By structure.
    embedding : ndarray float32 (C,)
        Of the image.
    """

    labels: np.ndarray
    found: Mapping[str, list[Found]]
    indexes: Mapping[str, int]
    embedding: np.ndarray


def prelabel(
    model: Model,
    planes: Planes,
    count: int,
    bank: LabelBank,
    memories: Memories,
    image: Path | None = None,
    only: Callable[[str], bool] = lambda _: True,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Prelabel:
    """Find the structures of the bank in an image.

    Parameters
    ----------
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    count : int
        Slices.
    image : Path, optional
        Its file: its own label, if it has one, is not used.
    only : callable, optional
        Whether a structure is asked for.
    progress, cancelled
        See `lib.sam.search.find`.

    Raises
    ------
    Cancelled
    """
    embeddings = np.stack([pooled(model, planes(index)) for index in range(count)])
    indexes = {name: index for name, index in bank.structures().items() if only(name)}
    kind = np.uint8 if max(indexes.values(), default=0) < 256 else np.uint16
    shape = planes(0).shape[:2]
    labels, sure = np.zeros((count, *shape), kind), np.zeros((count, *shape), np.float16)
    known = bank.sought(model, embeddings, image)
    found = find(model, planes, embeddings, known, memories, only, progress, cancelled)
    for name, slices in found.items():
        for index, one in enumerate(slices):
            better = one.mask & (one.logits > sure[index])
            labels[index][better] = indexes[name]
            sure[index][better] = one.logits[better]
    return Prelabel(labels, found, indexes, middle(embeddings))
