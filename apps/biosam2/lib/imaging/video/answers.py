"""The masks of a video -> a labelled multi-frame file, JSON of runs or polygons, a film with an overlay."""

from __future__ import annotations

import colorsys
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal, get_args

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from scipy import ndimage

from lib.imaging.polygons import polygons
from lib.imaging.video.frames import Frames
from lib.imaging.video.kept import KeptMasks
from lib.imaging.video.labels import write_label_frames

Format = Literal["labels", "runs", "polygons", "overlay"]

FORMATS: tuple[Format, ...] = get_args(Format)

ENDINGS: dict[Format, tuple[str, ...]] = {
    "labels": (".nii.gz", ".nii"),
    "runs": (".json",),
    "polygons": (".json",),
    "overlay": (".mp4",),
}
"""Endings of the files that the formats may have, the usual one first."""

# What PyAV may have been built with, the best one first; the last one is part of every FFmpeg.
CODECS = ("libx264", "libopenh264", "mpeg4")
TINT = 0.35  # of the color of an object inside of its outline
GOLDEN = 0.618033988749895  # hues at this distance are never close

Step = Callable[[], None]
"""Called before every frame that is written; raises to stop."""


def write_video_labels(
    masks: KeptMasks, frames: Frames, ending: str, dtype: str, compress: bool, step: Step
) -> Path:
    """Write all frames as a label map (x, y, frame); the caller deletes the file.

    Parameters
    ----------
    ending : str
        ``.nii.gz`` or ``.nii``.
    dtype : str
        Voxel type in the file; must hold the number of objects.
    """

    def planes() -> Iterator[np.ndarray]:
        for index in range(len(frames)):
            step()
            yield masks.labels(index, np.uint16)

    with _new_file(ending) as (stream, path):
        affine, zipped = frames.about.affine, ending.endswith(".gz")
        write_label_frames(stream, planes(), frames.shape3, affine, np.dtype(dtype), zipped, compress)
    return path


def write_video_json(
    masks: KeptMasks, labels: Sequence[str], format: Format, about: Mapping[str, Any], step: Step
) -> Path:
    """Write masks as JSON, frame by frame; the caller deletes the file.

    The object has what `about` has, `format`, and `objects`: for each
    `label`, `index`, `scores` by frame, and by frame with the object on it `masks` (`lib.imaging.runs`)
    or `polygons` (`lib.imaging.polygons`). A frame with a score and no mask is one without the object; one
    without a score was not looked at.
    """
    head = {**about, "format": format}
    with _new_file(".json") as (stream, path):

        def write(text: str) -> None:
            stream.write(text.encode())

        write(json.dumps(head)[:-1] + ', "objects": [')
        for number, label in enumerate(labels):
            done = np.flatnonzero(masks.done[number])
            scores = {str(n): round(float(masks.scores[number, n]), 4) for n in done}
            start = {"label": label, "index": number + 1, "scores": scores}
            what = "masks" if format == "runs" else "polygons"
            write((", " if number else "") + json.dumps(start)[:-1] + f', "{what}": {{')
            comma = ""
            for index in done:
                step()
                if masks.is_there(number, index):
                    found: Any = masks.encoded(number, index)
                    if format == "polygons":
                        found = polygons(masks.mask(number, index))
                    write(f'{comma}"{index}": {json.dumps(found, separators=(",", ":"))}')
                    comma = ", "
            write("}}")
        write("]}")
    return path


def write_overlay(masks: KeptMasks, frames: Frames, first: int, last: int, step: Step) -> Path:
    """Write frames `first` to `last` as MP4, objects tinted and outlined; the caller deletes the file.

    H.264 where PyAV has an encoder, else MPEG-4. Frames of an odd size get a black row or column.
    """
    width, height = masks.size
    colors = [color_of(number) for number in range(len(masks.scores))]
    with _new_file(".mp4") as (stream, path), av.open(stream, "w", format="mp4") as film:
        rate = Fraction(min(max(frames.fps, 1.0), 240.0)).limit_denominator(1001)
        out: Any = film.add_stream(_codec(), rate=rate)
        out.width, out.height, out.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        out.thread_count = 1  # more would hold more frames
        if out.name == "libx264":
            out.options = {"preset": "veryfast", "crf": "20"}
        for index in range(first, last + 1):
            step()
            picture = np.zeros((out.height, out.width, 3), np.uint8)
            shown = overlaid(frames[index], [masks.mask(n, index) for n in range(len(colors))], colors)
            picture[:height, :width] = shown.swapaxes(0, 1)
            film.mux(out.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(out.encode())
    return path


def overlaid(frame: np.ndarray, masks: Sequence[np.ndarray], colors: Sequence[Sequence[int]]) -> np.ndarray:
    """A frame, (W, H) or (W, H, 3), with masks, bool (W, H), tinted and outlined: uint8 (W, H, 3)."""
    shown = np.repeat(frame[..., None], 3, 2) if frame.ndim == 2 else frame.copy()
    for mask, color in zip(masks, colors, strict=True):
        if mask.any():
            shown[mask] = (shown[mask] * (1 - TINT) + np.array(color) * TINT).round().astype(np.uint8)
    for mask, color in zip(masks, colors, strict=True):
        if mask.any():
            shown[mask & ~ndimage.binary_erosion(mask)] = color
    return shown


def color_of(number: int) -> tuple[int, int, int]:
    """The color of object `number`, from 0: red, green and blue, none of them alike."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, 1.0))
    return red, green, blue


def _codec() -> str:
    for name in CODECS:
        try:
            av.codec.Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise RuntimeError(f"FFmpeg has none of the encoders {', '.join(CODECS)}")


@contextmanager
def _new_file(ending: str) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file with an unguessable name, which is gone if it cannot be written to the end."""
    handle, name = tempfile.mkstemp(suffix=ending, prefix="video-")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
