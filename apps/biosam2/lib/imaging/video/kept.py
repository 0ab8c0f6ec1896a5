"""The masks of several objects on many frames, as runs in a file: a long video's do not fit into memory."""

from __future__ import annotations

import tempfile
from typing import Any, Self

import numpy as np

from lib.imaging import runs

IN_MEMORY = 1 << 24  # bytes of runs up to which no file is made
HEAD = 4  # numbers before the runs: the rectangle


class KeptMasks:
    """Masks by object and frame, with a score for each.

    Parameters
    ----------
    objects, frames : int
        How many there are.
    size : (W, H)
        Pixels of a frame.

    Attributes
    ----------
    scores : ndarray float32 (objects, frames)
        NaN where nothing was put.
    """

    def __init__(self, objects: int, frames: int, size: tuple[int, int]) -> None:
        self.size = size
        self.scores = np.full((objects, frames), np.nan, np.float32)
        self._at = np.zeros((objects, frames), np.int64)
        self._length = np.zeros((objects, frames), np.int32)
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - until `close`
        self._end = 0

    def put(self, number: int, index: int, mask: np.ndarray, score: float) -> None:
        """Keep the mask, bool (W, H), of an object on a frame; the last one counts."""
        found = runs.encode(mask)
        data = np.array([*found["bbox"], *found["counts"]], np.int32).tobytes() if found["counts"] else b""
        self._file.seek(self._end)
        self._file.write(data)
        self._at[number, index], self._length[number, index] = self._end, len(data)
        self.scores[number, index] = score
        self._end += len(data)

    @property
    def done(self) -> np.ndarray:
        """Where a mask was put, an empty one maybe: bool (objects, frames)."""
        return ~np.isnan(self.scores)

    @property
    def there(self) -> np.ndarray:
        """Where an object has pixels: bool (objects, frames)."""
        return self._length > 0

    def is_there(self, number: int, index: int) -> bool:
        """Whether an object has pixels on a frame."""
        return bool(self._length[number, index])

    def encoded(self, number: int, index: int) -> dict[str, Any]:
        """The mask of an object on a frame as `lib.imaging.runs` has it."""
        if not self._length[number, index]:
            return {"size": list(self.size), "bbox": [0, 0, 0, 0], "counts": []}
        self._file.seek(int(self._at[number, index]))
        found = np.frombuffer(self._file.read(int(self._length[number, index])), np.int32).tolist()
        return {"size": list(self.size), "bbox": found[:HEAD], "counts": found[HEAD:]}

    def mask(self, number: int, index: int) -> np.ndarray:
        """The mask of an object on a frame, bool (W, H)."""
        return runs.decode(self.encoded(number, index), self.size)

    def labels(self, index: int, dtype: Any = np.uint8) -> np.ndarray:
        """The label map (W, H) of a frame: 1 for the first object, … Pixels of one go to no later one."""
        plane = np.zeros(self.size, dtype)
        for number in range(len(self.scores)):
            if self._length[number, index]:
                plane[self.mask(number, index) & (plane == 0)] = number + 1
        return plane

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
