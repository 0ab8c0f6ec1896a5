"""`biosam2_3d`: prompts on any slices -> masks through the volume, both ways."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from lib import work
from lib.imaging.volume import Volume
from lib.imaging.window import Window
from lib.infers.image_task import Slices, blank, paste
from lib.infers.interactive import InteractiveTask, indexes
from lib.prompts.prompts import Prompts
from lib.sam.model import Model, ModelSlot
from lib.sam.propagate import Target, propagate
from lib.settings import Settings

logger = logging.getLogger(__name__)


class VolumeTask(InteractiveTask):
    """Interactive segmentation of a volume: the prompted slices, then all the others from SAM 2's memory."""

    def __init__(self, slot: ModelSlot, settings: Settings) -> None:
        super().__init__(slot, settings, 3, "BioSAM-2: prompts propagated through the volume")

    def answer(
        self, model: Model, volume: Volume, window: Window, prompts: Prompts
    ) -> tuple[np.ndarray, dict[str, int], dict[str, Any]]:
        planes = Slices(volume, window, prompts.slice_axis)
        targets = []
        for obj in prompts.objects:
            on = {index: prompts.on_slice(obj, index) for index in prompts.slices(obj)}
            targets.append(Target(on, *prompts.slice_limits(obj)))
        labels = blank(volume, len(targets))
        scores: dict[int, list[float]] = {number: [] for number in range(len(targets))}
        encoded = model.encoded
        for found in propagate(
            model,
            planes,
            len(planes),
            targets,
            prompts.direction,
            self.settings.zoom,
            _report,
            work.is_cancelled,
            volume.thickness(prompts.slice_axis),
        ):
            paste(labels, prompts.slice_axis, found.index, found.mask, found.target + 1)
            if found.mask.any():
                scores[found.target].append(found.score)
        score = {
            obj.label: round(float(np.mean(scores[number])), 4) if scores[number] else 0.0
            for number, obj in enumerate(prompts.objects)
        }
        return labels, indexes(prompts), {"score": score, "cached": model.encoded == encoded}


def _report(done: int, total: int) -> None:
    work.report(done, total)
    if done == total or done % 25 == 0:
        logger.info("slice %d of %d", done, total)
