"""A DICOMweb address -> the datastore, by MONAI Label's own settings."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monailabel.endpoints.infer
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX

from lib.datastores.dicomweb import PacsDatastore
from lib.datastores.labels import read_label, segments_of
from lib.datastores.pacs import Pacs, TimeLimit
from lib.imaging.readers.dicom_layout import read_layout
from lib.imaging.seg.write import Algorithm, write_seg
from lib.imaging.store import load_cached

logger = logging.getLogger(__name__)


def connect(url: str, algorithm: Callable[[], Algorithm]) -> PacsDatastore:
    """The datastore of the PACS at a DICOMweb address; the PACS is not asked yet, and may be down.

    Parameters
    ----------
    url : str
        Such as http://localhost:8042/dicom-web.
    algorithm : callable
        The served checkpoint's name and version.

    Returns
    -------
    PacsDatastore
        By MONAI Label's settings, which are environment variables: MONAI_LABEL_DICOMWEB_USERNAME and
        _PASSWORD, MONAI_LABEL_QIDO_PREFIX, _WADO_ and _STOW_, MONAI_LABEL_DICOMWEB_CACHE_PATH,
        MONAI_LABEL_DICOMWEB_SEARCH_FILTER if it is set (its default, CT only, is not used), and
        MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT, the seconds to wait for an answer.
    """
    seconds = settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT
    chosen = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER" in settings.model_fields_set
    cache = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip()
    datastore = PacsDatastore(
        Pacs(_client(url, seconds), seconds),
        Path(cache) if cache else Path.home() / ".cache" / "monailabel" / "dicom",
        algorithm,
        settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER if chosen else None,
    )
    _answer_dicom_seg(algorithm)
    return datastore


def _client(url: str, seconds: float) -> DICOMwebClient:
    if "googleapis.com" in url:
        from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials

        # Google's session has a time limit of its own, and an adapter that must stay.
        return DICOMwebClient(url=url, session=create_session_from_gcp_credentials())
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    session = create_session_from_user_pass(user, password) if user and password else requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, TimeLimit(seconds))
    return DICOMwebClientX(
        url=url,
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )


def _answer_dicom_seg(algorithm: Callable[[], Algorithm]) -> None:
    """Make `output=dicom_seg` of /infer ours.

    MONAI Label's route calls one function of its module for it, and offers no other way in. Its own drops
    empty slices and calls every structure a spleen.
    """

    def answer(series: str, label: str, label_info: list[dict[str, Any]], *_: object, **__: object) -> str:
        folder = Path(series)
        voxels = read_label(Path(label), load_cached(folder.with_name(f"{folder.name}.nii.gz")))
        segments = segments_of(voxels, {"label_info": label_info})
        seg = write_seg(voxels, read_layout(folder), segments, algorithm())
        handle, name = tempfile.mkstemp(prefix="seg-", suffix=".dcm")
        os.close(handle)
        seg.save_as(name, write_like_original=False)
        return name  # which our route in front removes once it is sent

    monailabel.endpoints.infer.nifti_to_dicom_seg = answer
