"""The datastore of a PACS: MONAI Label's `DICOMWebDatastore`, with what it loses or takes for granted mended.

What is other than in MONAI Label 0.8.5, and why:

- Images of every modality that can be shown are listed, not CT alone, and lists are kept for seconds, not for
  two hours: a study that has just come in is there.
- A series is downloaded into a folder of its own, counted against the archive, and only then put in its
  place: a download that breaks off leaves nothing behind. It becomes NIfTI by the reader that also opens
  DICOM folders, with the window and the modality in a note beside it.
- Labels are written as DICOM SEG by `lib.imaging.seg`, with every slice. MONAI Label's way
  (itkimage2segimage) drops the empty ones, and the next training list then replaces the label by the
  shortened one.
- Labels that another tool has stored are found by the series they refer to, and put onto the image's grid.
  The newest counts. A label here is known by the instance of its SEG: only a newer one replaces it.
- Every request to the archive has a time limit, and everything that can go wrong with it a plain sentence.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.utils.others.generic import md5_digest

from lib.datastores.cache import FINAL, NIFTI, IndexedCache
from lib.datastores.catalogue import Catalogue
from lib.datastores.labels import read_label, segments_of
from lib.datastores.pacs import Pacs, StoredLabel, is_uid
from lib.errors import NotFound, Unavailable, UserError
from lib.imaging.answer import write_mask
from lib.imaging.convert import convert_series
from lib.imaging.readers.dicom_layout import read_layout
from lib.imaging.readers.dicom_note import read_note
from lib.imaging.seg.read import read_seg
from lib.imaging.seg.write import Algorithm, write_seg
from lib.imaging.store import load_cached

logger = logging.getLogger(__name__)


class PacsDatastore(IndexedCache):
    """Images and labels of a DICOMweb archive, and a cache of them as NIfTI files.

    Parameters
    ----------
    pacs : Pacs
    cache : Path
        Where the caches of all archives lie.
    algorithm : callable
        The served checkpoint's name and version, for the labels that are stored.
    filters : mapping, optional
        As for `Catalogue`.
    """

    def __init__(
        self,
        pacs: Pacs,
        cache: Path,
        algorithm: Callable[[], Algorithm],
        filters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(cache / md5_digest(pacs.client.base_url))
        self._pacs = pacs
        self._catalogue = Catalogue(pacs, filters or {})
        self._algorithm = algorithm
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        # what inherited methods and MONAI Label's routes look at
        self._client, self._search_filter = pacs.client, dict(filters or {})
        self._fetch_by_frame, self._convert_to_nifti = False, True
        logger.info("images of the PACS %s are kept in %s", pacs.client.base_url, self._folder)

    # Lists

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the images, as the archive has them now."""
        return list(self._catalogue.series())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The listed images that have a DICOM SEG in the archive, whoever made it."""
        stored = self._catalogue.labels()
        return [image for image in self.list_images() if image in stored]

    def final_labels(self) -> dict[str, str]:
        """The UID of the newest DICOM SEG of each listed image that has one; nothing is fetched for it.

        Raises
        ------
        Unavailable
            If the archive does not answer.
        """
        images, stored = self.get_labeled_images(), self._catalogue.labels()
        return {image: stored[image].instance for image in images if image in stored}

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """The listed images that have none."""
        stored = self._catalogue.labels()
        return [image for image in self.list_images() if image not in stored]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> id of the label: what is kept here, and the archive's label as the final one."""
        found = {
            tag: label for tag, label in super().get_labels_by_image_id(image_id).items() if tag != FINAL
        }
        if image_id in self._catalogue.labels():
            found[FINAL] = image_id
        return found

    def has(self, image_id: str) -> bool:
        """Whether there is such an image: here already, or in the archive, listed or not.

        An image that is here is answered for without asking the archive, which may be slow or down.
        """
        if not is_uid(image_id):
            return False
        if self._is_here(image_id) or self._catalogue.known(image_id):
            return True
        try:
            self._pacs.find(image_id)
        except NotFound:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """Counts for the clients. With an archive that does not answer, those of the cache, and why."""
        tags: dict[str, int] = {}
        for entry in list(self._datastore.objects.values()):
            for tag in entry.labels:
                tags[tag] = tags.get(tag, 0) + 1
        try:
            total, completed = self._catalogue.counts()
            counts: dict[str, Any] = {"total": total, "completed": completed}
        except Unavailable as error:
            here = len(self._datastore.objects)
            counts = {"total": here, "completed": tags.get(FINAL, 0), "error": str(error)}
        return {**counts, "label_tags": tags}

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """The training list: image and label files of every labelled image, brought here where they are not.

        A case that cannot be read is left out and logged.

        Raises
        ------
        Unavailable
            If the archive does not answer: a list that is shorter than it should be would train on less
            without a word.
        """
        found = []
        for image in self.get_labeled_images():
            try:
                case = {"image": self.get_image_uri(image), "label": self.get_label_uri(image, FINAL)}
            except Unavailable:
                raise
            except UserError as error:
                logger.warning("%s is left out of the training list: %s", image, error)
                continue
            if not full_path:
                case = {key: os.path.relpath(path, self._folder) for key, path in case.items()}
            found.append(case)
        return found

    # Images

    def get_image_uri(self, image_id: str) -> str:
        """Path of the image as NIfTI, downloaded and converted if it is not here.

        Raises
        ------
        NotFound
            If the archive does not have the series.
        Unavailable
            If the archive does not answer, or not with all of it.
        Unprocessable
            If the series is no volume.
        """
        if not is_uid(image_id):
            return str(LocalDatastore.get_image_uri(self, image_id))
        with self._locks[image_id]:
            if not self._is_here(image_id) or self._has_grown(image_id):
                self._fetch(image_id)
            elif image_id not in self._datastore.objects:
                self._register(image_id, {"SeriesInstanceUID": image_id})
        return str(self._image(image_id))

    def _has_grown(self, image_id: str) -> bool:
        """Whether the archive has another number of slices by now: the scan was still coming in."""
        listed = self._catalogue.known(image_id)
        note = read_note(self._image(image_id))
        return note is None or (
            listed is not None and listed.instances is not None and listed.instances != note.instances
        )

    def _fetch(self, image_id: str) -> None:
        series = self._pacs.find(image_id)
        with self._workshop() as work:
            self._pacs.download(series, work / image_id)
            convert_series(work / image_id, work / f"{image_id}{NIFTI}")
            self._keep_image(image_id, work, dict(series.info))
        if self._catalogue.known(image_id) is None:
            self._catalogue.changed()

    # Labels

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label as NIfTI on the image's grid; the final one is the archive's newest.

        Parameters
        ----------
        label_id : str
            The image's id, which MONAI Label's labels have too.
        label_tag : str
        image_id : str
            Not needed; MONAI Label's own names here what `label_id` is a SEG of.

        Returns
        -------
        str
            ``""`` if there is no such label.

        Raises
        ------
        NotFound, Unavailable, Unprocessable
            As for images; `Unprocessable` also for a SEG that cannot be read.
        """
        image = image_id or label_id
        if label_tag != FINAL or not is_uid(image):
            return str(LocalDatastore.get_label_uri(self, image, label_tag))
        stored = self._catalogue.labels().get(image)
        if stored is None:
            return ""
        with self._locks[image]:
            here = self._label(image, FINAL)
            mine = self.get_label_info(image, FINAL).get("SOPInstanceUID") if here.exists() else None
            if mine != stored.instance:
                self._bring_label(image, stored)
        return str(here)

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: dict[str, Any],
        label_id: str = "",
    ) -> str:
        """Keep a label here and, if it is final, in the archive first: a refused one is kept nowhere.

        Parameters
        ----------
        image_id : str
        label_filename : str
            NIfTI, NRRD, or the bare bytes that OHIF sends (.bin). On another grid than the image's, it is
            resampled.
        label_tag : str
        label_info : dict
            `label_info`: what the values stand for, `[{"name": ..., "idx": ..., "color": ...}, ...]`.

        Returns
        -------
        str
            The label's id, which is the image's.

        Raises
        ------
        NotFound
            If the series was deleted in the archive.
        Unavailable
            If the archive refuses the label or does not answer; one that stores it all the same, after the
            time limit, has it as any other tool's.
        UserError
            If the file is no label of this image.
        """
        tag, info = str(getattr(label_tag, "value", label_tag)), dict(label_info or {})
        if not is_uid(image_id):
            raise NotFound(f'image "{str(image_id)[:80]}" is not a series of the PACS.')
        with self._locks[image_id]:
            volume = load_cached(self.get_image_uri(image_id))
            labels = read_label(Path(label_filename), volume)
            dtype = "uint8" if int(labels.max()) < 256 else "uint16"
            with self._workshop() as work:
                file = write_mask(labels, volume, NIFTI, dtype, folder=work)
                if tag == FINAL:
                    # A label of a series that was deleted must not bring half of the study back.
                    series = self._pacs.find(image_id)
                    layout = read_layout(self.series_folder(image_id))
                    seg = write_seg(labels, layout, segments_of(labels, info), self._algorithm())
                    self._pacs.store(seg)
                    info.update(series.info, SeriesInstanceUID=str(seg.SeriesInstanceUID))
                    info["SOPInstanceUID"] = str(seg.SOPInstanceUID)
                    self._catalogue.changed()
                self._keep_label(image_id, tag, file, info)
        logger.info("label of %s saved as %s", image_id, tag)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label that is kept here only.

        Raises
        ------
        UserError
            If it is the final one, which is the archive's: removed here, it would come back.
        """
        if label_tag == FINAL and label_id in self._catalogue.labels():
            raise UserError(f"the final label of {label_id} is a DICOM SEG in the PACS: delete it there.")
        super().remove_label(label_id, label_tag)

    def _bring_label(self, image_id: str, stored: StoredLabel) -> None:
        """Read the archive's label onto the image's grid and put it in its place here."""
        volume = load_cached(self.get_image_uri(image_id))
        labels = read_seg(self._pacs.instance(stored), read_layout(self.series_folder(image_id)))
        named = [{"name": segment.name, "idx": segment.value} for segment in labels.segments]
        info = {
            "label_info": named,
            "SeriesInstanceUID": stored.series,
            "SOPInstanceUID": stored.instance,
            "StudyInstanceUID": stored.study,
        }
        with self._workshop() as work:
            file = write_mask(labels.voxels, volume, NIFTI, str(labels.voxels.dtype), folder=work)
            self._keep_label(image_id, FINAL, file, info)
        logger.info("label %s of %s read from the PACS", stored.instance, image_id)
