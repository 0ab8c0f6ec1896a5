"""Multi-frame DICOM: one frame at a time from the file, by the decoders that read whole files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from lib.errors import Unprocessable
from lib.imaging.geometry import LPS_FLIP
from lib.imaging.readers import dicom_geometry as tags
from lib.imaging.readers.dicom import read_pixels
from lib.imaging.readers.raw import reading
from lib.imaging.video.source import About, Source, even_times

PIXELS = Tag(0x7FE00010)
ITEM, END = 0xFFFEE000, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
# A frame in several pieces begins with one that starts so: JPEG, JPEG-LS and JPEG 2000 (ITU T.81, T.800).
BEGINNINGS = (b"\xff\xd8", b"\xff\x4f")
DEFLATED = "1.2.840.10008.1.2.1.99"

# What a decoder needs to know of a frame: the image pixel and modality LUT modules (PS3.3 C.7.6.3, C.11.1).
PIXEL_MODULE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor"),
    *("BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData"),
    *("LossyImageCompression", "Modality"),
)
Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class DicomIndex:
    """Where each frame lies in the file.

    Attributes
    ----------
    about : About
    header : Dataset
        Of one frame, with what a decoder needs.
    pieces : tuple
        By frame: (offset, bytes) of each of its pieces.
    """

    about: About
    header: Dataset
    pieces: tuple[Pieces, ...]


def frames_of(header: Any) -> int:
    """NumberOfFrames (0028,0008), 1 where it is not said or nonsense."""
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def index_dicom(path: Path) -> DicomIndex:
    """Read the header of a DICOM file, and where its frames are.

    Raises
    ------
    Unprocessable
        If it is no DICOM image, or has fewer frames than it says.
    """
    with reading(path, "a DICOM video"), open(path, "rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        if "Rows" not in header or "Columns" not in header:
            raise Unprocessable(f"video '{path.name}' is a DICOM file without pixels")
        syntax = getattr(header.file_meta, "TransferSyntaxUID", None) or _guessed(header)
        if syntax == DEFLATED:
            raise Unprocessable(
                f"video '{path.name}' is a deflated DICOM file, whose frames cannot be reached"
            )
        frames = frames_of(header)
        pieces = _pieces(path, file, header, pydicom.uid.UID(syntax), frames)
        try:
            order, affine, _ = tags.frame_grid(path.name, header, frames)
        except Unprocessable:  # frames that follow in space and in time: here in time
            order, affine = None, LPS_FLIP.copy()
        if order is not None:  # as in a volume: out of order in space
            pieces = tuple(pieces[n] for n in order)
        one = _one(header, syntax)
        first = _decode(one, _read(file, pieces[0]))
        return DicomIndex(_about(path, header, frames, first, affine), one, pieces)


class DicomVideo(Source):
    """An open multi-frame file.

    Parameters
    ----------
    path : Path
    index : DicomIndex
    """

    def __init__(self, path: Path, index: DicomIndex) -> None:
        self._path, self._index, self.about = path, index, index.about
        self._file: IO[bytes] | None = None
        self._inverted = index.header.PhotometricInterpretation == "MONOCHROME1"

    def read(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        with reading(self._path, "a DICOM video"):
            if self._file is None:
                self._file = open(self._path, "rb")  # noqa: SIM115 - until `close`
            data = _read(self._file, self._index.pieces[index])
            yield index, _decode(self._index.header, data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _guessed(header: Any) -> str:
    implicit, little = header.is_implicit_VR, header.is_little_endian
    if implicit:
        return str(pydicom.uid.ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian)


def _about(path: Path, header: Any, frames: int, first: np.ndarray, affine: np.ndarray) -> About:
    return About(
        path=path,
        kind="dicom",
        size=(first.shape[0], first.shape[1]),
        is_rgb=first.ndim == 3,
        times=_times(header, frames),
        modality=str(header.get("Modality") or "").strip().upper(),
        window=tags.window_of(header),
        affine=affine,
    )


def _times(header: Any, frames: int) -> np.ndarray:
    """From FrameTimeVector (0018,1065), FrameTime (0018,1063), CineRate (0018,0040) or (0008,2144)."""
    try:
        vector = np.atleast_1d(np.asarray(header.get("FrameTimeVector") or [], float))
        if len(vector) == frames and np.isfinite(vector).all() and (vector[1:] > 0).all():
            return (np.cumsum(vector) - vector[0]) / 1000
        step = float(header.get("FrameTime") or 0)
        rate = 1000 / step if step > 0 else float(header.get("CineRate") or 0)
        return even_times(frames, rate or float(header.get("RecommendedDisplayFrameRate") or 0))
    except (TypeError, ValueError):
        return even_times(frames, None)


def _one(header: Any, syntax: str) -> Dataset:
    """The header of a file with a single frame of this one."""
    one = Dataset()
    for keyword in PIXEL_MODULE:
        if keyword in header:
            one[keyword] = header[keyword]
    view = tags.FrameView(header, 0)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        value = view.get(keyword)
        if value is not None:
            setattr(one, keyword, value)
    one.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    one.SOPInstanceUID = str(header.get("SOPInstanceUID") or pydicom.uid.generate_uid())
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.pixel_vr = getattr(header, "pixel_vr", "OW")
    one.is_implicit_VR = one.file_meta.TransferSyntaxUID.is_implicit_VR
    one.is_little_endian = one.file_meta.TransferSyntaxUID.is_little_endian
    return one


def _decode(header: Dataset, data: bytes) -> np.ndarray:
    """One frame by the decoders of whole files: a file of its own that has only this frame.

    Their way with color spaces, palettes, bit depths and rescaling is what the frame would have in a volume.
    """
    one = Dataset(header)
    one.file_meta = header.file_meta
    one.is_implicit_VR, one.is_little_endian = header.is_implicit_VR, header.is_little_endian
    packed = header.file_meta.TransferSyntaxUID.is_compressed
    # big-endian files swap the bytes of words, whatever is in these
    one.add_new(PIXELS, "OB" if packed else header.pixel_vr, encapsulate([data]) if packed else data)
    one[PIXELS].is_undefined_length = packed
    with tempfile.NamedTemporaryFile(prefix="frame-", suffix=".dcm") as file:
        one.save_as(file, write_like_original=False)
        file.flush()
        return np.ascontiguousarray(read_pixels(Path(file.name))[:, :, 0])


def _read(file: IO[bytes], pieces: Pieces) -> bytes:
    found = []
    for offset, length in pieces:
        file.seek(offset)
        found.append(file.read(length))
    return b"".join(found)


def _pieces(path: Path, file: IO[bytes], header: Any, syntax: Any, frames: int) -> tuple[Pieces, ...]:
    """Where the frames are; `file` stands at the pixel data, where pydicom stops."""
    order = "little" if header.is_little_endian else "big"

    def number(size: int) -> int:
        read = file.read(size)
        if len(read) < size:
            raise Unprocessable(f"video '{path.name}' is truncated: it ends within its frames.")
        return int.from_bytes(read, order)  # type: ignore[arg-type]

    def tag() -> int:
        return number(2) << 16 | number(2)

    if tag() != int(PIXELS):
        raise Unprocessable(f"video '{path.name}' is a DICOM file without pixels")
    if not header.is_implicit_VR:
        header.pixel_vr = file.read(2).decode("ascii", "replace")
        number(2)  # empty
    length = number(4)
    if not syntax.is_compressed:
        return _native(path, file.tell(), header, length, frames)
    if tag() != ITEM:
        raise Unprocessable(f"video '{path.name}' is damaged: it has no table of its frames.")
    table = np.frombuffer(file.read(number(4)), "<u4").tolist()
    items: list[tuple[int, int]] = []
    while (found := tag()) != END:
        if found != ITEM:
            raise Unprocessable(f"video '{path.name}' is damaged after {len(items)} pieces of frames.")
        size = number(4)
        items.append((file.tell(), size))
        file.seek(size, 1)
    return _grouped(path, file, items, table, frames)


def _native(path: Path, start: int, header: Any, length: int, frames: int) -> tuple[Pieces, ...]:
    samples = int(header.get("SamplesPerPixel") or 1)
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
    bits = int(header.Rows) * int(header.Columns) * samples * int(header.BitsAllocated)
    if bits % 8:
        raise Unprocessable(f"video '{path.name}' has frames that do not begin at whole bytes.")
    size = bits // 8
    there = min(length, path.stat().st_size - start) // size
    if there < frames:
        raise Unprocessable(f"video '{path.name}' says it has {frames} frames but holds {there}.")
    return tuple(((start + n * size, size),) for n in range(frames))


def _grouped(
    path: Path, file: IO[bytes], items: list[tuple[int, int]], table: list[int], frames: int
) -> tuple[Pieces, ...]:
    """Pieces by frame: one each, or as the table says, or from one beginning to the next (PS3.5 A.4)."""
    if frames == 1:
        return (tuple(items),)
    if len(items) == frames:
        return tuple((item,) for item in items)
    if len(table) == frames and items:
        first = items[0][0] - 8  # offsets count from the first item's tag
        begins = [any(offset - 8 - first == at for at in table) for offset, _ in items]
    else:
        begins = [_read(file, ((offset, 2),)) in BEGINNINGS for offset, _ in items]
    if sum(begins) != frames or not begins[0]:
        raise Unprocessable(f"video '{path.name}' says it has {frames} frames but holds {sum(begins)}.")
    groups: list[list[tuple[int, int]]] = []
    for item, starts in zip(items, begins, strict=True):
        if starts:
            groups.append([])
        groups[-1].append(item)
    return tuple(tuple(group) for group in groups)
