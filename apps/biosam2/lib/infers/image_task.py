"""What the infer tasks share: request -> volume and window; label maps -> the file that clients expect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from lib import work
from lib.errors import UserError
from lib.imaging.answer import DTYPES, EXTENSIONS, PNG_DTYPES, write_mask
from lib.imaging.store import load_cached
from lib.imaging.volume import Volume
from lib.imaging.window import Window, choose_window, to_uint8
from lib.infers.task import SamTask, Stopwatch, asked_compress, asked_dtype, asked_extension, asked_window
from lib.sam.model import Model

Asked = TypeVar("Asked")


class ImageTask(SamTask, Generic[Asked]):
    """A task that answers with a label map; the tasks differ in `read` and `answer`."""

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
        self.check_device(request.get("device"))
        volume = load_cached(Path(str(request["image"])))
        watch.lap("load")
        asked = self.read(request, volume)
        window = choose_window(volume, asked_window(request))
        extension, dtype, compress = asked_file(request, volume)
        watch.lap("pre")

        work.stop_if_cancelled()
        model = self.slot.get()
        masks, label_names, details = self.answer(model, volume, window, asked)
        watch.lap("infer")
        work.stop_if_cancelled()
        file = write_mask(masks, volume, extension, dtype, compress)
        work.remove_afterwards(file)
        watch.lap("write")
        return str(file), self.params(model, label_names, watch, details, volume.warnings)

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


def asked_file(request: Mapping[str, Any], volume: Volume) -> tuple[str, str, bool]:
    """File ending, voxel type and compression of the answer; checked before the work, not after it."""
    default = {"raster": ".png", "nrrd": ".nrrd"}.get(volume.kind, ".nii.gz")
    if default == ".png" and volume.n_slices > 1:
        default = ".nii.gz"
    extension = asked_extension(request, default, EXTENSIONS)
    if extension == ".png" and volume.n_slices > 1:
        raise UserError(
            f"result_extension .png holds one slice, and the image has {volume.n_slices}: "
            "send .nii.gz or .nrrd."
        )
    dtype = asked_dtype(request, extension, PNG_DTYPES if extension == ".png" else DTYPES)
    return extension, dtype, asked_compress(request)
