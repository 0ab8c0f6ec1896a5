"""Images that the imaging tests write for themselves: awkward affines, DICOM series, packaged real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from lib.errors import Unprocessable
from lib.imaging.volume import Volume, load_volume

SHAPE = (7, 9, 5)


def _affine(rotation: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * spacing
    affine[:3, 3] = (-31.5, 17.25, 102.125)
    return affine


AFFINES = {
    "identity": np.eye(4),
    "anisotropic": _affine((0, 0, 0), (0.7, 0.8, 3.0)),
    "flipped": _affine((0, 0, 0), (-0.9, 0.9, 2.5)),
    "lps": _affine((0, 0, 0), (-0.9, -0.9, 2.5)),
    "oblique": _affine((21, -13, 34), (0.7, 0.9, 3.0)),
    "oblique and flipped": _affine((21, -13, 134), (0.7, 0.9, -3.0)),
    "coarsest first": _affine((5, 6, 7), (4.0, 0.9, 0.9)),
}


@pytest.fixture(params=list(AFFINES), ids=[name.replace(" ", "-") for name in AFFINES])
def affine(request: pytest.FixtureRequest) -> np.ndarray:
    return AFFINES[request.param]


@pytest.fixture
def sheared() -> np.ndarray:
    """A gantry tilt of 20 degrees: the slice step is not at right angles to the slice."""
    affine = AFFINES["anisotropic"].copy()
    affine[1, 2] = 3.0 * np.tan(np.radians(20))
    return affine


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    def make(voxels: np.ndarray, **fields: object) -> Volume:
        given = {"affine": np.eye(4), "slice_axis": 2, "modality": "", "window": None, "header": None}
        return Volume(voxels=voxels, **{**given, "path": Path("x.nii"), "kind": "nifti", **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def nifti(tmp_path: Path, voxels: np.ndarray) -> Path:
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINES["oblique"]), path)
    return path


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files"


def write_slice(
    path: Path, pixels: np.ndarray, number: int, position: np.ndarray, orientation: np.ndarray, **tags: object
) -> None:
    """Write one 16-bit signed CT slice; `pixels` is (rows, columns)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.Modality = "CT"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [round(float(x), 9) for x in position]
    dataset.ImageOrientationPatient = [round(float(x), 9) for x in orientation]
    dataset.PixelSpacing = [0.9, 0.7]  # between rows (y), between columns (x)
    dataset.SliceThickness = 3.0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.WindowCenter, dataset.WindowWidth = [50, -600], [350, 1500]
    dataset.PixelData = pixels.astype("<i2").tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, write_like_original=False)


def _item(**tags: object) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


@pytest.fixture
def multi_frame(tmp_path: Path) -> Callable[..., Path]:
    """One file of several frames with functional groups; heights are the frames' z in mm (LPS)."""

    def write(voxels: np.ndarray, heights: tuple[float, ...]) -> Path:
        orientation = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        measures = _item(PixelSpacing=[0.9, 0.7], SliceThickness=3)
        shared = _item(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures])
        shared.FrameVOILUTSequence = [_item(WindowCenter=70, WindowWidth=210)]
        places = [_item(ImagePositionPatient=[10, 20, z]) for z in heights]
        path = tmp_path / "frames.dcm"
        write_slice(
            path,
            voxels[:, :, 0].T,
            1,
            np.zeros(3),
            np.array([1, 0, 0, 0, 1, 0]),
            NumberOfFrames=len(heights),
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=[_item(PlanePositionSequence=[place]) for place in places],
            PixelData=voxels.T.astype("<i2").tobytes(),
        )
        return path

    return write


@pytest.fixture
def dicom_series(tmp_path: Path) -> Callable[..., Path]:
    """A folder of slices on a given affine; voxels (I, J, K) are the stored values."""

    def write(
        voxels: np.ndarray,
        affine: np.ndarray,
        skip: tuple[int, ...] = (),
        folder: str | Path = "series",
        **tags: object,
    ) -> Path:
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        unit = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
        for k in range(voxels.shape[2]):
            if k not in skip:
                # Names run against the geometry, as exports often do.
                path = folder / f"IM{voxels.shape[2] - k:04d}"
                position = lps[:3, 3] + k * lps[:3, 2]
                write_slice(path, voxels[:, :, k].T, k + 1, position, unit[:, :2].T.ravel(), **tags)
        return folder

    return write


@pytest.fixture
def save_nifti() -> Callable[..., Path]:
    def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
        nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def save_itk() -> Callable[..., Path]:
    def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path), useCompression=path.suffix == ".nrrd")
        return path

    return save


@pytest.fixture
def unreadable() -> Callable[..., None]:
    def check(path: Path, *words: str) -> None:
        with pytest.raises(Unprocessable) as caught:
            load_volume(path)
        message = str(caught.value)
        assert caught.value.status == 422
        assert path.name in message and str(path.parent) not in message and "\n" not in message
        for word in words:
            assert word in message

    return check
