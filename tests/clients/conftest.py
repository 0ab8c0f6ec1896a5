"""The real server, on a datastore of images with one bright ellipsoid each, and what its tests share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk
from clients.ohif.browser import CHROMIUM, chromium
from monailabel.client.client import MONAILabelClient
from monailabel.datastore.utils.convert import dicom_to_nifti
from PIL import Image
from playwright.sync_api import Browser
from programs import REPOSITORY, MonaiLabel
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from lib.imaging.volume import load_volume


@dataclass(frozen=True)
class Study:
    """An image of the datastore, with one bright ellipsoid on dark ground.

    Attributes
    ----------
    name : str
        Its id in the datastore.
    path : Path
    inside : ndarray of bool, (I, J, K)
        The ellipsoid, in the file's array order.
    centre : tuple of int
        Voxel (i, j, k) in the middle of it.
    axis : int
        Along which its slices were acquired.
    """

    name: str
    path: Path
    inside: np.ndarray
    centre: tuple[int, int, int]
    axis: int

    @property
    def click(self) -> list[int]:
        return list(self.centre)

    def corner_mask(self) -> np.ndarray:
        """An L on the ellipsoid's slice, as `letter` draws it."""
        mask = np.zeros(self.inside.shape, bool)
        place: list[Any] = [slice(None)] * 3
        place[self.axis] = self.centre[self.axis]
        plane = mask[tuple(place)]
        plane[...] = letter(plane.shape)
        return mask


@dataclass(frozen=True)
class DicomStudy(Study):
    """A NIfTI file that MONAI Label made of a DICOM series, and the slices of that series.

    Attributes
    ----------
    positions : ndarray (N, 3)
        ImagePositionPatient (LPS, mm) of each slice in the order in which they were written.
    pixels : list of ndarray (rows, columns)
        Their pixels in the same order.
    rows, columns : ndarray (3,)
        Steps in mm (LPS) from one column to the next along a row, and from one row to the next.
    """

    positions: np.ndarray
    pixels: list[np.ndarray]
    rows: np.ndarray
    columns: np.ndarray


def letter(shape: tuple[int, ...]) -> np.ndarray:
    """A slice-wide L, bool (A, B): no flip, no turn and no swap of axes leaves it as it is."""
    mask = np.zeros(shape, bool)
    mask[2:-3, 4:9] = mask[2:14, 4:-5] = True
    return mask


