"""Pacs: what this server asks of a DICOMweb archive, with a plain sentence for whatever goes wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError as Urllib3Error

from lib.errors import NotFound, Unavailable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
# dicomweb-client looks through all it has of an instance at every chunk: few chunks, or it takes minutes.
CHUNK_BYTES = 16 << 20
# No archive that limits the length of its lists limits them below this.
SMALLEST_LIMIT = 50

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

# The JSON of DICOMweb (PS3.18 F.2) has tags for names.
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY, INSTANCES = "00080060", "00201209"
CONTENT_DATE, CONTENT_TIME = "00080023", "00080033"
CREATION_DATE, CREATION_TIME = "00080012", "00080013"
REFERENCED_SERIES, SOURCE_IMAGES, REFERENCED_INSTANCE = "00081115", "00082112", "00081155"
PER_FRAME, DERIVATION = "52009230", "00089124"
INFO = {"StudyDate": "00080020", "StudyTime": "00080030", "RetrieveURL": "00081190", "PatientID": "00100020"}

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """A series of the archive.

    Attributes
    ----------
    study, uid : str
        StudyInstanceUID (0020,000D) and SeriesInstanceUID (0020,000E).
    modality : str
        Modality (0008,0060).
    instances : int or None
        NumberOfSeriesRelatedInstances (0020,1209), where the archive says it.
    info : dict
        What MONAI Label keeps of a series, by keyword; "UNK" for what the archive does not say.
    """

    study: str
    uid: str
    modality: str
    instances: int | None
    info: dict[str, str] = field(compare=False)


@dataclass(frozen=True)
class StoredLabel:
    """A DICOM SEG of the archive.

    Attributes
    ----------
    study, series, instance : str
        Its own UIDs.
    image : str
        SeriesInstanceUID of the image it was drawn on.
    written : str
        When, as text that sorts by time: ContentDate (0008,0023) and ContentTime (0008,0033).
    """

    study: str
    series: str
    instance: str
    image: str
    written: str


def is_uid(text: object) -> bool:
    """Whether a text is a DICOM UID (PS3.5 section 9), and so can be no path."""
    return isinstance(text, str) and len(text) <= 64 and bool(_UID.fullmatch(text))


class Pacs:
    """The archive behind a DICOMweb client.

    Parameters
    ----------
    client : DICOMwebClient
        Never retries from here on: a person who waits learns at once what is wrong.
    timeout : float
        Seconds without a byte after which an answer is given up.

    Every method raises `Unavailable` when the archive cannot be reached, is too slow, answers with an error,
    or with something that makes no sense.
    """

    def __init__(self, client: DICOMwebClient, timeout: float = 30.0) -> None:
        self.client = client
        self.timeout = timeout
        self._drawn_on: dict[tuple[str, int | None], tuple[StoredLabel, ...]] = {}
        client.set_http_retry_params(False)
        client.set_chunk_size(CHUNK_BYTES)

    def list_series(self, filters: Mapping[str, Any]) -> list[Series]:
        """All series that match, page by page where the archive limits its answers."""
        found: dict[str, Series] = {}
        with self._asking("the list of series"):
            while True:
                page = self.client.search_for_series(search_filters=dict(filters), offset=len(found) or None)
                fresh = {series.uid: series for series in map(_series, page) if series.uid not in found}
                found.update(fresh)
                # An archive that knows no offset sends the first page again: then that was all of it.
                if not fresh or len(page) < SMALLEST_LIMIT:
                    return list(found.values())

    def find(self, uid: str) -> Series:
        """One series.

        Raises
        ------
        NotFound
            If the archive does not have it, or no longer.
        """
        if is_uid(uid):
            with self._asking(f"series {uid}"):
                answer = self.client.search_for_series(search_filters={"SeriesInstanceUID": uid})
                for series in map(_series, answer):
                    if series.uid == uid:
                        return series
        raise NotFound(f'series "{str(uid)[:80]}" is not in the PACS: it was deleted there or never was.')

    def download(self, series: Series, folder: Path) -> int:
        """Write the series' instances into a new folder, as they are stored in the archive.

        Returns
        -------
        int
            How many there are.

        Raises
        ------
        NotFound
            If the series is gone.
        Unavailable
            Also if fewer instances came than the archive says the series has.
        """
        folder.mkdir()
        seen: set[str] = set()
        with self._asking(f"series {series.uid}"):
            # "*": not to be decompressed for the way, which takes longer and may lose the lossless original
            stored = (("application/dicom", "*"),)
            for instance in self.client.iter_series(series.study, series.uid, media_types=stored):
                instance.save_as(folder / f"{len(seen):06d}.dcm")
                seen.add(str(instance.SOPInstanceUID))
            expected = series.instances
            if expected is None:
                expected = len(self.client.search_for_instances(series.study, series.uid))
        if len(seen) < expected:
            raise Unavailable(
                f"the PACS sent {len(seen)} of the {expected} instances of series {series.uid}: try again."
            )
        return len(seen)

    def labels(self) -> list[StoredLabel]:
        """Every DICOM SEG that says which series it was drawn on.

        What a SEG was drawn on never changes, so each is asked about once.
        """
        found: list[StoredLabel] = []
        known = {}
        for series in self.list_series({"Modality": "SEG"}):
            key = (series.uid, series.instances)
            if key not in self._drawn_on:
                try:
                    with self._asking(f"label {series.uid}"):
                        metadata = self.client.retrieve_series_metadata(series.study, series.uid)
                        labels = tuple(filter(None, (self._label(series, item) for item in metadata)))
                except (NotFound, _Refused) as error:
                    # One that was deleted this moment, or cannot be read, must not hide the rest.
                    logger.warning("the label %s is left out: %s", series.uid, error)
                    continue
                self._drawn_on[key] = labels
            known[key] = self._drawn_on[key]
            found.extend(known[key])
        self._drawn_on = known
        return found

    def instance(self, label: StoredLabel) -> Dataset:
        """A label's DICOM SEG with its pixels.

        Raises
        ------
        NotFound
            If it is gone.
        """
        with self._asking(f"label {label.instance}"):
            return self.client.retrieve_instance(
                label.study, label.series, label.instance, media_types=(("application/dicom", "*"),)
            )

    def store(self, dataset: Dataset) -> None:
        """Store an instance (STOW-RS), whole or not at all.

        Raises
        ------
        Unavailable
            Also if the archive refuses it.
        """
        with self._asking("storing the label"):
            answer = self.client.store_instances([dataset])
            failed = answer.get("FailedSOPSequence") if answer is not None else None
            if failed:
                reason = failed[0].get("FailureReason")
                raise _Refused(f"the PACS refused to store the label (reason {reason}).")

    def _label(self, series: Series, item: Json) -> StoredLabel | None:
        image = _first(item, REFERENCED_SERIES, SERIES) or self._series_of(series.study, _drawn_on(item))
        if image is None:
            logger.warning("the label %s does not say which series it was drawn on", series.uid)
            return None
        date = _value(item, CONTENT_DATE) or _value(item, CREATION_DATE) or ""
        time = _value(item, CONTENT_TIME) or _value(item, CREATION_TIME) or ""
        return StoredLabel(series.study, series.uid, str(_value(item, INSTANCE)), image, f"{date} {time}")

    def _series_of(self, study: str, instance: str | None) -> str | None:
        """The series of an instance, for a SEG that names images and not their series."""
        if instance is None or not is_uid(instance):
            return None
        for item in self.client.search_for_instances(study, search_filters={"SOPInstanceUID": instance}):
            if _value(item, INSTANCE) == instance:
                return str(_value(item, SERIES))
        return None

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            logger.warning("the PACS %s: %s: %s", self.client.base_url, what, error)
            if status in (404, 410):
                raise NotFound(f"the PACS does not have {what}: it was deleted there.") from None
            if status in (401, 403):
                raise Unavailable(f"the PACS does not let this server in (status {status}).") from None
            raise _Refused(f"the PACS answered with status {status} when asked for {what}.") from None
        except (RequestException, Urllib3Error) as error:
            logger.warning("the PACS %s: %s: %s", self.client.base_url, what, error)
            said = str(error).lower()
            unreached = isinstance(error, requests.exceptions.ConnectTimeout)
            if unreached or "failed to establish" in said or "failed to resolve" in said:
                raise Unavailable("the PACS cannot be reached: is it running?") from None
            if "timed out" in said:
                raise Unavailable(
                    f"the PACS is too slow: no answer for {self.timeout:g} seconds when asked for {what}."
                ) from None
            raise Unavailable(f"the PACS broke off when asked for {what}: try again.") from None
        except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
            logger.warning("the PACS %s: %s: %r", self.client.base_url, what, error)
            raise Unavailable(
                f"the PACS sent an answer that cannot be read when asked for {what}."
            ) from error


class _Refused(Unavailable):
    """The archive is there and answers with an error."""


class TimeLimit(HTTPAdapter):
    """Gives up a request without an answer, which neither requests nor dicomweb-client does by itself."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__()

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (min(CONNECT_SECONDS, self.seconds), self.seconds)
        return super().send(request, *args, **kwargs)


def _series(item: Json) -> Series:
    count = _value(item, INSTANCES)
    study, uid = str(_value(item, STUDY)), str(_value(item, SERIES))
    info = {keyword: str(_value(item, tag) or "UNK") for keyword, tag in INFO.items()}
    modality = str(_value(item, MODALITY) or "").strip().upper()
    info.update(SeriesInstanceUID=uid, StudyInstanceUID=study, Modality=modality or "UNK")
    return Series(study, uid, modality, None if count is None else int(count), info)


def _value(item: Json, tag: str) -> Any:
    values = (item.get(tag) or {}).get("Value") or [None]
    return values[0]


def _first(item: Json, *tags: str) -> str | None:
    """The value at the end of a path of sequences, the first item of each."""
    for tag in tags[:-1]:
        item = _value(item, tag) or {}
    value = _value(item, tags[-1])
    return None if value is None else str(value)


def _drawn_on(item: Json) -> str | None:
    """The SOPInstanceUID of one image that a SEG was drawn on."""
    return _first(item, SOURCE_IMAGES, REFERENCED_INSTANCE) or _first(
        item, PER_FRAME, DERIVATION, SOURCE_IMAGES, REFERENCED_INSTANCE
    )
