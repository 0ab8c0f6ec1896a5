"""MONAI Label's datastore of a folder, safe with several threads at once, and fast with many images."""

from __future__ import annotations

import copy
import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.config import settings
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from lib.activelearning.scores import INFO
from lib.imaging.video.open import DICOM, VIDEO, is_multi_frame

logger = logging.getLogger(__name__)

# What MONAI Label lists by default are images; these are videos, and DICOM files of several frames.
LISTED_TOO = tuple(f"*{ending}" for ending in (*VIDEO, *DICOM))

# What goes through the table of images and labels, or changes it: a change empties the table for a moment.
TABLE = (
    *("status", "datalist", "list_images", "get_labeled_images", "get_unlabeled_images"),
    *("get_label_uri", "get_label_info", "get_labels_by_image_id"),
    *("add_image", "save_label", "update_image_info", "update_label_info"),
    *("remove_image", "remove_label", "refresh", "_init_from_datastore_file"),
)


class Folder(LocalDatastore):
    """A folder of files whose table is used by one thread at a time (`TABLE` names the methods).

    MONAI Label's own writes its file for every label and every change of an image's info, and compares its
    table with the folder for every new file, one image with all others. This one is faster at both, and who
    looks up one image need not wait for it; `tests/benchmarks/README.md` has the times.
    """

    _table: threading.RLock

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._table = threading.RLock()
        self._multi_frame: dict[str, tuple[tuple[float, int], bool]] = {}
        super().__init__(*args, **kwargs)

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image, "" if there is none."""
        return str(self.get_image_info(image_id).get("path", ""))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, with its path; nothing if there is none."""
        try:
            found = self._look_up(image_id)
        except RuntimeError:  # its info was changed in the middle
            found = {}
        if found:
            return found
        with self._table:  # perhaps it is there again when the change is complete
            return self._look_up(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; it is gone at once, and not when who watches the folder has seen it."""
        super().remove_label(label_id, label_tag)
        entry = self._datastore.objects.get(label_id)
        if entry is not None and entry.labels.pop(label_tag, None):
            self._update_datastore_file()

    def remove_image(self, image_id: str) -> None:
        """Remove an image with its labels; gone at once, too."""
        super().remove_image(image_id)
        if self._datastore.objects.pop(image_id, None):
            self._update_datastore_file()

    def is_video(self, image_id: str) -> bool:
        """Whether an image is a video and nothing else: no viewer of volumes can open it."""
        entry = self._datastore.objects.get(image_id)
        return entry is not None and entry.image.ext.lower().endswith(VIDEO)

    def json(self) -> dict[str, Any]:
        """The table as clients get it: without what strategies know of images. Slicer asks for it often."""
        known = {"objects": {"__all__": {"image": {"info": {INFO}}}}}
        with self._table:
            return self._datastore.model_dump(exclude={"base_path": True, **known})

    def _look_up(self, image_id: str) -> dict[str, Any]:
        table = self._datastore  # which is replaced when its file is read again, at first without a path
        entry = table.objects.get(image_id) if table.base_path else None
        if entry is None:
            return {}
        path = os.path.realpath(os.path.join(table.image_path(), self._filename(image_id, entry.image.ext)))
        return {**copy.deepcopy(entry.image.info), "path": path}

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        content = self._datastore.model_dump_json(exclude={"base_path"}, indent=2, fallback=str)
        self._ignore_event_config = True
        with open(self._datastore_config_path, "w") as file:
            file.write(content)
        self._config_ts = os.stat(self._datastore_config_path).st_mtime

    # Comparing the table with the folder: MONAI Label's own look through a list for every file

    def _add_non_existing_images(self) -> int:
        self._init_from_datastore_file()
        objects, added = self._datastore.objects, 0
        for file in self._list_files(self._datastore.image_path(), self._extensions):
            image, ext = self._to_id(file)
            if image not in objects and self._is_image(file):
                objects[image] = ImageLabelModel(image=self._new(image, ext))
                added += 1
        return self._say(added, "images are new")

    def _add_non_existing_labels(self, tag: str) -> int:
        self._init_from_datastore_file()
        objects, added = self._datastore.objects, 0
        for file in self._list_files(self._datastore.label_path(tag), self._extensions):
            image, ext = self._to_id(file)
            if image not in objects:
                logger.warning("the label %s in %s is of no image", file, tag)
            elif not objects[image].labels.get(tag):
                objects[image].labels[tag] = self._new(image, ext)
                added += 1
        return self._say(added, f"labels are new in {tag}")

    def _remove_non_existing(self) -> int:
        self._init_from_datastore_file()
        table, removed = self._datastore, 0
        for image, entry in list(table.objects.items()):
            for tag, label in list(entry.labels.items()):
                if not os.path.exists(os.path.join(table.label_path(tag), self._filename(image, label.ext))):
                    del entry.labels[tag]
                    removed += 1
            if not os.path.exists(os.path.join(table.image_path(), self._filename(image, entry.image.ext))):
                del table.objects[image]
                removed += 1
        return self._say(removed, "images or labels are gone")

    def _is_image(self, file: str) -> bool:
        """False for a DICOM file of one slice: what it is a slice of is an image, not each of them."""
        if not file.lower().endswith(DICOM):
            return True
        path = Path(self._datastore.image_path()) / file
        try:
            stat = path.stat()
        except OSError:
            return False
        stamp = stat.st_mtime, stat.st_size
        known = self._multi_frame.get(file)
        if known is None or known[0] != stamp:  # once, not at every look at the folder
            known = self._multi_frame[file] = stamp, is_multi_frame(path)
        return known[1]

    def _new(self, image: str, ext: str) -> DataModel:
        return DataModel(info={"ts": int(time.time()), "name": self._filename(image, ext)}, ext=ext)

    def _say(self, count: int, what: str) -> int:
        if count:
            logger.info("%d %s", count, what)
        return count


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Folder, *args: Any, **kwargs: Any) -> Any:
        with self._table:
            return method(self, *args, **kwargs)

    return call


for _name in TABLE:
    setattr(Folder, _name, _one_at_a_time(getattr(Folder, _name)))


def folder(path: str) -> Folder:
    """The datastore of a folder, by MONAI Label's settings; with videos, unless they say what to list."""
    listed = list(settings.MONAI_LABEL_DATASTORE_FILE_EXT)
    if "MONAI_LABEL_DATASTORE_FILE_EXT" not in settings.model_fields_set:
        listed += LISTED_TOO
    return Folder(
        path,
        extensions=listed,
        auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
        read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
    )
