"""NIfTI-1 and NIfTI-2 files, plain or gzipped, in the array order and with the affine nibabel gives."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from lib.errors import Unprocessable
from lib.imaging.readers.raw import RawImage, float32_at_most, reading

GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink data further than about this; a header that claims more is lying.
MAX_DEFLATE = 1100


def read_nifti(path: Path) -> RawImage:
    """Read a NIfTI file.

    Parameters
    ----------
    path : Path
        A .nii or .nii.gz file; the first bytes decide whether it is gzipped, not the name.

    Returns
    -------
    RawImage
        Voxels in the dtype on disk when there is no scaling (scl_slope 1, scl_inter 0), else float32.
        RGB24 and RGBA32 voxels become (I, J, K, 3).

    Raises
    ------
    Unprocessable
        If the file is truncated or damaged, has a real fourth dimension, or complex voxels.
    """
    with reading(path, "a NIfTI file"):
        with open(path, "rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
        stream: IO[bytes]
        with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:  # type: ignore[assignment]
            # Not nib.load: it memory-maps plain files, and a datastore may replace them under us.
            image_class = _image_class(stream)
            image = image_class.from_file_map(image_class.make_file_map({"image": stream}), mmap=False)
            voxels = _voxels(path, image, zipped)
            while zipped and stream.read(1 << 20):
                pass  # to the end of the stream, where gzip compares the checksum
        return RawImage(voxels=voxels, affine=image.affine, header=image.header.copy())


def _image_class(stream: IO[bytes]) -> Any:
    head = stream.read(4)
    stream.seek(0)
    sizes = {struct.unpack(order + "i", head)[0] for order in "<>"} if len(head) == 4 else set()
    return nib.Nifti2Image if 540 in sizes else nib.Nifti1Image


def _voxels(path: Path, image: Any, zipped: bool) -> np.ndarray:
    shape = tuple(int(n) for n in image.shape)
    dtype: np.dtype[Any] = image.get_data_dtype()
    if not shape or min(shape) <= 0:
        raise Unprocessable(f"image '{path.name}' is empty: its shape is {shape}")
    if dtype.kind == "c":
        raise Unprocessable(f"image '{path.name}' has complex voxels ({dtype}); only real ones can be shown")
    colour = dtype.names is not None
    # ITK writes colour as five dimensions, the last one the channel.
    vector = len(shape) == 5 and shape[3:] == (1, 3) and dtype == np.uint8
    squeezed = shape
    while len(squeezed) > 3 and squeezed[-1] == 1:
        squeezed = squeezed[:-1]
    if len(squeezed) > 3 and not vector:
        raise Unprocessable(f"image '{path.name}' has shape {shape}; only 3D images can be segmented")
    # Before the memory is asked for: a damaged header may claim terabytes.
    size = os.path.getsize(path) * (MAX_DEFLATE if zipped else 1)
    if np.prod([float(n) for n in shape]) * dtype.itemsize > size:
        raise Unprocessable(f"image '{path.name}' is truncated: shape {shape} needs more data than it has")

    voxels = np.asarray(image.dataobj.get_unscaled())
    if not colour and not voxels.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(voxels.dtype.newbyteorder())
    if vector:
        return voxels.reshape(squeezed[:3] + (3,), order="F")
    voxels = voxels.reshape(squeezed + (1,) * (3 - len(squeezed)), order="F")
    if colour:
        return _split_colour(voxels)
    slope, inter = image.dataobj.slope, image.dataobj.inter
    if slope == 1 and inter == 0:
        return float32_at_most(voxels)
    scaled = voxels.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def _split_colour(voxels: np.ndarray) -> np.ndarray:
    # A view, not a stack of fields: the bytes of a voxel already lie side by side.
    i, j, k = voxels.shape
    channels = voxels.dtype.itemsize
    flat = np.ascontiguousarray(voxels.T).view(np.uint8).reshape(k, j, i, channels)
    return flat.transpose(2, 1, 0, 3)[..., :3]
