"""A real PACS (Orthanc), series to fill it with, and a proxy in front of it that fails on demand."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from archive import Archive
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from lib.datastores.dicomweb import PacsDatastore
from lib.datastores.pacs import Pacs, TimeLimit
from lib.imaging.seg.write import Algorithm


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with Archive(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def archive(orthanc: Archive) -> Archive:
    """An empty archive."""
    orthanc.clear()
    return orthanc


class Proxy:
    """Passes requests on to an archive, unless told to fail.

    Attributes
    ----------
    fault : str
        ``""``; ``"slow"``: no answer; ``"error"``: status 500; ``"cut"``: breaks off in the middle of a
        download; ``"short"``: a download without its last instance; ``"refuse"``: 400 to storing.
    delay : float
        Seconds that a slow one waits.
    asked : list of str
        The requests, as `GET /path`.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive, self.fault, self.delay = archive, "", 3.0
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                proxy.connections.append(self.connection)

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                proxy.pass_on(self, "GET", None)

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.pass_on(self, "POST", body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"

    def pass_on(self, handler: BaseHTTPRequestHandler, method: str, body: bytes | None) -> None:
        self.asked.append(f"{method} {handler.path}")
        download = method == "GET" and bool(re.search(r"/series/[0-9.]+$", handler.path))
        if self.fault == "slow":
            time.sleep(self.delay)
        if self.fault == "error" or (self.fault == "refuse" and method == "POST"):
            handler.send_response(500 if self.fault == "error" else 400)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        headers = {k: v for k, v in handler.headers.items() if k in ("Accept", "Content-Type")}
        answer = requests.request(
            method,
            f"{self.archive.address}{handler.path}",
            data=body,
            headers=headers,
            timeout=30,
        )
        content = answer.content
        if self.fault == "short" and download:
            boundary = content[: content.index(b"\r\n")]
            parts = content.split(b"\r\n" + boundary)
            content = (b"\r\n" + boundary).join([*parts[:-2], parts[-1]])
        handler.send_response(answer.status_code)
        handler.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if self.fault == "cut" and download:
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(content)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(archive: Archive) -> Iterator[Proxy]:
    made = Proxy(archive)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def session_proxy(orthanc: Archive) -> Iterator[Proxy]:
    """One that stays, for a server that is started once."""
    made = Proxy(orthanc)
    made.delay = 12.0  # beyond the server's time limit, which a busy machine must not reach by itself
    yield made
    made.stop()


@pytest.fixture
def connect(tmp_path: Path) -> Callable[..., PacsDatastore]:
    """A datastore on a DICOMweb address, its cache in the test's folder; the same call is a restart."""
    from dicomweb_client.session_utils import create_session
    from monailabel.datastore.dicom import DICOMwebClientX

    def make(url: str, seconds: float = 20.0, filters: dict[str, str] | None = None) -> PacsDatastore:
        session = create_session()
        session.mount("http://", TimeLimit(seconds))
        pacs = Pacs(DICOMwebClientX(url=url, session=session), seconds)
        return PacsDatastore(pacs, tmp_path / "cache", lambda: Algorithm("test", "1"), filters)

    return make


@dataclass
class Written:
    """A series on disk.

    Attributes
    ----------
    folder : Path
    uid : str
    voxels : np.ndarray
        (I, J, K): columns, rows, slices in the order they were written.
    """

    folder: Path
    uid: str
    voxels: np.ndarray
    files: list[Path] = field(default_factory=list)


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = np.diag([0.7, 0.9, 3.0, 1.0])


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., Written]:
    """Writes a series of single slices; `lps` is the affine from (column, row, slice) to LPS mm."""

    def write(
        name: str,
        voxels: np.ndarray | None = None,
        lps: np.ndarray = AXIAL,
        modality: str = "MR",
        skip: tuple[int, ...] = (),
        **tags: object,
    ) -> Written:
        folder = tmp_path / name
        folder.mkdir()
        if voxels is None:
            voxels = np.random.default_rng(len(name)).integers(0, 900, (21, 17, 8)).astype(np.int16)
        uid, study = generate_uid(), generate_uid()
        unit = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
        made = Written(folder, uid, voxels)
        for k in range(voxels.shape[2]):
            if k in skip:
                continue
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path = folder / f"{voxels.shape[2] - k:03d}.dcm"
            ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
            ds.is_little_endian, ds.is_implicit_VR = True, False
            ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, uid, f"{study}.1"[:64]
            ds.PatientID, ds.PatientName, ds.Modality, ds.InstanceNumber = name, name, modality, k + 1
            ds.StudyDate, ds.StudyTime = "20200102", "101112"
            ds.ImagePositionPatient = [round(float(x), 6) for x in lps[:3, 3] + k * lps[:3, 2]]
            ds.ImageOrientationPatient = [round(float(x), 6) for x in unit[:, :2].T.ravel()]
            ds.PixelSpacing = [float(x) for x in np.linalg.norm(lps[:3, [1, 0]], axis=0).round(6)]
            ds.SliceThickness = 3.0
            ds.Rows, ds.Columns = voxels.shape[1], voxels.shape[0]
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated = ds.BitsStored = 16
            ds.HighBit, ds.PixelRepresentation = 15, 1
            ds.WindowCenter, ds.WindowWidth = 300, 500
            if modality == "CT":
                ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
            ds.PixelData = voxels[:, :, k].T.astype("<i2").tobytes()
            for keyword, value in tags.items():
                setattr(ds, keyword, value)
            ds.save_as(path, write_like_original=False)
            made.files.append(path)
        return made

    return write


@pytest.fixture
def cine(tmp_path: Path) -> Path:
    """A real two-frame colour file of pydicom's, as an ultrasound cine."""
    source = Path(pydicom.__file__).parent / "data" / "test_files" / "SC_rgb_rle_2frame.dcm"
    ds = pydicom.dcmread(source)
    ds.Modality, ds.SeriesInstanceUID = "US", generate_uid()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    ds.save_as(tmp_path / "cine.dcm")
    return tmp_path / "cine.dcm"
