"""`biosam2_2d`: prompts on one slice or image -> its mask, at the speed of a click."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib import work
from lib.imaging.answer import write_mask
from lib.imaging.video.open import is_video, open_video
from lib.imaging.volume import Volume
from lib.imaging.window import Window
from lib.infers.image_task import Slices, asked_file, blank, paste
from lib.infers.interactive import InteractiveTask, indexes, with_uploaded_mask
from lib.infers.task import Stopwatch, asked_window
from lib.prompts.dialects import parse
from lib.prompts.prompts import Prompts
from lib.sam.model import Model, ModelSlot
from lib.sam.segment import segment
from lib.settings import Settings


class SliceTask(InteractiveTask):
    """Interactive segmentation of one slice; several objects at once if the request names them."""

    def __init__(self, slot: ModelSlot, settings: Settings) -> None:
        super().__init__(slot, settings, 2, "BioSAM-2: clicks and boxes on one slice")

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Answer one request (see `ImageTask`); of a video, with the mask of the frame that is prompted."""
        path = Path(str(request["image"]))
        return self._on_frame(request, path) if is_video(path) else super().__call__(request)

    def answer(
        self, model: Model, volume: Volume, window: Window, prompts: Prompts
    ) -> tuple[np.ndarray, dict[str, int], dict[str, Any]]:
        labels = blank(volume, len(prompts.objects))
        details = self._segment(model, Slices(volume, window, prompts.slice_axis), prompts, labels)
        return labels, indexes(prompts), details

    def _on_frame(self, request: Mapping[str, Any], path: Path) -> tuple[str | None, dict[str, Any]]:
        """The mask of one frame of a video: a picture of the frame's size."""
        watch = Stopwatch()
        work.stop_if_cancelled()
        self.check_device(request.get("device"))
        with open_video(path, asked_window(request)) as frames:
            prompts = parse(with_uploaded_mask(dict(request)), frames.shape3, 2, 2, is_video=True)
            (index,) = {n for obj in prompts.objects for n in prompts.slices(obj)}
            frame = frames.one(index)
        watch.lap("load")
        file = asked_file(request, frame)
        watch.lap("pre")
        model = self.slot.get()
        labels = blank(frame, len(prompts.objects))
        details = self._segment(model, lambda _: frame.plane(0), prompts, labels, place=0)
        watch.lap("infer")
        work.stop_if_cancelled()
        written = write_mask(labels, frame, *file)
        work.remove_afterwards(written)
        watch.lap("write")
        return str(written), self.params(model, indexes(prompts), watch, details, frames.warnings)

    def _segment(
        self,
        model: Model,
        planes: Callable[[int], np.ndarray],
        prompts: Prompts,
        labels: np.ndarray,
        place: int | None = None,
    ) -> dict[str, Any]:
        """Put the masks into a label map, on their own slice or the one at `place`; tells about them."""
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
            paste(labels, prompts.slice_axis, index if place is None else place, found.mask, value)
            scores[obj.label] = round(found.score, 4)
            cached &= found.cached
        return {"score": scores, "cached": cached, "slice": index}
