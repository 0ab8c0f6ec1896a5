"""A bounded cache of what the image encoder made of pixels, signed by those pixels."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Embedding:
    """The encoder's answer for one square.

    Attributes
    ----------
    levels : tuple of Tensor (N, C, H, W)
        `backbone_fpn` of `SAM2Base.forward_image`: stride 4, 8 and 16, the first two already projected for
        the mask decoder; of one picture or, N = 2, of the same picture turned as well.
    key : str
        Signature of the pixels, the network and its input size.
    """

    levels: tuple[torch.Tensor, ...]
    key: str

    @property
    def ways(self) -> int:
        return len(self.levels[0])

    @property
    def nbytes(self) -> int:
        return sum(level.numel() * level.element_size() for level in self.levels)


def signature(pixels: np.ndarray, *context: object) -> str:
    """Signature of an embedding.

    The pixels are those that the network sees: 8 bit, after the window, cut to the view. Image, slice and
    window are therefore in it without being named, and a stale entry cannot be found by any key.

    Parameters
    ----------
    pixels : ndarray uint8, (H, W) or (H, W, 3)
    context
        What else the embedding depends on: checkpoint version, input size.
    """
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((pixels.shape, *context)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings by signature, at most `max_bytes` of them, least recently used out first. Thread-safe.

    An embedding larger than the whole budget is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._entries: OrderedDict[str, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Embedding | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, embedding: Embedding) -> None:
        with self._lock:
            old = self._entries.pop(embedding.key, None)
            self.nbytes -= old.nbytes if old else 0
            if embedding.nbytes > self.max_bytes:
                return
            self._entries[embedding.key] = embedding
            self.nbytes += embedding.nbytes
            while self.nbytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.nbytes -= oldest.nbytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.nbytes = 0
