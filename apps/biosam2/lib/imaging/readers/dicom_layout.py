"""Which DICOM instance and frame each slice of a volume comes from, so that labels find their way back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from lib.errors import Unprocessable
from lib.imaging import geometry
from lib.imaging.readers import dicom_geometry as tags
from lib.imaging.readers.dicom import scan_series
from lib.imaging.readers.raw import reading


@dataclass(frozen=True, eq=False)
class Layout:
    """The slices of a series, in the order that `load_volume` gives them.

    Attributes
    ----------
    headers : tuple of pydicom.Dataset
        K headers without pixels, one for each slice; for a multi-frame file the same one K times.
    frames : tuple of int
        K frame numbers in their file, from 0; all 0 for files of one frame.
    affine : np.ndarray
        4x4, (column, row, slice) index to RAS+ mm, as the volume has it.
    """

    headers: tuple[Any, ...]
    frames: tuple[int, ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices): the shape of the volume."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.headers)

    @property
    def is_multi_frame(self) -> bool:
        """Whether all slices are frames of one file."""
        return "NumberOfFrames" in self.headers[0] and all(h is self.headers[0] for h in self.headers)

    @cached_property
    def views(self) -> tuple[tags.FrameView, ...]:
        """The attributes of each slice, wherever its header keeps them."""
        return tuple(tags.FrameView(h, n) for h, n in zip(self.headers, self.frames, strict=True))

    @cached_property
    def positions(self) -> np.ndarray | None:
        """(K, 3) LPS mm of each slice's first pixel; None unless every slice has a place of its own.

        These are the tags' own, also where the volume's affine evens them out (missing slices).
        """
        given = [tags.position_of(view) for view in self.views]
        if any(position is None for position in given) or tags.orientation_of(self.views[0]) is None:
            return None
        positions = np.array(given, dtype=np.float64)
        for k in range(1, len(positions)):
            if np.abs(positions[:k] - positions[k]).max(axis=1).min() <= tags.SAME:
                return None  # a cine: the place does not tell one frame from another
        return positions

    @cached_property
    def in_plane(self) -> np.ndarray:
        """(3, 2) LPS mm: the steps from one column to the next and from one row to the next."""
        return geometry.flip_lps_ras(self.affine)[:3, :2]

    @property
    def gap(self) -> float:
        """mm between neighbouring slices along their normal: the median, as slices may be missing."""
        if self.positions is None or len(self.positions) < 2:
            return float(geometry.spacing_of(self.affine)[2])
        normal = np.cross(self.in_plane[:, 0], self.in_plane[:, 1])
        along = self.positions @ (normal / np.linalg.norm(normal))
        return float(np.median(np.abs(np.diff(along))))

    @cached_property
    def index(self) -> dict[tuple[str, int], int]:
        """(SOPInstanceUID (0008,0018), frame from 0) -> slice."""
        return {
            (str(header.SOPInstanceUID), frame): k
            for k, (header, frame) in enumerate(zip(self.headers, self.frames, strict=True))
        }


def read_layout(path: Path) -> Layout:
    """Read the headers of a DICOM series.

    Parameters
    ----------
    path : Path
        As for `load_volume`: a folder with one series, or one file.

    Returns
    -------
    Layout

    Raises
    ------
    Unprocessable
        As `read_dicom_folder` and `read_dicom_file` do, the pixels apart.
    """
    with reading(path, "a DICOM series"):
        if path.is_dir():
            slices = scan_series(path)
            if len(slices) > 1:
                ordered, affine, _ = tags.arrange(path.name, slices)
                headers = tuple(header for _, header in ordered)
                return Layout(headers, (0,) * len(headers), affine)
            header = slices[0][1]
        else:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" not in header or "Columns" not in header:
            raise Unprocessable(f"image '{path.name}' is a DICOM file without pixels")
        count = int(header.get("NumberOfFrames") or 1)
        order, affine, _ = tags.frame_grid(path.name, header, count)
        return Layout((header,) * count, tuple(order or range(count)), affine)