def _ellipsoid(shape: tuple[int, ...], centre: tuple[int, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def _intensities(inside: np.ndarray, seed: int) -> np.ndarray:
    """200 in it, 60 around it, noise of 6: signed 16 bit."""
    noise = np.random.default_rng(seed).normal(0, 6, inside.shape)
    return (np.where(inside, 200, 60) + noise).round().astype(np.int16)


def _affine(rotation: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * spacing
    affine[:3, 3] = (-31.5, 17.25, 102.125)
    return affine


# name: shape, affine, slice axis, ending
VOLUMES = {
    "axial": ((72, 60, 12), _affine((0, 0, 0), (0.9, 1.1, 3.0)), 2, ".nii.gz"),
    "oblique": ((60, 72, 12), _affine((21, -13, 0), (0.9, 0.8, 2.5)), 2, ".nii.gz"),
    "flipped": ((72, 60, 12), _affine((0, 0, 0), (-0.9, -0.8, -3.0)), 2, ".nii.gz"),
    "sagittal": ((12, 72, 60), _affine((0, 0, 4), (4.0, 0.9, 0.9)), 0, ".nii"),
    "oblique_nrrd": ((72, 60, 12), _affine((-17, 9, 34), (0.8, 0.9, 3.0)), 2, ".nrrd"),
}
PICTURES = ("photo_rgb", "photo_gray")

# name: row and column direction (ImageOrientationPatient), sign of the slice step in the file order
SERIES = {
    "dicom_axial": ((1, 0, 0), (0, 1, 0), 1),
    "dicom_descending": ((1, 0, 0), (0, 1, 0), -1),
    "dicom_sagittal": ((0, 1, 0), (0, 0, -1), 1),
    "dicom_oblique": (
        tuple(Rotation.from_euler("xy", (20, -15), degrees=True).apply((1, 0, 0))),
        tuple(Rotation.from_euler("xy", (20, -15), degrees=True).apply((0, 1, 0))),
        1,
    ),
}


def _write_volume(folder: Path, name: str) -> Study:
    shape, affine, axis, ending = VOLUMES[name]
    centre = tuple(int(n * share) for n, share in zip(shape, (0.44, 0.55, 0.5), strict=True))
    radii = [3.6 if a == axis else r for a, r in zip(range(3), (13, 10, 11), strict=True)]
    inside = _ellipsoid(shape, centre, tuple(radii))
    voxels = _intensities(inside, len(name))
    path = folder / f"{name}{ending}"
    if ending == ".nrrd":
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(voxels, affine), path)
    return Study(name, path, inside, (centre[0], centre[1], centre[2]), axis)


def _write_picture(folder: Path, name: str) -> Study:
    shape, centre = (150, 100), (62, 55)
    inside = _ellipsoid(shape, centre, (24, 18))
    gray = np.clip(_intensities(inside, 5), 0, 255).astype(np.uint8)
    pixels = gray.T  # pictures are stored by rows
    if name == "photo_rgb":
        pixels = np.stack([pixels, pixels // 2, 255 - pixels], axis=-1)
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return Study(name, path, inside[:, :, None], (*centre, 0), 2)


def _write_series(folder: Path, work: Path, name: str) -> DicomStudy:
    row, column, sign = SERIES[name]
    row, column = np.array(row, float), np.array(column, float)
    normal = np.cross(row, column)
    height, width, count = 60, 72, 10
    inside = _ellipsoid((count, height, width), (5, 28, 40), (3.2, 12, 10))
    stored = _intensities(inside, len(name))
    series = work / name
    series.mkdir()
    uid, positions = generate_uid(entropy_srcs=[name])[:50], []
    for n in range(count):
        positions.append(np.array([-20.5, 11.25, 40.0]) + sign * n * 3.0 * normal)
        _write_slice(series / f"slice{n:03d}.dcm", stored[n], n, positions[-1], row, column, uid)
    converted = Path(dicom_to_nifti(str(series)))
    path = folder / f"{name}.nii.gz"
    path.write_bytes(converted.read_bytes())
    converted.unlink()
    # the ellipsoid in the file's order: files store columns first, and sort slices along the normal
    ordered = inside if sign > 0 else inside[::-1]
    centre = (40, 28, 5 if sign > 0 else count - 6)
    return DicomStudy(
        name=name,
        path=path,
        inside=ordered.transpose(2, 1, 0),
        centre=centre,
        axis=2,
        positions=np.array(positions),
        pixels=list(stored),
        rows=row * 0.7,
        columns=column * 0.9,
    )


def _write_slice(
    path: Path,
    pixels: np.ndarray,
    number: int,
    position: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    series: str,
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = series + ".1", series
    dataset.Modality, dataset.InstanceNumber = "MR", number + 1
    dataset.ImagePositionPatient = [round(float(x), 9) for x in position]
    dataset.ImageOrientationPatient = [round(float(x), 9) for x in (*row, *column)]
    dataset.PixelSpacing = [0.9, 0.7]  # between rows, between columns
    dataset.SliceThickness = 3.0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset.save_as(path, write_like_original=False)


@dataclass(frozen=True)
class Server:
    """A running server: its address, the folder of its images, and its log."""

    url: str
    folder: Path
    log: Path


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """The datastore's images by id; the folder also holds the demo study and two damaged files."""
    folder = tmp_path_factory.mktemp("studies")
    work = tmp_path_factory.mktemp("series")
    subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "demo_study", folder], check=True, capture_output=True
    )
    made: list[Study] = [_write_volume(folder, name) for name in VOLUMES]
    made += [_write_picture(folder, name) for name in PICTURES]
    made += [_write_series(folder, work, name) for name in SERIES]
    whole = (folder / "axial.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 5, 3), np.int16), np.eye(4)), folder / "series_4d.nii.gz")
    return {study.name: study for study in made}


@pytest.fixture(scope="session")
def server(studies: dict[str, Study], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MONAI Label with this app, as `scripts/start` runs it."""
    folder = studies["axial"].path.parent
    with MonaiLabel(folder, tmp_path_factory.mktemp("server")) as running:
        yield Server(running.address, folder, running.log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(running, Server):
        report.sections.append(("server log", running.log.read_text(errors="replace")[-4000:]))
    return report


@pytest.fixture
def client(server: Server, tmp_path: Path) -> MONAILabelClient:
    """The library that the 3D Slicer module talks through."""
    return MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="user-xyz")


@pytest.fixture
def slicer_params(client: MONAILabelClient) -> Callable[..., dict[str, Any]]:
    """The params that Slicer's module makes of clicks: the first of each of the model's options, and more."""
    config = {name: model["config"] for name, model in client.info()["models"].items()}

    def make(model: str, **fields: object) -> dict[str, Any]:
        chosen = {key: value[0] if isinstance(value, list) else value for key, value in config[model].items()}
        return {**fields, **chosen, "result_extension": ".nrrd", "result_dtype": "uint8"}

    return make


@pytest.fixture
def post(server: Server) -> Callable[..., requests.Response]:
    """POST /infer/{model} as any HTTP client does: params as an object or as the very text to send."""

    def send(
        model: str,
        params: object,
        image: str | None = None,
        files: dict[str, Any] | None = None,
        **query: str,
    ) -> requests.Response:
        text = params if isinstance(params, str) else json.dumps(params)
        query = {**({} if image is None else {"image": image}), **query}
        return requests.post(
            f"{server.url}/infer/{model}", params=query, data={"params": text}, files=files, timeout=120
        )

    return send


@pytest.fixture
def ohif(post: Callable[..., requests.Response]) -> Callable[..., bytes]:
    """OHIF's request: fields that it always sends, and nothing but a file as the answer."""

    def send(model: str, image: str, **fields: object) -> bytes:
        always = {
            "result_extension": ".nrrd",
            "result_dtype": "uint8",
            "result_compress": False,
            "restore_label_idx": False,
        }
        answer = post(model, {**fields, **always}, image, output="image")
        assert answer.status_code == 200, answer.text
        return answer.content

    return send


@pytest.fixture(scope="session")
def same_grid() -> Callable[[Path | str, Path], None]:
    """Fails unless two files have the same size, spacing, origin and direction, in ITK's eyes and in ours."""

    def check(answer: Path | str, image: Path) -> None:
        mine, its = sitk.ReadImage(str(answer)), sitk.ReadImage(str(image))
        n = its.GetDimension()  # pictures have two dimensions, and their answers one slice
        assert mine.GetSize()[:n] == its.GetSize()
        np.testing.assert_allclose(mine.GetSpacing()[:n], its.GetSpacing(), atol=1e-4)
        np.testing.assert_allclose(mine.GetOrigin()[:n], its.GetOrigin(), atol=1e-4)
        turned = np.reshape(mine.GetDirection(), (mine.GetDimension(),) * 2)[:n, :n]
        np.testing.assert_allclose(turned.ravel(), its.GetDirection(), atol=1e-4)
        read = load_volume(Path(answer)), load_volume(image)
        assert read[0].shape3 == read[1].shape3
        np.testing.assert_allclose(read[0].affine, read[1].affine, atol=1e-4)

    return check


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.fail("Chromium is not installed: scripts/test does it, or apt-get install chromium")
    with chromium() as running:
        yield running
