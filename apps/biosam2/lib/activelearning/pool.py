"""The index of the datastore's images, kept up as they change, so that no request searches the datastore."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.activelearning.cases import Cases
from lib.activelearning.scores import CaseScore
from lib.errors import UserError

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL.value
SYNC_SECONDS = 3.0  # images and labels also come in by other ways than through this server
SHARE = 20.0  # a list that takes long to get is asked for less often: one part in so many of the time
AT_MOST = 60.0  # s
PATIENCE = 0.02  # s that a request waits for lists that are due; a small datastore has them by then
SETTLE = 10.0  # s for which a label that was saved here, and is here, need not be listed yet
CHUNK = 500  # images whose info is read before others may look at the index


class Pool:
    """`Cases` of a datastore, by list and by hook.

    It is filled from the datastore by `begin`, and told when a label is saved and when an image is scored.
    Whatever else happens to the datastore (files that are copied there, an archive) is found out by comparing
    lists, in a thread, at most every few seconds and only while somebody asks for cases.

    It grows with n images, S structures and embeddings of D numbers: 8 S + 4 D + 30 bytes an image, besides
    its name. `tests/benchmarks/README.md` has the times for up to 100,000 images.

    Parameters
    ----------
    datastore : callable
        The app's datastore.

    Attributes
    ----------
    cases : Cases
        Only to be used by who holds `lock`.
    lock : RLock
    """

    def __init__(self, datastore: Callable[[], Datastore]) -> None:
        self._datastore = datastore
        self.cases, self.lock = Cases(), threading.RLock()
        self._listing = threading.Lock()
        self._door = threading.Lock()
        self._listed = threading.Event()  # set while no lists are being compared
        self._listed.set()
        self._failure: Exception | None = None
        self._began: float | None = None  # the lists that are in; None before the first ones
        self._due = 0.0
        self._images: list[str] = []  # as they were listed last
        self._saved: dict[str, float] = {}  # image -> when a label of it was saved here
        self._unread: dict[str, None] = {}  # images whose info is not read yet, in their order
        self._reading = False

    # What others tell

    def scored(self, image: str, score: CaseScore) -> None:
        """An image was scored. Embeddings of another length than before replace all that are known."""
        with self.lock:
            if image not in self.cases:
                return
            length = self.cases.distances.length
            if length and length != len(score.embedding):
                self.cases.distances.begin(len(score.embedding))
                # those that were scored by the same model before this server was started
                self._unread = {other: None for other in self.cases.listed() if other != image}
            self._unread.pop(image, None)
            self.cases.score([(image, score)])

    def labelled(self, image: str) -> None:
        """A final label was saved."""
        with self.lock:
            self._saved[image] = time.monotonic()
            self.cases.add([image])
            self.cases.label(image)

    def removed(self, image: str) -> None:
        """The image is gone."""
        with self.lock:
            self.cases.remove(image)
            self._unread.pop(image, None)

    # What the datastore has

    def begin(self) -> None:
        """Compare with the datastore in a thread, if that is due."""
        with self._door:
            if self._listed.is_set() and time.monotonic() >= self._due:
                self._listed.clear()
                threading.Thread(target=self._update, name="pool", daemon=True).start()

    def refresh(self) -> None:
        """Compare with the datastore if that is due, and wait a moment for it; the first time to the end.

        Raises
        ------
        UserError
            If the datastore cannot be listed and never was (`Unavailable`: an archive that does not answer).
        """
        self.begin()
        self._listed.wait(None if self._began is None else PATIENCE)
        failure = self._failure
        if self._began is None and failure:
            raise failure

    def sync(self) -> None:
        """Compare with the datastore now, all of it.

        Raises
        ------
        UserError
            If the datastore cannot be listed.
        """
        self._list()
        self._read()

    def is_fresh(self, seconds: float = 1.0) -> bool:
        """Whether the lists were asked for in the last seconds."""
        return self._began is not None and time.monotonic() - self._began < seconds

    def _update(self) -> None:
        try:
            self._list()
            self._failure = None
        except Exception as error:  # also of datastores that are not ours
            self._failure = error
            self._due = time.monotonic() + SYNC_SECONDS
            logger.warning("the images cannot be listed: %s", error)
        finally:
            self._listed.set()
        self._read()

    def _list(self) -> None:
        """Images and labels; not what is known of them, of which there may be much."""
        with self._listing:
            began = time.monotonic()
            datastore = self._datastore()
            images = datastore.list_images()
            final = set(datastore.get_labeled_images())
            # nearly always they are the same, and 100,000 of them are seen to be so in a millisecond
            if images != self._images:
                self._compare_images(images, began)
            self._images = images
            self._compare_labels(final, began)
            ended = time.monotonic()
            self._began = began
            self._due = ended + min(AT_MOST, max(SYNC_SECONDS, SHARE * (ended - began)))

    def _compare_images(self, images: list[str], began: float) -> None:
        listed = set(images)
        with self.lock:
            lately = {image for image, at in self._saved.items() if at > began - SETTLE}
            for image in self.cases.listed() - listed - lately:
                self.removed(image)
            new = [image for image in images if image not in self.cases and not self._is_video(image)]
            self.cases.add(new)
            self._unread.update(dict.fromkeys(new))

    def _is_video(self, image: str) -> bool:
        """Whether none of the viewers that ask for a next case can open it."""
        asked = getattr(self._datastore(), "is_video", None)
        return bool(asked and asked(image))

    def _compare_labels(self, final: set[str], began: float) -> None:
        with self.lock:
            cases = self.cases
            self._saved = {image: at for image, at in self._saved.items() if at > began - SETTLE}
            known = cases.names(cases.labelled)
            for image in final - known:
                if image in cases:
                    cases.label(image)
            for image in known - final:
                if image not in self._saved or not self._datastore().get_label_info(image, FINAL):
                    cases.label(image, False)

    def _read(self) -> None:
        """The scores of images that are new here, as the datastore has kept them."""
        with self.lock:
            if self._reading:
                return
            self._reading = True
        try:
            for chunk in iter(self._next_unread, []):
                self._take_in(chunk)
        except UserError as error:
            logger.warning("what is known of the images cannot be read: %s", error)
        finally:
            self._reading = False

    def _next_unread(self) -> list[str]:
        with self.lock:
            return list(islice(self._unread, CHUNK))

    def _take_in(self, images: list[str]) -> None:
        found = list(self._scores(images))
        with self.lock:
            length = self.cases.distances.length or (len(found[0][1].embedding) if found else 0)
            # not one that was scored meanwhile, nor by a model that is not used any more
            self.cases.score(
                [
                    (image, score)
                    for image, score in found
                    if image in self._unread and len(score.embedding) == length
                ]
            )
            for image in images:
                self._unread.pop(image, None)

    def _scores(self, images: list[str]) -> Iterator[tuple[str, CaseScore]]:
        datastore = self._datastore()
        for image in images:
            score = CaseScore.from_info(datastore.get_image_info(image))
            if score is not None:
                yield image, score
