"""`biosam2_video`: prompts on any frames of a video -> masks on all of them, both ways in time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib import work
from lib.errors import UserError
from lib.imaging import runs
from lib.imaging.answer import DTYPES, write_mask
from lib.imaging.video.answers import (
    ENDINGS,
    FORMATS,
    Format,
    write_overlay,
    write_video_json,
    write_video_labels,
)
from lib.imaging.video.frames import Frames
from lib.imaging.video.kept import KeptMasks
from lib.imaging.video.labels import LabelFrames, is_nifti
from lib.imaging.video.open import open_video
from lib.imaging.volume import Volume
from lib.infers.image_task import asked_file, blank, paste
from lib.infers.interactive import indexes, read_mask, with_uploaded_mask
from lib.infers.task import (
    SamTask,
    Stopwatch,
    asked_compress,
    asked_dtype,
    asked_extension,
    asked_window,
    named,
)
from lib.prompts.dialects import parse
from lib.prompts.frame_masks import FrameMasks
from lib.prompts.prompts import Prompts
from lib.sam.model import Model, ModelSlot
from lib.sam.propagate import Target, propagate
from lib.settings import Settings

logger = logging.getLogger(__name__)

MOST_PROMPTED = 200
"""Frames of an object that may have a prompt: the network remembers each of them to the end."""


@dataclass(frozen=True)
class _Form:
    """What the answer is to be: its format, and ending, voxel type and compression of the file."""

    format: Format
    extension: str
    dtype: str
    compress: bool


class VideoTask(SamTask):
    """Objects followed through a video.

    Its type is one that neither Slicer nor OHIF lists anywhere: what they show are volumes.
    """

    def __init__(self, slot: ModelSlot, settings: Settings) -> None:
        super().__init__(slot, settings, 3, InferType.OTHERS, "BioSAM-2: prompts propagated through a video")

    def info(self) -> dict[str, Any]:
        """With the forms in which it can answer."""
        return {**super().info(), "result_formats": list(FORMATS)}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Answer one request.

        Parameters
        ----------
        request : mapping
            `image` is the path of the video; the rest is what the client sent: prompts as for a volume, whose
            slices are the frames, and `result_format`, one of `FORMATS`.

        Returns
        -------
        file : str
            See `lib.imaging.video.answers`.
        params : dict
            `label_names`, `score` (mean over the frames with the object), `absent` (by object: [first, last]
            of the frames without it, among those that were looked at), `frames`, `size`, `fps`, `checkpoint`,
            `latencies`, `cached`; `warnings` if the video has any; over HTTP, `request_id`.

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
        with open_video(Path(str(request["image"])), asked_window(request)) as frames:
            watch.lap("load")
            form = _asked_form(request, frames.volume)
            prompts = _read(request, frames)
            targets = _targets(prompts)
            watch.lap("pre")
            model = self.slot.get()
            encoded = model.encoded
            with KeptMasks(len(targets), len(frames), frames.about.size) as masks:
                self._follow(model, frames, prompts, targets, masks)
                watch.lap("infer")
                details = {**_told(masks, frames, prompts), "cached": model.encoded == encoded}
                file = self._write(model, form, masks, frames, prompts, details)
        work.remove_afterwards(file)
        watch.lap("write")
        return str(file), self.params(model, indexes(prompts), watch, details, frames.warnings)

    @staticmethod
    def answers_in_json(request: Mapping[str, Any]) -> bool:
        """Whether the file of the answer to a request is JSON, with all that is told beside it."""
        return str(request.get("result_format") or "").strip().lower() in ("runs", "polygons")

    def _follow(
        self, model: Model, frames: Frames, prompts: Prompts, targets: list[Target], masks: KeptMasks
    ) -> None:
        """Put the mask of every object on every frame."""
        for found in propagate(
            model,
            frames.__getitem__,
            len(frames),
            targets,
            prompts.direction,
            self.settings.zoom,
            _report,
            work.is_cancelled,
        ):
            masks.put(found.target, found.index, found.mask, found.score)

    def _write(
        self,
        model: Model,
        form: _Form,
        masks: KeptMasks,
        frames: Frames,
        prompts: Prompts,
        details: Mapping[str, Any],
    ) -> Path:
        names = indexes(prompts)
        if form.format == "overlay":
            looked = np.flatnonzero(masks.done.any(0))
            return write_overlay(masks, frames, int(looked[0]), int(looked[-1]), work.stop_if_cancelled)
        if form.format != "labels":
            said = {
                "label_names": names,
                "checkpoint": named(model),
                **details,
                "warnings": list(frames.warnings),
            }
            return write_video_json(masks, list(names), form.format, said, work.stop_if_cancelled)
        if frames.volume is None:
            return write_video_labels(
                masks, frames, form.extension, form.dtype, form.compress, work.stop_if_cancelled
            )
        labels = blank(frames.volume, len(names))
        for index in range(len(frames)):
            for number in range(len(names)):
                if masks.is_there(number, index):
                    paste(labels, frames.volume.slice_axis, index, masks.mask(number, index), number + 1)
        return write_mask(labels, frames.volume, form.extension, form.dtype, form.compress)


def _report(done: int, total: int) -> None:
    work.report(done, total)
    if done == total or done % 100 == 0:
        logger.info("frame %d of %d", done, total)


def _asked_form(request: Mapping[str, Any], volume: Volume | None) -> _Form:
    """The answer's format and file; checked before the work, not after it."""
    asked = str(request.get("result_format") or FORMATS[0]).strip().lower()
    if asked not in FORMATS:
        raise UserError(f"result_format must be one of {', '.join(FORMATS)}, not {asked[:80]}.")
    form: Format = next(known for known in FORMATS if known == asked)
    if form == "labels" and volume is not None:
        return _Form(form, *asked_file(request, volume))
    if form != "labels" and request.get("save_label"):
        raise UserError(f"save_label keeps label maps: it goes with result_format labels, not with {form}.")
    extension = asked_extension(request, ENDINGS[form][0], ENDINGS[form])
    return _Form(form, extension, asked_dtype(request, extension, DTYPES), asked_compress(request))


