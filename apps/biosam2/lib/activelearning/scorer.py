"""Scores the images that nobody has labelled, in the background, when the server has nothing else to do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore

from lib.activelearning.pool import Pool
from lib.activelearning.scores import INFO, CaseScore
from lib.activelearning.uncertainty import score_structure
from lib.bank.bank import LabelBank, middle
from lib.bank.pipeline import prelabel
from lib.errors import Cancelled, UserError
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window
from lib.infers.image_task import Slices
from lib.sam.exemplars import Memories, pooled
from lib.sam.model import Model, ModelSlot
from lib.sam.segment import segment

logger = logging.getLogger(__name__)

IDLE = 5.0  # s without an inference after which it begins
LOOK_EVERY = 2.0  # s
GLIMPSES = 8  # slices that tell what an image looks like while there is no label


class Scorer:
    """Keeps `lib.activelearning.scores` of the pool up to date with the served model and the labels.

    An image is scored again when either has changed; those that were never scored come first. What has been
    scored is in the datastore's info of the image, so that a new start goes on where the last one ended. It
    gives way to every request: between two of its steps others have the device first (`lib.sam.turns`), and
    while people annotate it begins no further image.

    Parameters
    ----------
    datastore : callable
    pool : Pool
    bank : LabelBank
    slot : ModelSlot
    idle_seconds : callable
        For how long nobody has asked the server for an inference.
    is_busy : callable
        Whether the device is wanted for something else, such as a training.
    """

    def __init__(
        self,
        datastore: Callable[[], Datastore],
        pool: Pool,
        bank: LabelBank,
        slot: ModelSlot,
        idle_seconds: Callable[[], float],
        is_busy: Callable[[], bool],
    ) -> None:
        self._datastore, self._pool, self._bank, self._slot = datastore, pool, bank, slot
        self._idle_seconds, self._is_busy = idle_seconds, is_busy
        self._memories = Memories()
        self._stopped, self._changed = threading.Event(), threading.Event()
        # image -> key that it was last scored with, or could not be; read from the datastore once
        self._tried: dict[str, str | None] = {}
        self._counts = {"scored": 0, "of": 0}
        self._now: str | None = None
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._changed.set()

    def labels_changed(self) -> None:
        """Look again at once, not at the next time."""
        self._changed.set()

    def status(self) -> dict[str, Any]:
        """How far it is: images of the pool, those whose score is up to date, and the one at work."""
        return {**self._counts, "image": self._now}

    def key(self, model: Model) -> str:
        """Names the model and the labels that a score is made with."""
        return f"{model.checkpoint.version}-{model.size}-{self._bank.fingerprint}"

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._round()
            except Exception:  # whatever an image, a datastore or a device may raise: the next look may do
                logger.exception("scoring stopped, and goes on later")
            self._changed.wait(LOOK_EVERY)
            self._changed.clear()

    def _round(self) -> None:
        """All images that are out of date, until one of model, labels or leisure changes."""
        if not self._may_begin():
            return
        self._bank.refresh()
        model = self._slot.get()
        key = self.key(model)
        for image in self._out_of_date(key):
            if not self._may_begin() or self._changed.is_set() or self._slot.get() is not model:
                return
            self._now = image
            try:
                self._score(image, model, key)
            except Cancelled:
                return
            except (UserError, OSError) as error:
                logger.warning("%s cannot be scored: %s", image, error)
            finally:
                self._now = None
            self._tried[image] = key

    def _may_begin(self) -> bool:
        return not self._stopped.is_set() and not self._is_busy() and self._idle_seconds() >= IDLE

    def _out_of_date(self, key: str) -> Iterator[str]:
        datastore = self._datastore()
        is_video = getattr(datastore, "is_video", lambda _: False)
        images = [image for image in datastore.get_unlabeled_images() if not is_video(image)]
        self._tried = {
            image: self._tried[image]
            if image in self._tried
            else (datastore.get_image_info(image).get(INFO) or {}).get("key")
            for image in images
        }
        due = [image for image in images if self._tried[image] != key]
        self._counts = {"scored": len(images) - len(due), "of": len(images)}
        for image in sorted(due, key=lambda image: self._tried[image] is not None):
            yield image
            self._counts["scored"] += 1

    def _score(self, image: str, model: Model, key: str) -> None:
        datastore = self._datastore()
        path = Path(datastore.get_image_uri(image))
        volume = load_volume(path)
        planes = Slices(volume, choose_window(volume), volume.slice_axis)
        structures = {}
        if self._bank.structures():
            found = prelabel(
                model, planes, len(planes), self._bank, self._memories, path, cancelled=self._stopped.is_set
            )
            rng = np.random.default_rng(0)
            embedding = found.embedding
            structures = {
                name: score_structure(
                    slices, lambda index, asked: segment(model, planes(index), asked).mask, rng
                )
                for name, slices in found.found.items()
            }
        else:
            some = np.unique(np.linspace(0, len(planes) - 1, GLIMPSES).round().astype(int))
            embedding = middle([pooled(model, planes(int(index))) for index in some])
        score = CaseScore(key, embedding, structures)
        datastore.update_image_info(image, {INFO: score.to_info()})
        self._pool.scored(image, score)
