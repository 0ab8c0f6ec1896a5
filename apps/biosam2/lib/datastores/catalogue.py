"""Catalogue: which images and labels a PACS has, asked at most every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lib.datastores.kept import Kept
from lib.datastores.pacs import Pacs, Series, StoredLabel
from lib.errors import Unavailable

# Modality (0008,0060) of series that are pictures: the rest are reports, plans, labels, waveforms, slides.
IMAGES = frozenset(
    {
        *("CT", "MR", "PT", "NM", "US", "IVUS", "XA", "RF", "CR", "DX", "MG", "IO", "PX", "RG", "TG", "DG"),
        *("SC", "OT", "XC", "ES", "GM", "OP", "OPT", "OCT", "BMD"),
    }
)
# The archive that did not answer is not asked again for what a client merely shows, for so many seconds.
SILENT_SECONDS = 30.0


class Catalogue:
    """The lists of a PACS, shared by every request.

    Parameters
    ----------
    pacs : Pacs
    filters : mapping
        Only series that match, by attribute: `{"Modality": "CT"}`. Without a modality, all of `IMAGES`.

    Every method raises `Unavailable` when the archive does not answer.
    """

    def __init__(self, pacs: Pacs, filters: Mapping[str, Any]) -> None:
        self._pacs = pacs
        self._filters = dict(filters)
        self._series = Kept(self._list_series)
        self._labels = Kept(self._newest_labels)
        self._silent: tuple[float, Unavailable] | None = None

    def series(self) -> dict[str, Series]:
        """The images, by SeriesInstanceUID."""
        return self._series.get()

    def labels(self) -> dict[str, StoredLabel]:
        """The newest label of each series that has one, by the SeriesInstanceUID of the image."""
        return self._labels.get()

    def known(self, image: str) -> Series | None:
        """An image, if the list is fresh and has it; the archive is not asked."""
        return (self._series.peek() or {}).get(image)

    def changed(self) -> None:
        """Ask again the next time: something was stored, or is not listed that is there."""
        self._series.drop()
        self._labels.drop()

    def counts(self) -> tuple[int, int]:
        """How many images there are, and how many of them are labelled.

        For a client's display, which MONAI Label makes with every inference: an archive that did not answer
        is not waited for again for a while.
        """
        if self._silent is not None and time.monotonic() < self._silent[0]:
            raise self._silent[1]
        try:
            labels = self.labels()
            series = self.series()
        except Unavailable as error:
            self._silent = (time.monotonic() + SILENT_SECONDS, error)
            raise
        self._silent = None
        return len(series), sum(1 for image in series if image in labels)

    def _newest_labels(self) -> dict[str, StoredLabel]:
        newest: dict[str, StoredLabel] = {}
        for label in sorted(self._pacs.labels(), key=lambda label: (label.written, label.instance)):
            newest[label.image] = label
        return newest

    def _list_series(self) -> dict[str, Series]:
        found = self._pacs.list_series(self._filters)
        chosen = "Modality" in self._filters
        return {series.uid: series for series in found if chosen or series.modality in IMAGES}
