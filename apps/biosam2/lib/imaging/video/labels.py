"""Labelled multi-frame files, NIfTI (x, y, frame), read and written frame by frame."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import nibabel as nib
import numpy as np

from lib.errors import Unprocessable
from lib.imaging import geometry
from lib.imaging.answer import COMPRESSION, SCANNER
from lib.imaging.readers.nifti import GZIP_MAGIC, MAX_DEFLATE
from lib.imaging.readers.raw import reading
from lib.imaging.volume import NIFTI

MOST_NIFTI_1 = 32767  # what an axis may have there


def is_nifti(path: Path) -> bool:
    """Whether a file can be read frame by frame."""
    return path.name.lower().endswith(NIFTI)


class LabelFrames:
    """The frames of a label file, from the first to the last, with one of them in memory at a time.

    Parameters
    ----------
    path : Path
        NIfTI, gzipped or not.

    Attributes
    ----------
    shape : (W, H, N)

    Raises
    ------
    Unprocessable
        If it is damaged, or holds no whole numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._open = path, ExitStack()
        with reading(path, "a NIfTI file"):
            with open(path, "rb") as raw:
                zipped = raw.read(2) == GZIP_MAGIC
            self._stream: Any = gzip.open(path) if zipped else open(path, "rb")  # noqa: SIM115
            self._open.enter_context(self._stream)
            size = int.from_bytes(self._stream.read(4), "little")
            self._stream.seek(0)
            big = size in (540, int.from_bytes((540).to_bytes(4, "little"), "big"))
            header = (nib.Nifti2Header if big else nib.Nifti1Header).from_fileobj(self._stream, check=False)
            self._type = header.get_data_dtype()
            shape = tuple(int(n) for n in header.get_data_shape())
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            shape += (1,) * (3 - len(shape))
            if len(shape) != 3 or self._type.kind not in "iuf" or header.get_slope_inter() not in PLAIN:
                raise Unprocessable(
                    f"label '{path.name}' must be whole numbers, one for each pixel of a frame."
                )
            self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
            self._begin = int(header.get_data_offset())
            room = path.stat().st_size * (MAX_DEFLATE if zipped else 1)
            if min(shape) < 1 or np.prod([float(n) for n in shape]) * self._type.itemsize > room:
                raise Unprocessable(
                    f"label '{path.name}' is truncated: shape {shape} needs more data than it has"
                )

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (W, H), in the type that is stored; may be asked for again."""
        width, height, count = self.shape
        size = width * height * self._type.itemsize
        with reading(self._path, "a NIfTI file"):
            self._stream.seek(self._begin)
        for index in range(count):
            with reading(self._path, "a NIfTI file"):
                data = self._stream.read(size)
            if len(data) < size:
                raise Unprocessable(f"label '{self._path.name}' is truncated: it ends in frame {index}.")
            yield np.frombuffer(data, self._type).reshape(height, width).T

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


PLAIN = ((None, None), (1, 0))  # values are as they are stored


def write_label_frames(
    stream: IO[bytes],
    planes: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    affine: np.ndarray,
    dtype: np.dtype[Any],
    zipped: bool,
    compress: bool = True,
) -> None:
    """Write a labelled multi-frame file, frame by frame.

    Parameters
    ----------
    planes : iterable of ndarray (W, H)
        As many as there are frames.
    shape : (W, H, N)
    affine : ndarray
        4x4, (x, y, frame) to RAS+ mm.
    dtype : dtype
        Of the file.
    zipped, compress : bool
        .nii.gz, deflated or only stored.

    Raises
    ------
    ValueError
        If a plane has another size, or there are not as many as said: a bug of the caller.
    """
    header = (nib.Nifti2Header if max(shape) > MOST_NIFTI_1 else nib.Nifti1Header)()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    header.set_sform(affine, SCANNER)
    header.set_qform(affine, 0 if geometry.is_sheared(affine) else SCANNER)
    header.set_slope_inter(1, 0)
    with ExitStack() as opened:
        out: IO[bytes] = stream
        if zipped:
            packed: Any = gzip.GzipFile("", "wb", COMPRESSION if compress else 0, stream, mtime=0)
            out = opened.enter_context(packed)
        header.write_to(out)
        begin, offset = 4 + header.structarr.dtype.itemsize, int(header.get_data_offset())
        out.write(b"\0" * (offset - begin))
        written = 0
        for plane in planes:
            if plane.shape != shape[:2]:
                raise ValueError(f"frame {written} of shape {plane.shape} is not {shape[:2]}")
            out.write(np.ascontiguousarray(plane.T).astype(dtype, copy=False).tobytes())
            written += 1
        if written != shape[2]:
            raise ValueError(f"{written} frames instead of {shape[2]}")
