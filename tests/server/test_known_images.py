"""Which images of an archive may be named in a request: any series that it has."""

from __future__ import annotations

import pytest
from main import BioSAM2App
from monailabel.datastore.dicom import DICOMWebDatastore


class _Client:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def search_for_series(self, search_filters: dict[str, str]) -> list[dict]:
        self.asked.append(search_filters["SeriesInstanceUID"])
        return [{}] if self.asked[-1] == "1.2.3.9" else []


class _Archive(DICOMWebDatastore):
    """An archive whose list, which MONAI Label keeps for two hours and limits to CT, has one series."""

    def __init__(self) -> None:
        self._client = _Client()

    def list_images(self) -> list[str]:
        return ["1.2.3.4"]


@pytest.mark.parametrize(
    ("series", "known"), [("1.2.3.4", True), ("1.2.3.9", True), ("1.2.3.5", False), ("../1.2", False)]
)
def test_a_series_that_the_list_lacks_is_asked_of_the_archive(series, known):
    archive = _Archive()
    assert BioSAM2App.is_known(None, series, archive) is known
    assert archive._client.asked == ([series] if series in ("1.2.3.9", "1.2.3.5") else [])
