"""PlainDatastore: the part of MONAI Label's `Datastore` that is the same whatever the images are of."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from abc import abstractmethod
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.datastores.cvat.catalogue import parse_image
from lib.datastores.cvat.files import Files
from lib.errors import NotFound, UserError

FINAL = DefaultLabelTag.FINAL.value
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ELSEWHERE = "images are CVAT's: add and delete them there."


class PlainDatastore(Datastore):
    """What is read from and written to the notes and files here.

    Parameters
    ----------
    files : Files
    name : str
    """

    def __init__(self, files: Files, name: str) -> None:
        self._files = files
        self._name = self._description = name

    def name(self) -> str:
        """What it is called."""
        return self._name

    def set_name(self, name: str) -> None:
        """Call it something else."""
        self._name = name

    def description(self) -> str:
        """What it is."""
        return self._description

    def set_description(self, description: str) -> None:
        """Describe it in other words."""
        self._description = description

    @abstractmethod
    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]: ...

    @abstractmethod
    def get_image_uri(self, image_id: str) -> str: ...

    @abstractmethod
    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str: ...

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The content of an image, None if there is none."""
        return _content(self.get_image_uri(image_id))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """The content of a label, None if there is none."""
        return _content(self.get_label_uri(label_id, label_tag))

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The id of a label, "" if there is none."""
        return str(self.get_labels_by_image_id(image_id).get(tag, ""))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image that is here, with its path."""
        if parse_image(image_id) is None:
            return {}
        info, path = self._files.image_info(image_id), self._files.image(image_id)
        return {**info, "path": str(path)} if path else info

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image that is here.

        Raises
        ------
        NotFound
            If it is not here.
        """
        if parse_image(image_id) is None or self._files.image(image_id) is None:
            raise NotFound(f'image "{str(image_id)[:80]}" has not been downloaded from CVAT.')
        self._files.update_image_info(image_id, info)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a label that is here."""
        return {} if parse_image(label_id) is None else self._files.label_info(label_id, self._tag(label_tag))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label that is here.

        Raises
        ------
        NotFound
            If it is not here.
        """
        tag = self._tag(label_tag)
        if parse_image(label_id) is None or self._files.label(label_id, tag) is None:
            raise NotFound(f'there is no label "{str(label_id)[:80]}" with the tag "{tag}" here.')
        self._files.update_label_info(label_id, tag, info)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new zip file with images and final labels, at most so many of each.

        Raises
        ------
        NotFound
            If there is no final label.
        """
        cases = self.datalist()
        cases = cases[:limit_cases] if limit_cases and limit_cases > 0 else cases
        if not cases:
            raise NotFound("there is no final label yet: an archive would be empty.")
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
            with zipfile.ZipFile(file, "w") as archive:
                for kind, path in (item for case in cases for item in case.items()):
                    archive.write(path, f"{kind}/{Path(path).name}")
            return file.name

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Not here.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError(ELSEWHERE)

    def remove_image(self, image_id: str) -> None:
        """Not here.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError(ELSEWHERE)

    def json(self) -> dict[str, Any]:
        """The table of what is here, as MONAI Label's datastore of a folder gives it to its clients."""
        objects: dict[str, Any] = {}
        for image in self._files.images():
            info = self._files.image_info(image)
            objects[image] = {"image": {"ext": info.get("ext", ""), "info": info}, "labels": {}}
        for tag, images in self._files.tags().items():
            for image in images:
                if image in objects:
                    info = self._files.label_info(image, tag)
                    objects[image]["labels"][tag] = {"ext": ".png", "info": info}
        about = {"name": self._name, "description": self._description}
        return {**about, "images_dir": "images", "labels_dir": "labels", "objects": objects}

    @staticmethod
    def _tag(tag: object) -> str:
        """A tag as text that can be a folder's name."""
        text = str(getattr(tag, "value", tag))
        if not _TAG.fullmatch(text):
            raise UserError(f'the tag "{text[:80]}" is not made of letters, digits, - and _.')
        return text


def _content(path: str) -> io.BytesIO | None:
    return io.BytesIO(Path(path).read_bytes()) if path else None
