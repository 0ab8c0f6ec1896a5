"""Our panel in MONAI Label's OHIF: one script tag in its page, the files behind it, and where voxels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, HTMLResponse, Response
from monailabel.config import settings
from monailabel.endpoints.ohif import get_ohif
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.app import MONAILabelApp

from lib.errors import NotFound, UserError
from lib.imaging.store import load_cached
from lib.server.app import ready_app

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "ohif"
TYPES = {".js": "text/javascript", ".css": "text/css"}
SCRIPT = '<script type="module" src="/biosam2/ohif/main.js"></script>'
# Browsers keep the files, but ask each time whether they are still the same.
FRESH = {"Cache-Control": "no-cache"}

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

router = APIRouter()
user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))


@router.get("/ohif/{path:path}", include_in_schema=False)
async def page(path: str, _: Any = user) -> Response:
    """MONAI Label's own answer; where that is OHIF's page, with our script at its end."""
    answer = get_ohif(path)
    if Path(answer.path).name != "index.html":
        return answer
    html = Path(answer.path).read_text(encoding="utf-8")
    head, end, tail = html.rpartition("</body>")
    return HTMLResponse(f"{head}{SCRIPT}{end}{tail}" if end else html + SCRIPT, headers=FRESH)


@router.get("/biosam2/ohif/{name}", include_in_schema=False)
async def client_file(name: str, _: Any = user) -> Response:
    """A file of the panel.

    Raises
    ------
    NotFound
        If the panel has no such file.
    """
    path = CLIENT / name
    if path.parent != CLIENT or path.suffix not in TYPES or not path.is_file():
        raise NotFound(f'"{name[:80]}" is not a file of the panel.')
    return FileResponse(path, media_type=TYPES[path.suffix], headers=FRESH)


# Not async: fetching a series from the archive takes a while, and other requests go on meanwhile.
@router.get("/biosam2/grid", summary="Voxels of an image and where they are")
def grid(image: str, _: Any = user) -> dict[str, Any]:
    """The voxels that every index of a request counts, and where they are in the patient.

    The image is fetched from the archive if it is not here yet, so that the first click need not wait.

    Returns
    -------
    dict
        `shape` [I, J, K], `slice_axis`, `to_world`: 4x4 rows, voxel index (centre of the voxel) -> LPS mm,
        as DICOM counts; `study`: StudyInstanceUID, or None outside an archive.

    Raises
    ------
    NotFound
        If the datastore has no such image.
    """
    instance: MONAILabelApp = ready_app()
    datastore = instance.datastore()
    if not image or not instance.is_known(image, datastore):
        raise NotFound(f'image "{image[:80]}" is not in the datastore.')
    volume = load_cached(Path(datastore.get_image_uri(image)))
    if volume.kind == "raster":
        raise UserError(f'image "{image[:80]}" is a picture and has no place in a patient.')
    return {
        "image": image,
        "shape": list(volume.shape3),
        "slice_axis": volume.slice_axis,
        "to_world": (RAS_TO_LPS @ volume.affine).tolist(),
        "study": datastore.get_image_info(image).get("StudyInstanceUID"),
    }
