"""MONAI Label's datastore of a folder, safe to be asked by several threads at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

# What goes through the table of images and labels, or changes it: a change empties the table for a moment.
TABLE = (
    *("status", "json", "datalist", "list_images", "get_labeled_images", "get_unlabeled_images"),
    *("get_image_uri", "get_image_info", "get_label_uri", "get_label_info", "get_labels_by_image_id"),
    *("add_image", "save_label", "update_image_info", "update_label_info"),
    *("remove_image", "remove_label", "refresh", "_init_from_datastore_file"),
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


def guarded(datastore: Datastore) -> Datastore:
    """MONAI Label's datastore of a folder as the class above; one of another kind as it is."""
    if type(datastore) is LocalDatastore:
        datastore._table = threading.RLock()
        datastore.__class__ = Folder
    return datastore