def _read(request: Mapping[str, Any], frames: Frames) -> Prompts:
    """The prompts (see `lib.prompts.dialects`)."""
    volume = frames.volume
    return parse(
        with_uploaded_mask(dict(request)),
        frames.shape3 if volume is None else volume.shape3,
        2 if volume is None else volume.slice_axis,
        3,
        lambda name: _read_mask(name, frames),
        affine=None if volume is None else volume.affine,
        is_video=True,
    )


def _read_mask(name: str, frames: Frames) -> np.ndarray | FrameMasks:
    """An uploaded label file as masks of frames."""
    if frames.volume is not None or not Path(name).is_absolute() or not is_nifti(Path(name)):
        return read_mask(name, frames.one(0) if frames.volume is None else frames.volume)
    with LabelFrames(Path(name)) as label:
        if label.shape != frames.shape3:
            raise UserError(
                f"mask has {label.shape} voxels on its own grid, the video {frames.shape3}: "
                "send it on the video's."
            )
        found = {index: runs.encode(plane != 0) for index, plane in enumerate(label) if plane.any()}
    return FrameMasks(frames.shape3, 2, found)


def _targets(prompts: Prompts) -> list[Target]:
    targets = []
    for obj in prompts.objects:
        on = prompts.slices(obj)
        if len(on) > MOST_PROMPTED:
            raise UserError(
                f'Object "{obj.label}" has prompts on {len(on)} frames, more than {MOST_PROMPTED}: '
                "send fewer, or slice_range with those to do again."
            )
        targets.append(Target({n: prompts.on_slice(obj, n) for n in on}, *prompts.slice_limits(obj)))
    return targets


def _told(masks: KeptMasks, frames: Frames, prompts: Prompts) -> dict[str, Any]:
    """What is told of the answer beside the masks."""
    score, absent = {}, {}
    for number, obj in enumerate(prompts.objects):
        there = masks.there[number]
        score[obj.label] = round(float(masks.scores[number, there].mean()), 4) if there.any() else 0.0
        absent[obj.label] = _spans(masks.done[number] & ~there)
    return {
        "score": score,
        "absent": absent,
        "frames": len(frames),
        "size": list(frames.about.size),
        "fps": round(frames.fps, 3),
    }


def _spans(flags: np.ndarray) -> list[list[int]]:
    """[first, last] of each stretch of bool (N,)."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [[int(first), int(end) - 1] for first, end in zip(edges[0::2], edges[1::2], strict=True)]
