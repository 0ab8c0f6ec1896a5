"""`biosam2_auto`: no prompts; the structures that have been labelled before, found in another image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib import work
from lib.bank.bank import LabelBank
from lib.bank.pipeline import prelabel
from lib.errors import Conflict, UserError
from lib.imaging.volume import Volume
from lib.imaging.window import Window
from lib.infers.image_task import ImageTask, Slices
from lib.prompts.dialects import counts_structures
from lib.sam.exemplars import Memories
from lib.sam.model import Model, ModelSlot
from lib.settings import Settings

NONE_YET = (
    "No image has a final label yet that structures could be learned from: label one and submit it, then "
    "biosam2_auto finds the same structures on the others."
)


@dataclass(frozen=True)
class Asked:
    """The structures to look for, and whether the answer has to number them from 1 on without a gap."""

    structures: frozenset[str]
    counted: bool


class AutoTask(ImageTask[Asked]):
    """Automatic segmentation from the label bank (`lib.bank`), from the first submitted label on.

    Parameters
    ----------
    slot : ModelSlot
    settings : Settings
    bank : LabelBank
    """

    def __init__(self, slot: ModelSlot, settings: Settings, bank: LabelBank) -> None:
        super().__init__(
            slot,
            settings,
            3,
            InferType.SEGMENTATION,
            "BioSAM-2: the structures of the submitted labels, found without prompts",
        )
        self.bank, self.memories = bank, Memories()

    def info(self) -> dict[str, Any]:
        """With the structures that the bank has now, and their indexes, as clients list them."""
        return {**super().info(), "labels": self.bank.structures() or list(self.settings.labels)}

    def ready(self) -> None:
        """Read what was labelled since the last time.

        Raises
        ------
        Conflict
            If there is no label yet.
        """
        self.bank.refresh()
        if not self.bank.structures():
            raise Conflict(NONE_YET)

    def made_of(self) -> dict[str, str]:
        """What an answer depends on besides the image: the weights and the labels."""
        return {"checkpoint": self.slot.get().checkpoint.version, "labels": self.bank.fingerprint}

    def read(self, request: Mapping[str, Any], volume: Volume) -> Asked:
        """The structures asked for: those of `label_prompt` (indexes) or `label`, or else all.

        Raises
        ------
        Conflict
            See `ready`.
        UserError
            If a structure is none of the bank's.
        """
        asked = request.get("label_prompt") or request.get("label") or []
        return Asked(self.asked(asked if isinstance(asked, list) else [asked]), counts_structures(request))

    def asked(self, labels: Sequence[Any]) -> frozenset[str]:
        """The structures that names or indexes mean; without any, all of them.

        Raises
        ------
        Conflict
            See `ready`.
        UserError
            If one is none of the bank's.
        """
        self.ready()
        known = self.bank.structures()
        if not labels:
            return frozenset(known)
        by_index = {index: name for name, index in known.items()}
        names = []
        for one in labels:
            name = by_index.get(one) if isinstance(one, int) else one
            if not isinstance(name, str) or name not in known:
                raise UserError(f'label "{str(one)[:80]}" is not one of {", ".join(known)}.')
            names.append(name)
        return frozenset(names)

    def answer(
        self, model: Model, volume: Volume, window: Window, asked: Asked
    ) -> tuple[np.ndarray, dict[str, int], dict[str, Any]]:
        axis = volume.slice_axis
        planes = Slices(volume, window, axis)
        found = prelabel(
            model,
            planes,
            len(planes),
            self.bank,
            self.memories,
            volume.path,
            asked.structures.__contains__,
            work.report,
            work.is_cancelled,
        )
        score = {
            name: round(float(np.mean([one.score for one in slices if one.mask.any()] or [0.0])), 4)
            for name, slices in found.found.items()
        }
        labels, indexes = found.labels, dict(found.indexes)
        if asked.counted:
            labels, indexes = counted(labels, indexes)
        return (
            np.moveaxis(labels, 0, axis),
            indexes,
            {
                "score": score,
                "cached": False,
                "made_of": self.made_of(),
            },
        )


def counted(labels: np.ndarray, indexes: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
    """A label map, and the indexes in it, with 1, 2, … for the indexes in rising order."""
    names = sorted(indexes, key=lambda name: indexes[name])
    number = np.zeros(1 + max(indexes.values(), default=0), labels.dtype)
    for n, name in enumerate(names, 1):
        number[indexes[name]] = n
    return number[labels], {name: n for n, name in enumerate(names, 1)}
