"""`biosam2_2d`: prompts on one slice or image -> its mask, at the speed of a click."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib import work
from lib.imaging.volume import Volume
from lib.imaging.window import Window
from lib.infers.image_task import Slices, blank, paste
from lib.infers.interactive import InteractiveTask, indexes
from lib.prompts.prompts import Prompts
from lib.sam.model import Model, ModelSlot
from lib.sam.segment import segment
from lib.settings import Settings


class SliceTask(InteractiveTask):
    """Interactive segmentation of one slice; several objects at once if the request names them."""

    def __init__(self, slot: ModelSlot, settings: Settings) -> None:
        super().__init__(slot, settings, 2, "BioSAM-2: clicks and boxes on one slice")

    def answer(
        self, model: Model, volume: Volume, window: Window, prompts: Prompts
    ) -> tuple[np.ndarray, dict[str, int], dict[str, Any]]:
        planes = Slices(volume, window, prompts.slice_axis)
        labels = blank(volume, len(prompts.objects))
        scores: dict[str, float] = {}
        cached = True
        index = 0
        for value, obj in enumerate(prompts.objects, 1):
            (index,) = prompts.slices(obj)
            plane, on_slice = planes(index), prompts.on_slice(obj, index)
            # a click takes several steps of the network; it waits for its turn once, not before each of them
            with model.running():
                found = segment(model, plane, on_slice, self.settings.zoom)
            work.report(value, len(prompts.objects))
            paste(labels, prompts.slice_axis, index, found.mask, value)
            scores[obj.label] = round(found.score, 4)
            cached &= found.cached
        return labels, indexes(prompts), {"score": scores, "cached": cached, "slice": index}
