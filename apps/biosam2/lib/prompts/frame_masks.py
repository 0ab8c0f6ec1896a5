"""A mask of a video, or of any stack of slices, that is as large as what is in it and not as the stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lib.imaging import runs


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """Masks of some slices, as run lengths; the other slices are empty.

    Attributes
    ----------
    shape
        Voxels along (i, j, k) of the whole stack.
    axis
        The axis (0, 1 or 2) that the slices are taken along.
    encoded
        `lib.imaging.runs` by slice; none of them empty, all of them on the slices' grid.
    """

    shape: tuple[int, int, int]
    axis: int
    encoded: Mapping[int, Mapping[str, Any]]
    dtype: ClassVar[np.dtype[np.bool_]] = np.dtype(np.bool_)

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], axis: int) -> FrameMasks:
        """The same of a mask (I, J, K)."""
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        i, j, k = mask.shape
        return cls((i, j, k), axis, {int(n): runs.encode(np.take(mask, n, axis)) for n in found})

    def any(self) -> bool:
        """Whether there is a voxel in it."""
        return bool(self.encoded)

    def slices(self) -> list[int]:
        """The slices with a voxel, sorted."""
        return sorted(self.encoded)

    def plane(self, index: int) -> npt.NDArray[np.bool_]:
        """Slice `index`, bool (A, B)."""
        a, b = (n for axis, n in enumerate(self.shape) if axis != self.axis)
        found = self.encoded.get(index)
        return np.zeros((a, b), np.bool_) if found is None else runs.decode(found, (a, b))

    def only(self, index: int) -> FrameMasks:
        """The same with nothing on the other slices."""
        return replace(self, encoded={n: found for n, found in self.encoded.items() if n == index})
