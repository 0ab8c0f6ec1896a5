"""How Orthanc is started as a PACS of this machine alone: for the demo, and for the tests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

PROGRAM = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
DICOMWEB = next(
    (
        path
        for folder in ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc")
        for path in Path(folder).glob("libOrthancDicomWeb.so*")
    ),
    None,
)


def prepare(folder: Path, port: int) -> list[str]:
    """Write the settings of an Orthanc into an existing folder, which also keeps its images.

    Returns
    -------
    list of str
        The command that starts it, with `folder` as its working directory.

    Raises
    ------
    RuntimeError
        If Orthanc or its DICOMweb plugin is not installed.
    """
    if PROGRAM is None or DICOMWEB is None:
        raise RuntimeError(
            "Orthanc or its DICOMweb plugin is not installed: on Debian and Ubuntu, "
            "apt-get install orthanc orthanc-dicomweb"
        )
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        # Orthanc listens on every address of the machine and has no setting for it: others are refused.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings, indent=1))
    return [PROGRAM, "orthanc.json"]
