"""A CVAT address -> the datastore, by MONAI Label's own settings."""

from __future__ import annotations

from pathlib import Path

from monailabel.config import settings

from lib.datastores.cvat.client import Account, CvatClient
from lib.datastores.cvat.datastore import CvatDatastore
from lib.errors import UserError


def is_chosen() -> bool:
    """Whether MONAI_LABEL_DATASTORE says that the images are in CVAT."""
    return settings.MONAI_LABEL_DATASTORE.strip().lower() == "cvat"


def connect(studies: str) -> CvatDatastore:
    """The datastore of the CVAT at an address; it is not asked yet, and may be down.

    Parameters
    ----------
    studies : str
        Such as http://localhost:8080. MONAI_LABEL_DATASTORE_URL holds where it is none, as in MONAI Label,
        whose images are in a folder from which it fills CVAT; here they are in CVAT.

    Returns
    -------
    CvatDatastore
        By MONAI Label's settings, which are environment variables: MONAI_LABEL_DATASTORE_USERNAME and
        _PASSWORD, or _API_KEY; _PROJECT, name or number of the only project to use; _CACHE_PATH.

    Raises
    ------
    UserError
        If neither is an address.
    """
    addresses = (studies, settings.MONAI_LABEL_DATASTORE_URL)
    url = next((one for one in addresses if one.startswith(("http://", "https://"))), None)
    if url is None:
        raise UserError(
            "MONAI_LABEL_DATASTORE is cvat: --studies must be CVAT's address, such as http://localhost:8080, "
            f"not '{studies[:200]}'. Images are taken from CVAT's tasks; add those of a folder there."
        )
    account = Account(
        settings.MONAI_LABEL_DATASTORE_USERNAME.strip(),
        settings.MONAI_LABEL_DATASTORE_PASSWORD,
        settings.MONAI_LABEL_DATASTORE_API_KEY.strip(),
    )
    cache = settings.MONAI_LABEL_DATASTORE_CACHE_PATH.strip()
    return CvatDatastore(
        CvatClient(url, account),
        Path(cache) if cache else Path.home() / ".cache" / "monailabel" / "cvat",
        settings.MONAI_LABEL_DATASTORE_PROJECT,
    )
