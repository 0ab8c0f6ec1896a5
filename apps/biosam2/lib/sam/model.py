"""A network at work: its weights on a device, its embedding cache, and the context in which it runs."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.sam2_base import SAM2Base

from lib.errors import UserError
from lib.sam.checkpoints import Checkpoint, load_network
from lib.sam.embeddings import Embedding, EmbeddingCache, signature
from lib.sam.turns import Turns

logger = logging.getLogger(__name__)

# torchvision's ImageNet statistics, as in sam2/utils/transforms.py
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TRIM_EVERY = 100_000_000  # bytes of new embeddings; 6 slices at 1024
MAX_ANSWERS = 256  # remembered answers to earlier prompts: logits, 0.26 MB each at 1024, or masks as bits


class Model:
    """What `segment` and `propagate` work with.

    Parameters
    ----------
    network : SAM2Base
    checkpoint : Checkpoint
    device : str or torch.device
    cache_bytes : int
        Budget of the embedding cache, which lies on the same device.
    turns : Turns, optional
        Those of the device, where several models share one.
    """

    def __init__(
        self,
        network: SAM2Base,
        checkpoint: Checkpoint,
        device: str | torch.device,
        cache_bytes: int,
        turns: Turns | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.checkpoint = checkpoint
        self.cache = EmbeddingCache(cache_bytes)
        self.turns = turns or Turns()
        self.encoded = 0  # pictures that had to be encoded since the model was loaded
        self._untrimmed = 0  # bytes of embeddings made since freed memory was given back
        self._positions: list[torch.Tensor] | None = None
        self._answers: OrderedDict[tuple, Any] = OrderedDict()
        self._answers_lock = threading.Lock()

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.network.image_size

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inference, one caller at a time (see `lib.sam.turns` for who is next), in bf16 on CUDA.

        Entered where the work runs: autocast belongs to a thread, and requests come in on several.
        """
        with (
            self.turns.turn(),
            torch.inference_mode(),
            torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.type == "cuda"),
        ):
            yield

    def embed(self, pixels: np.ndarray) -> tuple[Embedding, bool]:
        """What the encoder makes of a picture, from the cache where it has been seen before.

        Parameters
        ----------
        pixels : ndarray uint8, (H, W) or (H, W, 3)
            The view as a picture: rows from top to bottom, columns from left to right.

        Returns
        -------
        embedding : Embedding
        hit : bool
            True when it came from the cache.
        """
        return self.embed_as(signature(pixels, self.checkpoint.version, self.size), lambda: pixels)

    def embed_as(self, key: str, pixels: Callable[[], np.ndarray]) -> tuple[Embedding, bool]:
        """The same under a key, for a picture that is made only if it has not been seen before.

        The key stands for the picture, the weights and the input size: see `signature`.
        """
        found = self.cache.get(key)
        if found is not None:
            return found, True
        with self.running():
            # whoever had the network before may have asked for the same picture
            found = self.cache.get(key)
            if found is not None:
                return found, True
            out = self.network.forward_image(square(pixels(), self.size).to(self.device))
            if self._positions is None:
                self._positions = out["vision_pos_enc"]
            self.encoded += 1
            embedding = Embedding(tuple(out["backbone_fpn"]), key)
            self.cache.put(embedding)
            self._untrimmed += embedding.nbytes
            if self.device.type == "cpu" and self._untrimmed >= TRIM_EVERY:
                self._untrimmed = 0
                _give_back_freed_memory()
        return embedding, False

    def flat(self, embedding: Embedding) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple]]:
        """An embedding in the form that `SAM2Base.track_step` takes: features, positions, grid sizes."""
        if self._positions is None:
            raise RuntimeError("no picture was embedded before")
        out = {"backbone_fpn": list(embedding.levels), "vision_pos_enc": list(self._positions)}
        _, features, positions, sizes = self.network._prepare_backbone_features(out)
        return features, positions, sizes

    def recall(self, key: tuple) -> Any:
        """What was remembered under a key, None if nothing was or it is forgotten."""
        with self._answers_lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
            return found

    def remember(self, key: tuple, answer: Any) -> None:
        """Keep an answer for `recall`; the least recently used of more than `MAX_ANSWERS` goes."""
        with self._answers_lock:
            self._answers[key] = answer
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)


