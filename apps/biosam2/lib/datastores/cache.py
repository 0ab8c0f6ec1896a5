"""IndexedCache: MONAI Label's local datastore as a cache of a PACS, in which nothing is ever half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from lib.imaging.readers.dicom_note import note_path

FINAL = DefaultLabelTag.FINAL.value
NIFTI = ".nii.gz"
PART = ".part-"
LEFT_SECONDS = 3600.0  # after which a part belongs to a server that was killed in the middle


class IndexedCache(DICOMWebDatastore):
    """Files of images and labels, each put in its place whole, and MONAI Label's index of them.

    For a series with the UID `U`: `U/`, its DICOM files; `U.nii.gz`, what it was converted to;
    `U.dicom.json`, the note beside it; `labels/TAG/U.nii.gz`. Final labels are in the archive, so all but
    the labels with other tags can be deleted at any time.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        # Not DICOMWebDatastore's own: it watches the folder for files that others put there, and nobody does.
        LocalDatastore.__init__(self, datastore_path=str(folder), auto_reload=False)
        self._folder = folder
        for left in folder.glob(f"{PART}*"):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)

    def series_folder(self, image_id: str) -> Path:
        """The folder with the DICOM files of an image that is here."""
        return self._folder / image_id

    def _image(self, image_id: str) -> Path:
        return self._folder / f"{image_id}{NIFTI}"

    def _is_here(self, image_id: str) -> bool:
        # The note is what a file of MONAI Label's own datastore, in the same folder, does not have.
        image = self._image(image_id)
        return image.exists() and note_path(image).exists() and self.series_folder(image_id).is_dir()

    @contextmanager
    def _workshop(self) -> Iterator[Path]:
        """A folder to make files in, on the cache's own disk, so that they can be moved to their place."""
        self._folder.mkdir(parents=True, exist_ok=True)  # a person may have emptied the cache
        with tempfile.TemporaryDirectory(prefix=PART, dir=self._folder) as work:
            yield Path(work)

    def _keep_image(self, image_id: str, work: Path, info: dict[str, Any]) -> None:
        """Move an image's files from a workshop, where they have the names they will have, to their place."""
        made = work / f"{image_id}{NIFTI}"
        if self.series_folder(image_id).exists():
            os.replace(self.series_folder(image_id), work / "old")
        os.replace(work / image_id, self.series_folder(image_id))
        os.replace(note_path(made), note_path(self._image(image_id)))
        os.replace(made, self._image(image_id))
        self._register(image_id, info)

    def _register(self, image_id: str, info: dict[str, Any]) -> None:
        """Enter an image that lies in its place into MONAI Label's index."""
        with FileLock(self._lock_file):
            info = {**info, "ts": int(time.time()), "name": f"{image_id}{NIFTI}"}
            old = self._datastore.objects.get(image_id)
            labels = old.labels if old else {}
            if FINAL in labels:
                # The grid may be another one now: the label is read from the archive once more.
                labels[FINAL].info.pop("SOPInstanceUID", None)
            self._datastore.objects[image_id] = ImageLabelModel(
                image=DataModel(info=info, ext=NIFTI), labels=labels
            )
            self._update_datastore_file(lock=False)

    def _label(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag)) / f"{image_id}{NIFTI}"

    def _keep_label(self, image_id: str, tag: str, file: Path, info: dict[str, Any]) -> None:
        place = self._label(image_id, tag)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
        os.chmod(place, 0o644)
        with FileLock(self._lock_file):
            info = {**info, "ts": int(time.time()), "name": place.name}
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=NIFTI)
            self._update_datastore_file(lock=False)

    def _update_datastore_file(self, lock: bool = True) -> None:
        """MONAI Label's own, but a server that is killed in the middle leaves the index as it was."""
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        handle, name = tempfile.mkstemp(prefix=".index-", dir=os.path.dirname(self._datastore_config_path))
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(content)
            os.replace(name, self._datastore_config_path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        self._config_ts = os.stat(self._datastore_config_path).st_mtime
