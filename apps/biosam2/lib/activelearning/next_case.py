"""The case that an annotator gets: chosen by a strategy, claimed in the same moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.claims import Annotator, Claim, Claims
from lib.activelearning.pool import Pool
from lib.activelearning.strategies import STRATEGIES, Choose
from lib.errors import NotFound, Unavailable, UserError

DEFAULT = next(iter(STRATEGIES))
TRIES = 10  # images that have gone, or cannot be read, before it is said
UNREADABLE = Annotator("the server: cannot be read")


class NextCase:
    """Gives out cases, each to one annotator at a time.

    Parameters
    ----------
    datastore : callable
        The app's datastore.
    claims_file : Path
    minutes : float
        For how long an image is claimed, counted from when it was given out or worked on last.
    rng : Generator, optional
        Given, the same requests have the same answers.
    """

    def __init__(
        self,
        datastore: Callable[[], Datastore],
        claims_file: Path,
        minutes: float,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.pool, self.claims = Pool(datastore), Claims(claims_file, 60 * minutes)
        self._rng = rng or np.random.default_rng()

    def strategies(self) -> dict[str, Strategy]:
        """As MONAI Label keeps them, by name, the default first."""
        return {name: _Strategy(choose, self) for name, choose in STRATEGIES.items()}

    def take(self, choose: Choose, request: Mapping[str, Any]) -> Claim | None:
        """Choose an image without a label that nobody has, and claim it; None if there is none.

        What the annotator had before is given back, and does not come again at once. Of people without a name
        it is not known what they had: only when nothing else is left do they get what was given to their
        address, the oldest first.

        Raises
        ------
        UserError
            If the datastore cannot be listed.
        """
        annotator, names = Annotator.of(request), tuple(request.get("labels") or ())
        self.pool.refresh()
        if annotator.name:
            self.claims.skip(annotator)
        claim = self._take(choose, annotator, names)
        if claim is None and not self.pool.is_fresh():
            self.pool.sync()
            claim = self._take(choose, annotator, names)
        return claim

    def _take(self, choose: Choose, annotator: Annotator, names: tuple[str, ...]) -> Claim | None:
        with self.pool.lock:
            cases = self.pool.cases
            self._end_what_is_over()
            cases.claim(self.claims.images())
            free = cases.free()
            seen = self.claims.skipped(annotator)
            rows = [row for image in seen if (row := cases.row(image)) is not None]
            unseen = free[~np.isin(free, rows)] if rows else free
            if len(unseen):
                image = cases.images[choose(cases, unseen, self._rng, names)]
            elif len(free):
                image = cases.images[next(row for row in rows if row in free)]
            else:
                image = next(iter(self.claims.unnamed(annotator)), None)
            return None if image is None else self.claims.take(image, annotator)

    def _end_what_is_over(self) -> None:
        """Claims on images that were labelled or removed by other ways than through this server."""
        cases = self.pool.cases
        for image in self.claims.images():
            row = cases.row(image)
            if row is None or cases.labelled[row]:
                self.claims.end(image)

    def answer(self, strategy: Strategy, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The next case as MONAI Label's clients expect it.

        Returns
        -------
        dict
            `id`, `path` and `claimed_until` (seconds since 1970); or, if there is none, `message`, which says
            why, and nothing else.

        Raises
        ------
        UserError
            If the datastore does not answer, or one image after the other cannot be read.
        """
        unreadable: UserError | None = None
        for _ in range(TRIES):
            found = strategy(dict(request), datastore)
            if not found:
                return {"message": self._why_none()}
            try:
                path = datastore.get_image_uri(found["id"])
            except NotFound:
                path = ""
            except Unavailable:
                self.claims.end(found["id"])
                raise
            except UserError as error:
                unreadable = error
                self.claims.take(found["id"], UNREADABLE)
                continue
            if path:
                return {**found, "path": path}
            self._gone(found["id"])
        raise unreadable or Unavailable("the images that are listed are not there any more: try again.")

    def label_saved(self, image: str, datastore: Datastore) -> None:
        """A label was saved; a final one ends the work on its image."""
        if datastore.get_label_info(image, "final"):
            self.pool.labelled(image)
            self.claims.end(image)

    def status(self) -> dict[str, int]:
        """How many images are labelled, unlabelled and scored as far as is known, how many claimed."""
        claimed = self.claims.images()
        with self.pool.lock:
            cases = self.pool.cases
            labelled = int(np.count_nonzero(cases.labelled))
            return {
                "labelled": labelled,
                "unlabelled": len(cases) - labelled,
                "scored": int(np.count_nonzero(cases.distances.known)),
                "claimed": len(claimed),
            }

    def _gone(self, image: str) -> None:
        self.pool.removed(image)
        self.claims.end(image)

    def _why_none(self) -> str:
        status = self.status()
        if not status["unlabelled"] + status["labelled"]:
            return "The datastore has no images."
        if not status["unlabelled"]:
            return f"No case is left: all {status['labelled']} images are labelled."
        minutes = f"{self.claims.seconds / 60:g}"
        return (
            f"No case is left for now: all {status['unlabelled']} unlabelled images are with annotators. "
            f"A case is free again when it is given back, or {minutes} minutes after the last work on it."
        )


class _Strategy(Strategy):
    """A way to choose, as MONAI Label calls it."""

    def __init__(self, choose: Choose, next_case: NextCase) -> None:
        super().__init__(str(choose.__doc__).splitlines()[0])
        self._choose, self._next_case = choose, next_case

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        claim = self._next_case.take(self._choose, request)
        return None if claim is None else {"id": claim.image, "claimed_until": round(claim.until)}
