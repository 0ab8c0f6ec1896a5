"""The datastore of a CVAT: its frames are the images, what is drawn in finished jobs the final labels.

- All pages of projects, tasks and jobs are listed, and kept for seconds. A frame is downloaded when it is
  asked for, in its original quality, and put in its place whole.
- A label is final when all annotation jobs with its frame have the state "completed", in whatever stage. A
  job that is opened again takes its labels back until it is completed.
- Annotations are exported once for each change, a task at a time (`lib.datastores.cvat.exports`), and a label
  is drawn when it is asked for. Masks, polygons and ellipses, also of tracks, are drawn; boxes, points and
  lines say nothing of pixels and are left out. Frames with nothing drawn are finished, but nothing to learn
  from.
- Who belongs together: the subject in a BIDS name of the frame, or else the task.
- What another client submits as final goes into CVAT as masks (`lib.datastores.cvat.upload`).
"""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lib.datastores.cvat.annotations import read_export
from lib.datastores.cvat.book import Book
from lib.datastores.cvat.catalogue import Catalogue, Task, image_id, parse_image
from lib.datastores.cvat.client import CvatClient
from lib.datastores.cvat.draw import draw
from lib.datastores.cvat.exports import ExportFailed, Exports
from lib.datastores.cvat.files import Files
from lib.datastores.cvat.pictures import write_picture
from lib.datastores.cvat.plain import FINAL, PlainDatastore
from lib.datastores.cvat.structures import Structures
from lib.datastores.cvat.upload import upload
from lib.datastores.labels import read_label, segments_of
from lib.errors import NotFound, Unavailable, Unprocessable, UserError
from lib.imaging.answer import write_mask
from lib.imaging.store import load_cached

logger = logging.getLogger(__name__)

PICTURE_BYTES = 512 << 20  # of a frame, at most
# BIDS names the subject first, as in `lib.trainers.finetune.cases`
_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(_|$)")


