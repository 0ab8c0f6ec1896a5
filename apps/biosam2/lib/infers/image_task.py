"""What the infer tasks share: request -> volume and window; label maps -> the file that clients expect."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib import work
from lib.errors import UserError
from lib.imaging.answer import DTYPES, EXTENSIONS, PNG_DTYPES, write_mask
from lib.imaging.store import load_cached
from lib.imaging.volume import Volume
from lib.imaging.window import PRESETS, Window, choose_window, to_uint8
from lib.sam.model import Model, ModelSlot
from lib.settings import Settings

logger = logging.getLogger(__name__)

Asked = TypeVar("Asked")


class Stopwatch:
    """Seconds spent in the parts of a request, as MONAI Label's clients show them."""

    def __init__(self) -> None:
        self.latencies: dict[str, float] = {}
        self._begin = self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap as `part`."""
        now = time.perf_counter()
        self.latencies[part] = round(self.latencies.get(part, 0.0) + now - self._since, 4)
        self._since = now

    def total(self) -> dict[str, float]:
        return {**self.latencies, "total": round(time.perf_counter() - self._begin, 4)}


class ImageTask(InferTask, Generic[Asked]):
    """A MONAI Label infer task that answers with a label map; the tasks differ in `read` and `answer`.

    Parameters
    ----------
    slot : ModelSlot
        The served model; the tasks share it, and with it the embeddings.
    settings : Settings
    dimension : 2 or 3
    kind : InferType
        Decides where clients list it.
    description : str
    """

    def __init__(
        self,
        slot: ModelSlot,
        settings: Settings,
        dimension: Literal[2, 3],
        kind: InferType,
        description: str,
    ) -> None:
        super().__init__(
            type=kind,
            labels=list(settings.labels),
            dimension=dimension,
            description=description,
            # clients send the first of each list back unless the person chose another
            config={"device": [str(slot.device)], "window": ["auto", *PRESETS]},
        )
        self.slot = slot
        self.settings = settings

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The served checkpoint file, which MONAI Label offers at `GET /model/{name}`."""
        return str(self.slot.path) if self.slot.path.exists() or not validate else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Answer one request.

        Parameters
        ----------
        request : mapping
            `image` is the path of the image; the rest is what the client sent.

        Returns
        -------
        file : str
            A label map on the image's grid: 0 and the index of each structure.
        params : dict
            `label_names`, `score`, `checkpoint`, `latencies`, `cached`; `warnings` if the image has any; over
            HTTP, `request_id`.

        Raises
        ------
        UserError
            If the request cannot be answered as it is.
        Cancelled
            If nobody wants the answer any more.
        """
        watch = Stopwatch()
        work.stop_if_cancelled()
        self._check_device(request.get("device"))
        volume = load_cached(Path(str(request["image"])))
        watch.lap("load")
        asked = self.read(request, volume)
        window = choose_window(volume, _asked_window(request))
        extension, dtype, compress = _asked_file(request, volume)
        watch.lap("pre")

        work.stop_if_cancelled()
        model = self.slot.get()
        masks, label_names, details = self.answer(model, volume, window, asked)
        watch.lap("infer")
        work.stop_if_cancelled()
        file = write_mask(masks, volume, extension, dtype, compress)
        work.remove_afterwards(file)
        watch.lap("write")
        params = {
            "label_names": label_names,
            "checkpoint": {"name": model.checkpoint.name, "version": model.checkpoint.version},
            "latencies": watch.total(),
            **details,
        }
        if volume.warnings:
            params["warnings"] = list(volume.warnings)
        current = work.current()
        if current:
            params["request_id"] = current.id
        logger.info("%s: %s in %s", self.description, params["label_names"], params["latencies"])
        return str(file), params

    def _check_device(self, asked: object) -> None:
        """Refuse another device than the one served: running elsewhere without a word would be no answer."""
        served = self.slot.device
        if asked not in (None, "", str(served), served.type):
            raise UserError(f'device "{str(asked)[:80]}" is not served here; this server runs on {served}.')

    def read(self, request: Mapping[str, Any], volume: Volume) -> Asked:
        """What the request asks of the image; before anything that takes long."""
        raise NotImplementedError

    def answer(
        self, model: Model, volume: Volume, window: Window, asked: Asked
    ) -> tuple[np.ndarray, dict[str, int], dict[str, Any]]:
        """A label map (I, J, K), the structures' indexes in it, and what to report beside it."""
        raise NotImplementedError


class Slices:
    """The slices of a volume as the network sees them: 8 bit after the window."""

    def __init__(self, volume: Volume, window: Window, axis: int) -> None:
        self.volume, self.window, self.axis = volume, window, axis

    def __len__(self) -> int:
        return self.volume.shape3[self.axis]

    def __call__(self, index: int) -> np.ndarray:
        """Slice `index`: uint8 (A, B) or (A, B, 3)."""
        return to_uint8(self.volume.plane(index, self.axis), self.window)


def blank(volume: Volume, count: int) -> np.ndarray:
    """An empty label map (I, J, K) for `count` objects, in the memory order that files have."""
    return np.zeros(volume.shape3, np.uint8 if count < 256 else np.uint16, order="F")


def paste(labels: np.ndarray, axis: int, index: int, mask: np.ndarray, value: int) -> None:
    """Write one object's mask (A, B) into slice `index` of a label map; objects already there stay."""
    place: list[Any] = [slice(None)] * 3
    place[axis] = index
    plane = labels[tuple(place)]
    plane[mask & (plane == 0)] = value


def _asked_window(request: Mapping[str, Any]) -> object:
    window = request.get("window")
    return None if window in (None, "", "auto") else window


def _asked_file(request: Mapping[str, Any], volume: Volume) -> tuple[str, str, bool]:
    """File ending, voxel type and compression of the answer; checked before the work, not after it."""
    default = {"raster": ".png", "nrrd": ".nrrd"}.get(volume.kind, ".nii.gz")
    if default == ".png" and volume.n_slices > 1:
        default = ".nii.gz"
    extension = str(request.get("result_extension") or default).strip().lower()
    if not extension.startswith("."):
        extension = f".{extension}"
    if extension not in EXTENSIONS:
        raise UserError(f"result_extension must be one of {', '.join(EXTENSIONS)}, not {extension[:80]}.")
    if extension == ".png" and volume.n_slices > 1:
        raise UserError(
            f"result_extension .png holds one slice, and the image has {volume.n_slices}: "
            "send .nii.gz or .nrrd."
        )
    dtype = str(request.get("result_dtype") or "uint8").strip().lower()
    allowed = PNG_DTYPES if extension == ".png" else DTYPES
    if dtype not in allowed:
        known = ", ".join(allowed)
        raise UserError(f"result_dtype must be one of {known} for {extension}, not {dtype[:80]}.")
    compress = str(request.get("result_compress", True)).lower() not in ("false", "0", "no")
    return extension, dtype, compress
