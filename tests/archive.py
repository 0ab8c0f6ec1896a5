"""Orthanc, a real PACS, as tests need it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orthanc
import pydicom
import requests
from programs import Program, free_port

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
        self.port = free_port()
        command = orthanc.prepare(folder, self.port)
        super().__init__(command, self.port, "/system", folder / "orthanc.log", folder)

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