def square(pixels: np.ndarray, size: int) -> torch.Tensor:
    """A picture as the network's input: scaled to a square, normalised (sam2's own transforms).

    Parameters
    ----------
    pixels : ndarray uint8, (H, W) or (H, W, 3)

    Returns
    -------
    Tensor float32 (1, 3, size, size)
    """
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)
    picture = picture[None] if picture.ndim == 2 else picture.movedim(-1, 0)
    picture = F.interpolate(picture[None], (size, size), mode="bilinear", align_corners=False, antialias=True)
    # gray is repeated after the scaling, which is a third of the work
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (picture.expand(1, 3, size, size) - mean) / std


def choose_device(name: str) -> torch.device:
    """The device of a setting: "auto" is CUDA where there is one.

    Raises
    ------
    UserError
        If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name} is not available on this server.") from error
    return device


def default_cache_bytes(device: torch.device) -> int:
    """Half a gigabyte of a CPU's memory (30 slices at 1024), or a quarter of what is free on a GPU."""
    if device.type != "cuda":
        return 500_000_000
    return torch.cuda.mem_get_info(device)[0] // 4


def _pause_between_blocks(network: SAM2Base, turns: Turns) -> None:
    """Have long work let short work go first between the blocks of the network, not only between its steps.

    At 1024 on a CPU, encoding a slice takes 2 s and a click 0.1 s. The blocks keep nothing from one call to
    the next, so that the two do not meet.
    """
    for module in network.modules():
        if isinstance(module, MultiScaleBlock | MemoryAttentionLayer):
            module.register_forward_pre_hook(lambda *_: turns.pause())


def _give_back_freed_memory() -> None:
    """Have the C library return what was freed to the system.

    Embeddings that stay lie among activations that come and go, and glibc keeps the holes: 250 MB for nothing
    at 1024. (Having it map every large block by itself, M_MMAP_THRESHOLD, avoids the holes as well, and makes
    a decode take 105 ms instead of 60.) Elsewhere than with glibc this does nothing.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        logger.debug("the C library has no malloc_trim")


class ModelSlot:
    """The served model of a checkpoint file; another file is picked up at the next request.

    Parameters
    ----------
    path : Path, or callable that returns one
        A callable says at every request which file is served then, and must be quick.
    device : str
    cache_bytes : int, optional
        Budget of the embedding cache; left out, what suits the device.
    image_size : int, optional
    """

    def __init__(
        self,
        path: Path | Callable[[], Path],
        device: str,
        cache_bytes: int | None = None,
        image_size: int | None = None,
    ) -> None:
        self._path, self.image_size = path, image_size
        self.device = choose_device(device)
        self.cache_bytes = default_cache_bytes(self.device) if cache_bytes is None else cache_bytes
        self._turns = Turns()  # the old model of a request that still runs and a new one share the device
        self._lock = threading.Lock()
        path = self.path
        self._used = self._tried = (path, self._stamp(path))
        self._model = self._load(path)

    @property
    def path(self) -> Path:
        """The file to serve now."""
        return self._path() if callable(self._path) else self._path

    def get(self) -> Model:
        """The model to use now.

        A file that cannot be read leaves the served model as it is: a half-copied checkpoint must not stop
        the annotators. It is tried again when it changes.
        """
        with self._lock:
            path = self.path
            file = path, self._stamp(path)
            if file[1] is not None and file != self._tried:
                self._tried = file
                # back to the one in use, from another that could not be read: nothing to do
                if file != self._used:
                    self._swap(path, file)
            return self._model

    def _swap(self, path: Path, file: tuple[Path, tuple[int, int, int] | None]) -> None:
        try:
            self._model, self._used = self._load(path), file
            logger.info("now serving %s", self._model.checkpoint)
        # the file may also go away meanwhile, or the device have no room for a second network
        except (UserError, OSError, RuntimeError) as error:
            logger.error("the new checkpoint is not used, the old one stays: %s", error)

    def _load(self, path: Path) -> Model:
        checkpoint, network = load_network(path, self.image_size)
        _pause_between_blocks(network, self._turns)
        return Model(network, checkpoint, self.device, self.cache_bytes, self._turns)

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int, int] | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
