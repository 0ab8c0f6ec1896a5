"""MONAI Label's datastores, safe to be asked by several threads at once."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

# What goes through the table of images and labels, or changes it: a change empties the table for a moment.
# Removing is not here: it asks an archive for the file while it has the table, fetching the other way round.
TABLE = (
    *("status", "json", "datalist", "list_images", "get_labeled_images", "get_unlabeled_images"),
    *("get_image_uri", "get_image_info", "get_label_uri", "get_label_info", "get_labels_by_image_id"),
    *("add_image", "save_label", "update_image_info", "update_label_info"),
    *("refresh", "_init_from_datastore_file"),
)


class Folder(LocalDatastore):
    """A folder of files whose table is used by one thread at a time (`TABLE` names the methods)."""

    _table: threading.RLock


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Folder, *args: Any, **kwargs: Any) -> Any:
        with self._table:
            return method(self, *args, **kwargs)

    return call


for _name in TABLE:
    setattr(Folder, _name, _one_at_a_time(getattr(LocalDatastore, _name)))


class Archive(DICOMWebDatastore, Folder):
    """A DICOMweb archive that is asked for a series by one thread at a time; others find it fetched.

    MONAI Label takes a folder in which the first slices have arrived for the whole series. What it keeps of
    the archive itself lies in a `Folder`, which comes after it in the order of classes.
    """

    _lists: threading.RLock  # MONAI Label's cache of them is not made for threads
    _series: defaultdict[str, threading.RLock]

    def list_images(self) -> list[str]:
        with self._lists:
            return super().list_images()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        with self._lists:
            return super().get_labeled_images(label_tag, labels)

    def status(self) -> dict[str, Any]:
        # now in the cache, so that the table is not kept while the archive thinks
        self.list_images()
        self.get_labeled_images()
        return super().status()

    def get_image_uri(self, image_id: str) -> str:
        with self._lock_of(image_id):
            return super().get_image_uri(image_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        with self._lock_of(label_id):
            return super().get_label_uri(label_id, label_tag, image_id)

    def _lock_of(self, series: str) -> threading.RLock:
        with self._table:
            return self._series[series]


def guarded(datastore: Datastore) -> Datastore:
    """A datastore that MONAI Label has made, as one of the classes above; of another kind, as it is."""
    if type(datastore) is LocalDatastore:
        datastore._table = threading.RLock()
        datastore.__class__ = Folder
    elif type(datastore) is DICOMWebDatastore:
        datastore._table, datastore._lists = threading.RLock(), threading.RLock()
        datastore._series = defaultdict(threading.RLock)
        datastore.__class__ = Archive
    return datastore
