"""A labelled phantom as DICOM series, CT and MR, with slices lying in the patient in every way there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

COUNT, ROWS, COLUMNS = 8, 96, 112
SPACING = 0.9, 0.8  # mm between rows, between columns
STEP = 2.5  # mm between slices

# structure: centre and radii along (slice, row, column), grey value (HU in a CT)
STRUCTURES = {
    "liver": ((3, 40, 36), (2.4, 20, 17), 180),
    "tumour": ((4, 62, 84), (2.4, 13, 11), 120),
}
GROUND = -20
LIVER, TUMOUR = 3, 4  # slices in the middle of each


@dataclass(frozen=True)
class Kind:
    """How a series was taken: its row and column direction (LPS), and the sign of its slice step."""

    modality: str
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    sign: int = 1


def _turned(*direction: float) -> tuple[float, float, float]:
    x, y, z = Rotation.from_euler("xyz", (20, -15, 9), degrees=True).apply(direction)
    return float(x), float(y), float(z)


KINDS = {
    "ct_axial": Kind("CT", (1, 0, 0), (0, 1, 0)),
    "ct_descending": Kind("CT", (1, 0, 0), (0, 1, 0), sign=-1),
    "ct_flipped": Kind("CT", (-1, 0, 0), (0, -1, 0)),
    "mr_sagittal": Kind("MR", (0, 1, 0), (0, 0, -1)),
    "mr_oblique": Kind("MR", _turned(1, 0, 0), _turned(0, 1, 0)),
}
# further series: one that no test labels, one whose label takes two attempts, and one that others learn from
OTHERS = {name: KINDS["ct_axial"] for name in ("unlabelled", "interrupted", "exemplar")}


@dataclass(frozen=True)
class Series:
    """A series in the archive, and the truth about it.

    Attributes
    ----------
    uid, study : str
        SeriesInstanceUID and StudyInstanceUID.
    to_world : ndarray (4, 4)
        Index (slice, row, column) in the order of the files -> LPS mm.
    truth : dict of ndarray, bool (slices, rows, columns)
        Each structure.
    """

    name: str
    uid: str
    study: str
    to_world: np.ndarray
    truth: dict[str, np.ndarray]

    def world(self, *index: float) -> list[float]:
        """LPS mm of an index (slice, row, column)."""
        return (self.to_world @ [*index, 1])[:3].tolist()

    def indices(self, world_to_index: np.ndarray) -> np.ndarray:
        """Where every voxel of the series is on another grid: integer (slices, rows, columns, 3).

        Raises
        ------
        AssertionError
            If the grids' voxels do not lie on each other.
        """
        here = np.stack(np.indices((COUNT, ROWS, COLUMNS)), axis=-1).reshape(-1, 3)
        found = (here @ self.to_world[:3, :3].T + self.to_world[:3, 3]) @ world_to_index[:3, :3].T
        found += world_to_index[:3, 3]
        np.testing.assert_allclose(found, np.rint(found), atol=0.02)
        return np.rint(found).astype(int).reshape(COUNT, ROWS, COLUMNS, 3)


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices((COUNT, ROWS, COLUMNS))
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def write(name: str, kind: Kind, folder: Path) -> tuple[Series, list[Path]]:
    """Write the phantom as a series in a study of its own; returns the series and its files."""
    row, column = np.array(kind.row), np.array(kind.column)
    step = kind.sign * STEP * np.cross(row, column)
    to_world = np.eye(4)
    to_world[:3] = np.stack([step, column * SPACING[0], row * SPACING[1], (-40.5, 21.25, 60.0)], axis=1)
    truth = {structure: ellipsoid(centre, radii) for structure, (centre, radii, _) in STRUCTURES.items()}
    noise = np.random.default_rng(len(name)).normal(0, 8, (COUNT, ROWS, COLUMNS))
    pixels = GROUND + noise
    for structure, (_, _, value) in STRUCTURES.items():
        pixels[truth[structure]] += value - GROUND
    if kind.modality == "MR":
        pixels = pixels + 300
    study = generate_uid(entropy_srcs=[name, "study"])
    series = generate_uid(entropy_srcs=[name, "series"])
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for n in range(COUNT):
        files.append(folder / f"{n:03d}.dcm")
        position = to_world[:3, :3] @ (n, 0, 0) + to_world[:3, 3]
        _write_slice(files[-1], kind, name, n, position, pixels[n], study, series)
    return Series(name, series, study, to_world, truth), files


def _write_slice(
    path: Path,
    kind: Kind,
    patient: str,
    number: int,
    position: np.ndarray,
    pixels: np.ndarray,
    study: str,
    series: str,
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if kind.modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
    dataset.PatientID = dataset.PatientName = patient
    dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber = "", "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription, dataset.SeriesNumber = patient, 1
    dataset.Modality, dataset.InstanceNumber = kind.modality, number + 1
    dataset.ImagePositionPatient = [round(float(x), 9) for x in position]
    dataset.ImageOrientationPatient = [round(float(x), 9) for x in (*kind.row, *kind.column)]
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), STEP
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    shift = 1024 if kind.modality == "CT" else 0
    if kind.modality == "CT":
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -shift, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = (80, 400) if kind.modality == "CT" else (380, 400)
    dataset.PixelData = (pixels + shift).round().astype("<i2").tobytes()
    dataset.save_as(path, write_like_original=False)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1)


def assert_in_place(found: np.ndarray, truth: np.ndarray, least: float) -> None:
    """The mask overlaps the truth, and its middle is where the truth's is, to a voxel."""
    assert dice(found, truth) >= least
    shift = np.argwhere(found).mean(axis=0) - np.argwhere(truth).mean(axis=0)
    assert np.abs(shift).max() <= 1, shift


def only(mask: np.ndarray, index: int) -> np.ndarray:
    kept = np.zeros_like(mask)
    kept[index] = mask[index]
    return kept
