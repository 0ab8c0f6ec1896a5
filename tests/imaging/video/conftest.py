"""Videos that the tests write for themselves, with pictures that tell which frame they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

SIZE = (48, 32)
FRAMES = 30


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Frame `index`: (W, H, 3), a bar that moves to the right over a ground that gets brighter."""
    pixels = np.full((*size, 3), 40 + 3 * index, np.uint8)
    at = index % (size[0] - 8)
    pixels[at : at + 8, 8:24] = (220, 60, 30)
    return pixels


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Writes a video with PyAV; `options` are the encoder's."""

    def write(
        path: Path,
        frames: Sequence[np.ndarray] | None = None,
        codec: str = "libx264",
        pixels: str = "yuv420p",
        **options: str,
    ) -> Path:
        pictures = [picture(n) for n in range(FRAMES)] if frames is None else frames
        with av.open(str(path), "w") as film:
            stream = film.add_stream(codec, rate=25, options=options)
            stream.width, stream.height = pictures[0].shape[:2]
            stream.pix_fmt = pixels
            for one in pictures:
                given = np.ascontiguousarray(one.swapaxes(0, 1))
                frame = av.VideoFrame.from_ndarray(given, format="gray" if one.ndim == 2 else "rgb24")
                film.mux(stream.encode(frame))
            film.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def decoded() -> Callable[[Path], list[np.ndarray]]:
    """All frames of a video as FFmpeg gives them from the first to the last, (W, H, 3)."""

    def decode(path: Path) -> list[np.ndarray]:
        with av.open(str(path)) as film:
            return [frame.to_ndarray(format="rgb24").swapaxes(0, 1) for frame in film.decode(video=0)]

    return decode


@pytest.fixture
def write_cine(tmp_path: Path) -> Callable[..., Path]:
    """Writes a multi-frame DICOM file; `frames` (N, rows, columns[, 3]) or encoded frames with `syntax`."""

    def write(
        frames: np.ndarray | list[bytes],
        photometric: str = "MONOCHROME2",
        syntax: str = ExplicitVRLittleEndian,
        name: str = "cine.dcm",
        shape: tuple[int, int] | None = None,
        **tags: object,
    ) -> Path:
        path = tmp_path / name
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        cine = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        cine.is_little_endian, cine.is_implicit_VR = True, False
        cine.SOPClassUID, cine.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        cine.StudyInstanceUID, cine.SeriesInstanceUID, cine.Modality = "1.2.3", "1.2.3.4", "US"
        encoded = isinstance(frames, list)
        cine.NumberOfFrames = len(frames)
        cine.Rows, cine.Columns = shape or frames.shape[1:3]  # type: ignore[union-attr]
        cine.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
        cine.PhotometricInterpretation = photometric
        if cine.SamplesPerPixel == 3:
            cine.PlanarConfiguration = 0
        bits = 8 if encoded else 8 * frames.dtype.itemsize  # type: ignore[union-attr]
        cine.BitsAllocated = cine.BitsStored = bits
        cine.HighBit, cine.PixelRepresentation = bits - 1, 0
        for keyword, value in tags.items():
            setattr(cine, keyword, value)
        cine.PixelData = encapsulate(frames) if encoded else frames.tobytes()  # type: ignore[union-attr,arg-type]
        cine["PixelData"].is_undefined_length = encoded
        cine["PixelData"].VR = "OB" if bits == 8 else "OW"
        cine.save_as(path, write_like_original=False)
        return path

    return write


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="session")
def encoded_frames(pydicom_files: Path) -> Callable[[str], tuple[Dataset, bytes]]:
    """A compressed single-frame file of pydicom's: its header and the frame's bytes."""

    def read(name: str) -> tuple[Dataset, bytes]:
        header = pydicom.dcmread(pydicom_files / name)
        frames: Iterator[bytes] = pydicom.encaps.generate_pixel_data_frame(header.PixelData, 1)
        return header, next(iter(frames))

    return read
