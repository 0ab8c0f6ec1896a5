"""How far the embedding of each image is from the nearest one that is labelled or claimed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BLOCK = 1024  # embeddings that are measured against all others at once
NEIGHBOURS = 3  # that tell how alone an image is


class Distances:
    """Embeddings by row, and the distance of each to the nearest of some rows, the centres.

    A change costs one product of all embeddings with those that changed, n x D for one: 5 ms for 100,000
    embeddings of 128 numbers, 11 ms for 256. Nothing is computed when a distance is asked for.

    Attributes
    ----------
    known : ndarray bool (n,)
        Rows that have an embedding.
    near : ndarray float32 (n,)
        Euclidean distance to the nearest centre; inf without one, and for a row without an embedding.
    """

    def __init__(self) -> None:
        self._vectors = np.zeros((0, 0), np.float32)
        self._wanted: set[int] = set()  # centres, with an embedding or not yet
        self._active: set[int] = set()  # those that have one
        self._nearest = np.zeros(0, np.int32)  # row of the nearest centre, -1 without one
        self.known = np.zeros(0, bool)
        self.near = np.zeros(0, np.float32)

    @property
    def length(self) -> int:
        """Numbers of an embedding; 0 before the first one."""
        return self._vectors.shape[1]

    def resize(self, rows: int) -> None:
        """Make room; the new rows have no embedding."""
        added = rows - len(self.known)
        self.known = np.append(self.known, np.zeros(added, bool))
        self.near = np.append(self.near, np.full(added, np.inf, np.float32))
        self._nearest = np.append(self._nearest, np.full(added, -1, np.int32))
        self._vectors = np.vstack([self._vectors, np.zeros((added, self.length), np.float32)])

    def begin(self, length: int) -> None:
        """Forget all embeddings: the next ones have so many numbers, and cannot be compared with those."""
        self._vectors = np.zeros((len(self.known), length), np.float32)
        self._active.clear()
        self.known[:], self.near[:], self._nearest[:] = False, np.inf, -1

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Set the embeddings of rows, each of length 1.

        Parameters
        ----------
        rows : ndarray int (m,)
            Each once.
        vectors : ndarray float32 (m, D)

        Raises
        ------
        ValueError
            If D is not `length`; see `begin`.
        """
        if vectors.shape != (len(rows), self.length):
            raise ValueError(f"embeddings are {(len(rows), self.length)}, not {vectors.shape}")
        self._retire([row for row in rows.tolist() if row in self._active])
        self._vectors[rows], self.known[rows] = vectors, True
        self._measure(rows)
        self._activate([row for row in rows.tolist() if row in self._wanted])

    def forget(self, row: int) -> None:
        """Leave a row without an embedding, and no centre."""
        self.drop(row)
        self.known[row], self.near[row], self._nearest[row] = False, np.inf, -1

    def add(self, row: int) -> None:
        """Make a row a centre, from when it has an embedding."""
        self._wanted.add(row)
        if self.known[row] and row not in self._active:
            self._activate([row])

    def drop(self, row: int) -> None:
        """Make a row no centre."""
        self._wanted.discard(row)
        if row in self._active:
            self._retire([row])

    def alone(self, rows: np.ndarray) -> np.ndarray:
        """How odd each of some rows is: its mean distance to the `NEIGHBOURS` nearest others of them.

        Takes 15 ms for 1000 rows with 256 numbers each, and goes with the square of their number.

        Parameters
        ----------
        rows : ndarray int (m,)
            With embeddings.

        Returns
        -------
        ndarray float32 (m,)
            0 where there are no others.
        """
        count = min(NEIGHBOURS, len(rows) - 1)
        if count < 1:
            return np.zeros(len(rows), np.float32)
        vectors = self._vectors[rows]
        distance = _distance(vectors @ vectors.T)
        np.fill_diagonal(distance, np.inf)
        return np.partition(distance, count - 1)[:, :count].mean(1)

    def _activate(self, rows: list[int]) -> None:
        """Centres that are new may be nearer to any row."""
        if not rows:
            return
        self._active.update(rows)
        if len(rows) == 1:  # the common case, without an index of all rows
            distance = _distance(self._vectors @ self._vectors[rows[0]])
            nearer = self.known & (distance < self.near)
            self.near[nearer], self._nearest[nearer] = distance[nearer], rows[0]
        else:
            self._approach(np.flatnonzero(self.known), rows)

    def _retire(self, rows: Iterable[int]) -> None:
        """The rows that one was nearest to have another nearest now."""
        for row in rows:
            self._active.discard(row)
            self._measure(np.flatnonzero(self._nearest == row))

    def _measure(self, rows: np.ndarray) -> None:
        self.near[rows], self._nearest[rows] = np.inf, -1
        if self._active:
            self._approach(rows, list(self._active))

    def _approach(self, rows: np.ndarray, centres: list[int]) -> None:
        """Keep, for each row, the nearer one of the centre it has and of these."""
        index = np.array(centres, np.int32)
        vectors = self._vectors[index].T
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            cosines = self._vectors[block] @ vectors
            best = cosines.argmax(1)
            distance = _distance(cosines[np.arange(len(block)), best])
            nearer = distance < self.near[block]
            self.near[block[nearer]], self._nearest[block[nearer]] = distance[nearer], index[best[nearer]]


def _distance(cosine: np.ndarray) -> np.ndarray:
    """Between embeddings of length 1."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))
