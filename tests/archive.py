"""Orthanc, a real PACS, as tests need it."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pydicom
import requests
from programs import Program, free_port

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
DICOMWEB = next(
    (
        path
        for folder in ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc")
        for path in Path(folder).glob("libOrthancDicomWeb.so*")
    ),
    None,
)
SECONDS = 60


class Archive(Program):
    """An Orthanc that is empty when it is first started; after a stop it starts with what it had.

    Parameters
    ----------
    folder : Path
        An existing folder for its files and its log.

    Raises
    ------
    RuntimeError
        If Orthanc or its DICOMweb plugin is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if ORTHANC is None or DICOMWEB is None:
            raise RuntimeError(
                "Orthanc is not installed: scripts/test does it, or apt-get install orthanc orthanc-dicomweb"
            )
        self.port = free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            # Orthanc listens on every address of the machine and has no setting for it: others are refused.
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        super().__init__([ORTHANC, "orthanc.json"], self.port, "/system", folder / "orthanc.log", folder)

    @property
    def url(self) -> str:
        """Where its DICOMweb begins."""
        return f"{self.address}/dicom-web"

    def rest(self, method: str, path: str, **more: Any) -> Any:
        answer = requests.request(method, f"{self.address}{path}", timeout=SECONDS, **more)
        answer.raise_for_status()
        return answer.json()

    def add(self, *files: Path) -> str:
        """Store files of one series, or a folder of them; returns its SeriesInstanceUID."""
        found = [f for file in files for f in (sorted(file.iterdir()) if file.is_dir() else [file])]
        for file in found:
            self.rest("POST", "/instances", data=file.read_bytes())
        return str(pydicom.dcmread(found[0], stop_before_pixels=True).SeriesInstanceUID)

    def delete(self, series: str) -> None:
        (found,) = self.rest("POST", "/tools/lookup", data=series)
        self.rest("DELETE", f"/series/{found['ID']}")

    def clear(self) -> None:
        for patient in self.rest("GET", "/patients"):
            self.rest("DELETE", f"/patients/{patient}")

    def segs(self, study: str | None = None) -> list[pydicom.Dataset]:
        """The DICOM SEGs that it has, of all studies or of one."""
        wanted = {"Modality": "SEG", **({"StudyInstanceUID": study} if study else {})}
        query = {"Level": "Instance", "Query": wanted}
        found = []
        for instance in self.rest("POST", "/tools/find", json=query):
            file = requests.get(f"{self.address}/instances/{instance}/file", timeout=SECONDS)
            found.append(pydicom.dcmread(io.BytesIO(file.content)))
        return found