class CvatDatastore(PlainDatastore):
    """Images and labels of a CVAT, and a cache of them.

    Parameters
    ----------
    client : CvatClient
    cache : Path
        Where the caches of all CVATs lie.
    project : str
        As for `Catalogue`.
    exports : Exports, optional
    """

    def __init__(
        self, client: CvatClient, cache: Path, project: str = "", exports: Exports | None = None
    ) -> None:
        folder = cache / (re.sub(r"[^A-Za-z0-9.-]+", "_", client.url.split("//")[-1])[:100] or "cvat")
        super().__init__(Files(folder), f"CVAT {client.url}")
        self._client = client
        self._catalogue = Catalogue(client, project)
        self._exports = exports or Exports(client)
        self._structures = Structures(folder / "structures.json")
        self._books: dict[int, Book] = {}
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        logger.info("images of the CVAT %s are kept in %s", client.url, folder)

    # Lists

    def list_images(self) -> list[str]:
        """All frames of all tasks, as CVAT has them now."""
        return list(self._catalogue.listing().images)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The frames of finished jobs."""
        return list(self._catalogue.listing().finished)

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """The other ones."""
        listing = self._catalogue.listing()
        return [image for image in listing.images if image not in listing.finished]

    def final_labels(self) -> dict[str, str]:
        """What stands for the label of each finished frame on which something is drawn.

        The annotations of tasks that have changed are exported for it. A task that CVAT cannot export is left
        out and logged.

        Raises
        ------
        Unavailable
            If CVAT does not answer.
        """
        found = {}
        for task in self._catalogue.listing().tasks.values():
            if not task.finished:
                continue
            try:
                digests = self._book(task).digests
            except (ExportFailed, NotFound) as error:
                logger.warning("task %d of CVAT is left out: %s", task.id, error)
                continue
            found.update({image_id(task.id, n): digests[n] for n in task.finished if n in digests})
        return found

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> id of the label: what is kept here, and CVAT's as the final one."""
        found = {tag: image_id for tag, images in self._files.tags().items() if image_id in images}
        found.pop(FINAL, None)
        if image_id in self._catalogue.listing().finished:
            found[FINAL] = image_id
        return found

    def has(self, image: str) -> bool:
        """Whether there is such an image; one that is here is answered for without asking CVAT."""
        if parse_image(image) is None:
            return False
        return self._files.image(image) is not None or image in self._catalogue.listing().images

    def status(self) -> dict[str, Any]:
        """Counts for the clients. With a CVAT that does not answer, those of the cache, and why."""
        tags = {tag: len(images) for tag, images in self._files.tags().items()}
        try:
            total, completed = self._catalogue.counts()
            counts: dict[str, Any] = {"total": total, "completed": completed}
        except UserError as error:
            here = len(self._files.images())
            counts = {"total": here, "completed": tags.get(FINAL, 0), "error": str(error)}
        return {**counts, "label_tags": tags}

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """The training list: files of every finished frame with something drawn, brought here if need be.

        Raises
        ------
        Unavailable
            If CVAT does not answer: a shorter list would train on less without a word.
        """
        found = []
        for image in self.final_labels():
            try:
                case = {"image": self.get_image_uri(image), "label": self.get_label_uri(image, FINAL)}
            except Unavailable:
                raise
            except UserError as error:
                logger.warning("%s is left out of the training list: %s", image, error)
                continue
            if not full_path:
                case = {key: str(Path(path).relative_to(self._files.folder)) for key, path in case.items()}
            found.append(case)
        return found

    def refresh(self) -> None:
        """Ask CVAT again the next time."""
        self._catalogue.changed()

    # Images

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image as PNG or JPEG, downloaded if it is not here.

        Raises
        ------
        NotFound
            If CVAT does not have it.
        Unavailable
            If CVAT does not answer.
        Unprocessable
            If what it sends is no picture, or of another size than it says.
        """
        if parse_image(image_id) is None:
            return ""
        with self._locks[image_id]:
            here = self._files.image(image_id)
            fresh = self._catalogue.known()
            if here is not None and (fresh is None or image_id not in fresh.images):
                return str(here)
            task, number = self._find(image_id)
            about = self._about(task, number)
            known = self._files.image_info(image_id)
            if here is None or {key: known.get(key) for key in about} != about:
                here = self._fetch(image_id, task, number, {**known, **about})
            return str(here)

    def _find(self, image: str) -> tuple[Task, int]:
        found = self._catalogue.listing().images.get(image)
        if found is None:
            self._catalogue.changed()  # it may have come in this moment
            found = self._catalogue.listing().images.get(image)
        if found is None:
            raise NotFound(f'image "{image[:80]}" is not in CVAT: it was deleted there or never was.')
        return found

    def _about(self, task: Task, number: int) -> dict[str, Any]:
        """What the note of an image says; if any of it is another, the image is."""
        frame = task.frames[number]
        assert frame is not None
        subject = _SUBJECT.match(PurePosixPath(frame.name.replace("\\", "/")).stem)
        return {
            "cvat": f"{task.created} {frame.name}",  # numbers begin anew in another database
            "size": [frame.width, frame.height],
            "patient": subject[1] if subject else f"task-{task.id}",
            "task": task.name,
        }

    def _fetch(self, image: str, task: Task, number: int, info: dict[str, Any]) -> Path:
        what, frame = f"frame {number} of task {task.id}", task.frames[number]
        assert frame is not None
        asked = {"type": "frame", "quality": "original", "number": number}
        content = self._client.bytes(f"/api/tasks/{task.id}/data/", what, PICTURE_BYTES, **asked)
        with self._files.workshop() as work:
            return self._files.keep_image(image, write_picture(content, frame, work, what), info)

    # Labels

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label as PNG, on the image's grid; the final one is what CVAT has now.

        Returns
        -------
        str
            ``""`` if there is no such label.

        Raises
        ------
        NotFound, Unavailable
            As for images.
        Unprocessable
            If nothing is drawn on a finished frame that is a mask, or what is there makes no sense.
        """
        image, tag = image_id or label_id, self._tag(label_tag)
        if parse_image(image) is None:
            return ""
        if tag != FINAL:
            return str(self._files.label(image, tag) or "")
        found = self._catalogue.listing().finished.get(image)
        if found is None:
            return ""
        with self._locks[image]:
            return str(self._final(image, *found))

    def _final(self, image: str, task: Task, number: int) -> Path:
        what = f"frame {number} of task {task.id}"
        book = self._book(task)
        drawn = book.drawn(number)
        digest = book.digests.get(number)
        if digest is None:
            others = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(drawn["others"].items()))
            raise Unprocessable(
                f"on {what} of CVAT nothing is drawn that is a mask{f' (only {others})' if others else ''}."
            )
        here = self._files.label(image, FINAL)
        if here is not None and self._files.label_info(image, FINAL).get("digest") == digest:
            return here
        frame = task.frames[number]
        assert frame is not None
        labels = draw(drawn, frame.width, frame.height, self._structures.value_of, what)
        present = [int(value) for value in np.unique(labels) if value]
        info = {"label_info": self._structures.info(present), "digest": digest, "task": task.name}
        volume = load_cached(self.get_image_uri(image))
        with self._files.workshop() as work:
            dtype = "uint8" if labels.max() < 256 else "uint16"
            return self._files.keep_label(
                image, FINAL, write_mask(labels, volume, ".png", dtype, folder=work), info
            )

    def _book(self, task: Task) -> Book:
        """What is drawn on the frames of a task, exported if it is not here or has changed."""
        with self._locks[f"task {task.id}"]:
            file = self._files.folder / "annotations" / f"task-{task.id}.jsonl"
            book = self._books.get(task.id)
            if book is None or not book.is_current():
                book = Book.open(file)
            stamp = f"{task.created} {task.stamp}"
            if book is None or book.stamp != stamp:
                with self._files.workshop() as work:
                    self._exports.fetch(task.id, work / "export.zip")
                    self._structures.learn(self._catalogue.labels())
                    frames = read_export(work / "export.zip", task.id)
                    book = Book.write(file, stamp, frames, task.start, task.step)
                logger.info("annotations of task %d exported from CVAT", task.id)
                if book.others:
                    logger.warning("of task %d are left out, being no masks: %s", task.id, dict(book.others))
            self._books[task.id] = book
            return book

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: dict[str, Any],
        label_id: str = "",
    ) -> str:
        """Keep a label here or, if it is final, put it into CVAT as masks; a refused one is kept nowhere.

        Parameters
        ----------
        image_id : str
        label_filename : str
            PNG, NIfTI, NRRD. On another grid than the image's, it is resampled.
        label_tag : str
        label_info : dict
            `label_info`: what the values stand for, `[{"name": ..., "idx": ...}, ...]`.

        Returns
        -------
        str
            The label's id, which is the image's.

        Raises
        ------
        NotFound
            If the image is not in CVAT.
        Conflict
            If something is drawn on the frame in CVAT: that is not to be lost.
        UserError
            If the file is no label of this image, or CVAT's task has no label of a structure's name.
        Unavailable
            If CVAT does not answer, or refuses it.
        """
        tag, info = self._tag(label_tag), dict(label_info or {})
        if parse_image(image_id) is None:
            raise NotFound(f'image "{str(image_id)[:80]}" is not a frame of CVAT.')
        with self._locks[image_id]:
            volume = load_cached(self.get_image_uri(image_id))
            labels = read_label(Path(label_filename), volume)
            if tag == FINAL:
                task, number = self._find(image_id)
                upload(self._client, task, number, labels[:, :, 0], segments_of(labels, info))
                self._catalogue.changed()
            else:
                with self._files.workshop() as work:
                    dtype = "uint8" if int(labels.max()) < 256 else "uint16"
                    file = write_mask(labels, volume, ".png", dtype, folder=work)
                    self._files.keep_label(image_id, tag, file, info)
        logger.info("label of %s saved as %s", image_id, tag)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label that is kept here only.

        Raises
        ------
        UserError
            If it is the final one, which is CVAT's.
        """
        tag = self._tag(label_tag)
        if tag == FINAL:
            raise UserError(f"the final label of {str(label_id)[:80]} is in CVAT: delete it there.")
        if parse_image(label_id) is not None:
            self._files.remove_label(label_id, tag)
