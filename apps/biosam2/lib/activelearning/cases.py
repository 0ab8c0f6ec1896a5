"""What is known of every image of the datastore, as arrays that a strategy can look through at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lib.activelearning.distances import Distances
from lib.activelearning.scores import CaseScore

MOST_STRUCTURES = 256  # names that are kept apart; further ones are not looked at
FIRST_ROWS = 64


class Cases:
    """One row for each image; rows of images that are gone are used again.

    Attributes
    ----------
    images : list of str or None
        Image of each row.
    labelled, claimed : ndarray bool (n,)
        Has a final label; is with an annotator.
    structures : list of str
        Structures that were scored in some image.
    uncertainty, present : ndarray float32 (S, n)
        Of each structure in each image, 0 to 1, as in `StructureScore`; NaN where it was not scored.
    mean : ndarray float32 (n,)
        Mean uncertainty of the structures of an image, NaN where none was scored.
    distances : Distances
        To the nearest image that is labelled or claimed.
    collected : ndarray float64 (S,)
        How many of the images that are labelled or claimed show a structure: the sum of present.
    """

    def __init__(self) -> None:
        self.images: list[str | None] = []
        self.distances = Distances()
        self.structures: list[str] = []
        self.labelled, self.claimed, self._listed = (np.zeros(0, bool) for _ in range(3))
        self.uncertainty, self.present = (np.zeros((0, 0), np.float32) for _ in range(2))
        self.mean = np.zeros(0, np.float32)
        self.collected = np.zeros(0)
        self._row: dict[str, int] = {}
        self._spare: list[int] = []

    def __contains__(self, image: object) -> bool:
        return image in self._row

    def __len__(self) -> int:
        return len(self._row)

    def listed(self) -> set[str]:
        """All images."""
        return set(self._row)

    def row(self, image: str) -> int | None:
        """The row of an image, None if it is not listed."""
        return self._row.get(image)

    def free(self) -> np.ndarray:
        """Rows of the images that can be given to somebody: int (m,)."""
        return np.flatnonzero(self._listed & ~self.labelled & ~self.claimed)

    def names(self, mask: np.ndarray) -> set[str]:
        """Images of the rows of a mask (n,)."""
        return {image for row in np.flatnonzero(mask) if (image := self.images[row]) is not None}

    def chosen(self, names: Sequence[str]) -> np.ndarray:
        """Rows of `uncertainty` and `present` that some structures have; all if none of them was scored."""
        known = [s for s, name in enumerate(self.structures) if name in names]
        return np.array(known or range(len(self.structures)), int)

    # Which images there are

    def add(self, images: Iterable[str]) -> None:
        """List images that are not listed yet, in their order."""
        new = [image for image in dict.fromkeys(images) if image not in self._row]
        missing = len(new) - len(self._spare)
        if missing > 0:
            self._grow(missing)
        for image in new:
            row = self._spare.pop()
            self.images[row], self._row[image], self._listed[row] = image, row, True

    def remove(self, image: str) -> None:
        """Forget an image, if it is listed."""
        row = self._row.pop(image, None)
        if row is None:
            return
        self._count(np.array([row]), -1)
        self.distances.forget(row)
        self.labelled[row] = self.claimed[row] = self._listed[row] = False
        self.uncertainty[:, row] = self.present[:, row] = self.mean[row] = np.nan
        self.images[row] = None
        self._spare.append(row)

    def _grow(self, missing: int) -> None:
        """By half, so that many single images cost no more than all at once."""
        old = len(self.images)
        rows = max(old + missing, old + old // 2, FIRST_ROWS)
        none = np.zeros(rows - old, bool)
        self.labelled, self.claimed, self._listed = (
            np.append(flags, none) for flags in (self.labelled, self.claimed, self._listed)
        )
        nan = np.full((len(self.structures), rows - old), np.nan, np.float32)
        self.uncertainty, self.present = np.hstack([self.uncertainty, nan]), np.hstack([self.present, nan])
        self.mean = np.append(self.mean, np.full(rows - old, np.nan, np.float32))
        self.distances.resize(rows)
        self.images += [None] * (rows - old)
        self._spare += range(rows - 1, old - 1, -1)

    # What is known of them

    def label(self, image: str, labelled: bool = True) -> None:
        """Say that a listed image has a final label, or none any more."""
        self._mark(self.labelled, self._row[image], labelled)

    def claim(self, images: set[str]) -> None:
        """Say which images are with annotators; all others are not."""
        before = self.names(self.claimed)
        for image in before ^ images:
            if image in self._row:
                self._mark(self.claimed, self._row[image], image in images)

    def score(self, scores: Sequence[tuple[str, CaseScore]]) -> None:
        """Keep what was found out about listed images; the last one counts where an image comes twice.

        Raises
        ------
        ValueError
            If an embedding has another number of elements than those that are known, `distances.length`.
        """
        latest = dict(scores)
        if not latest:
            return
        rows = np.array([self._row[image] for image in latest], int)
        self._score_structures(rows, list(latest.values()))
        vectors = np.stack([score.embedding for score in latest.values()]).astype(np.float32)
        if not self.distances.length:
            self.distances.begin(vectors.shape[1])
        self.distances.put(rows, vectors)

    def _score_structures(self, rows: np.ndarray, scores: Sequence[CaseScore]) -> None:
        self._know(dict.fromkeys(name for score in scores for name in score.structures))
        index = {name: s for s, name in enumerate(self.structures)}
        found = np.full((2, len(index), len(rows)), np.nan, np.float32)
        for column, score in enumerate(scores):
            for name, structure in score.structures.items():
                if name in index:
                    found[:, index[name], column] = structure.uncertainty, structure.present
        scored = ~np.isnan(found[0])
        self._count(rows, -1)
        self.uncertainty[:, rows], self.present[:, rows] = found
        with np.errstate(invalid="ignore"):  # 0 / 0 where no structure was scored is NaN, as it should be
            self.mean[rows] = np.where(scored, found[0], 0).sum(0) / scored.sum(0)
        self._count(rows, +1)

    def _know(self, found: Iterable[str]) -> None:
        names = [name for name in found if name not in self.structures]
        names = names[: MOST_STRUCTURES - len(self.structures)]
        if not names:
            return
        self.structures += names
        nan = np.full((len(names), len(self.images)), np.nan, np.float32)
        self.uncertainty, self.present = np.vstack([self.uncertainty, nan]), np.vstack([self.present, nan])
        self.collected = np.append(self.collected, np.zeros(len(names)))

    def _mark(self, flags: np.ndarray, row: int, value: bool) -> None:
        if flags[row] == value:
            return
        self._count(np.array([row]), -1)
        flags[row] = value
        self._count(np.array([row]), +1)
        if self.labelled[row] or self.claimed[row]:
            self.distances.add(row)
        else:
            self.distances.drop(row)

    def _count(self, rows: np.ndarray, sign: int) -> None:
        """Add those rows that are labelled or claimed to what is collected, or take them out again."""
        taken = rows[self.labelled[rows] | self.claimed[rows]]
        self.collected += sign * np.nan_to_num(self.present[:, taken]).astype(float).sum(1)
