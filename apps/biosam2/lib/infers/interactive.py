"""What the interactive tasks share: request -> prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib import work
from lib.errors import UserError
from lib.imaging.store import load_cached
from lib.imaging.volume import Volume
from lib.infers.image_task import ImageTask
from lib.infers.uploads import is_upload
from lib.prompts.dialects import parse
from lib.prompts.prompts import Prompts
from lib.sam.model import ModelSlot
from lib.settings import Settings


class InteractiveTask(ImageTask[Prompts]):
    """A task that answers prompts with SAM 2.

    Parameters
    ----------
    slot : ModelSlot
        The served model; the tasks share it, and with it the embeddings.
    settings : Settings
    dimension : 2 or 3
    description : str
    """

    def __init__(
        self, slot: ModelSlot, settings: Settings, dimension: Literal[2, 3], description: str
    ) -> None:
        # the type that Slicer's SmartEdit and OHIF's Point Prompts list
        super().__init__(slot, settings, dimension, InferType.DEEPGROW, description)

    def read(self, request: Mapping[str, Any], volume: Volume) -> Prompts:
        """The prompts (see `lib.prompts.dialects`)."""
        axis = _slice_axis(request, volume, self.dimension)
        dimension: Literal[2, 3] = 2 if self.dimension == 2 else 3
        return parse(
            with_uploaded_mask(dict(request)),
            volume.shape3,
            axis,
            dimension,
            lambda name: read_mask(name, volume),
            affine=volume.affine,
        )


def indexes(prompts: Prompts) -> dict[str, int]:
    """The index of each object in the answer's label map."""
    return {obj.label: index for index, obj in enumerate(prompts.objects, 1)}


def _slice_axis(request: Mapping[str, Any], volume: Volume, dimension: int) -> int:
    """The axis to take slices along: the one asked for, else the volume's own.

    Slicer's 2D requests name the slice as index k of the volume, whatever way it was acquired.
    """
    asked = request.get("slice_axis")
    if asked is None or asked == "":
        return 2 if dimension == 2 and request.get("slice") is not None else volume.slice_axis
    if isinstance(asked, bool) or str(asked) not in ("0", "1", "2"):
        raise UserError(f"slice_axis must be 0, 1 or 2, not {str(asked)[:80]}.")
    return int(asked)


def with_uploaded_mask(request: dict[str, Any]) -> dict[str, Any]:
    """Tell an uploaded label file, whose path MONAI Label puts into `label`, from a structure's name.

    Only a file that the server itself has stored counts as one.
    """
    label = request.get("label")
    if isinstance(label, str) and ("/" in label or "\\" in label):
        path = Path(label)
        if not is_upload(path):
            raise UserError(f'label must be the name of a structure, not "{label[:80]}".')
        work.remove_afterwards(path)  # MONAI Label forgets the one it makes of OHIF's scribbles
        request["mask"] = str(path)
        request["label"] = None
    elif isinstance(request.get("mask"), str) and "/" in request["mask"]:
        raise UserError("mask must be given as runs, a list or an uploaded label file, not as a path.")
    return request


def read_mask(name: str, volume: Volume) -> np.ndarray:
    """An uploaded label file as a mask on the image's grid, bool (I, J, K)."""
    if not Path(name).is_absolute():
        raise UserError(f'mask must be given as runs, a list or an uploaded label file, not "{name[:80]}".')
    label = load_cached(Path(name))
    # a picture has no place in the patient, and what clients make up for it differs
    placed = volume.kind == "raster" or np.allclose(label.affine, volume.affine, atol=1e-3)
    if label.shape3 != volume.shape3 or not placed:
        raise UserError(
            f"mask has {label.shape3} voxels on its own grid, the image {volume.shape3}: "
            "send it on the image's."
        )
    return np.asarray(label.voxels) != 0
