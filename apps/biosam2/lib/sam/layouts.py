"""Where structures lie in an image: the layouts of labelled patients, laid over what was seen in it.

A small structure, or one that another scanner shows in another light, is not recognised in a whole slice, or
something else is taken for it. All structures together tell where it is: a labelled patient's are moved and
sized as one, each of them may then move a little by itself, at a price, and wanted is how they cover best
what was seen of all of them. This is matching a deformable part model (Felzenszwalb et al., PAMI 2010,
doi:10.1109/TPAMI.2009.167), with a patient for the model. On drawn anatomies the middle of a structure is
told to within 0.9 of 24 slices so, and in none of 50 it is 4 or more off; from centres of mass, as landmarks
that each count by their distance, 1.8 and in one of eight.

All places are shares of the image, so that images with other numbers of voxels can be told of each other;
the axes are those of the slices, (K, A, B).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from skimage.transform import resize

from lib.sam.places import Region, regions

GRID = (24, 32, 32)  # cells that an image has at most, along (k, a, b)
BLUR = 1.0  # cells: what is seen beside where it should be still counts
LANDMARKS = 6  # structures that tell where another one is, those nearest to it
SIZES = 0.9, 1.0, 1.1  # of an image against a labelled one, along k and in the slice
FARTHEST = 1 / 3  # of the image: how far all structures together are moved, at most
ASIDE = 1 / 8  # how far each may then move by itself
PRICE = np.array([23.0, 10.0, 10.0])  # of that: Dice for the square of a share of the image


@dataclass(frozen=True, eq=False)
class Part:
    """A structure of a labelled patient.

    Attributes
    ----------
    region : Region
    grid : tuple of int
        Cells of the patient's image, at most `GRID`.
    start : tuple of int
        Its first cell along each axis.
    filled : ndarray uint8 (k, a, b)
        How much of each cell from `start` on it fills, of 255.
    """

    region: Region
    grid: tuple[int, int, int]
    start: tuple[int, int, int]
    filled: np.ndarray

    def on(self, grid: tuple[int, int, int]) -> np.ndarray:
        """The same on the cells of another image: float32 (K, A, B), 0 to 1."""
        whole = np.zeros(self.grid, np.float32)
        whole[tuple(slice(s, s + n) for s, n in zip(self.start, self.filled.shape, strict=True))] = (
            self.filled / 255
        )
        return whole if self.grid == grid else resize(whole, grid, order=1, anti_aliasing=True)


Layout = Mapping[str, Part]


def layout(labels: np.ndarray, names: Sequence[str]) -> dict[str, Part]:
    """The layout of a labelled patient.

    Parameters
    ----------
    labels : ndarray of integers (K, A, B)
        0, and 1, 2, … for the structures in the order of `names`.
    names : sequence of str
    """
    grid = _grid(labels.shape)
    of_k, of_a, of_b = (np.arange(size) * n // size for size, n in zip(labels.shape, grid, strict=True))
    in_plane, most = grid[1] * grid[2], len(names) + 1
    cell = of_a[:, None] * grid[2] + of_b
    counts = np.zeros((most, grid[0], in_plane), np.int64)
    for index, k in enumerate(of_k):
        here = np.bincount((labels[index] * np.int64(in_plane) + cell).ravel(), minlength=most * in_plane)
        counts[:, k] += here.reshape(most, in_plane)
    full = np.maximum(counts.sum(0), 1)
    found = {}
    for value, region in regions(np.asarray(labels)).items():
        share = np.ceil(255 * counts[value] / full).astype(np.uint8).reshape(grid)
        (box,) = ndimage.find_objects((share > 0).astype(np.uint8))
        start = (box[0].start, box[1].start, box[2].start)
        found[names[value - 1]] = Part(region, grid, start, share[box].copy())
    return found


def cells(planes: Iterable[np.ndarray], count: int) -> np.ndarray:
    """What was seen of a structure, on the cells of the image: float32 (K, A, B).

    Parameters
    ----------
    planes : iterable of ndarray float (A, B), one for each slice
        How likely each voxel is of the structure, 0 to 1.
    count : int
        Slices.
    """
    rows = []
    for plane in planes:
        grid = _grid((count, *plane.shape))
        rows.append(_mean(_mean(plane, grid[1], 0), grid[2], 1))
    return ndimage.gaussian_filter(_mean(np.stack(rows), _grid((count, 1, 1))[0], 0), BLUR)


def landmarks(structure: str, patients: Sequence[Layout]) -> list[str]:
    """The structures that lie nearest to one in the labelled patients, at most `LANDMARKS`."""
    far: dict[str, list[float]] = {}
    for parts in patients:
        if structure in parts:
            own = parts[structure].region.middle
            for other in parts.keys() - {structure}:
                far.setdefault(other, []).append(float(np.linalg.norm(parts[other].region.centre - own)))
    return sorted(far, key=lambda other: (float(np.median(far[other])), other))[:LANDMARKS]


def together(said: Sequence[Region]) -> Region | None:
    """What several patients say of where a structure is, or None if they disagree by more than its size."""
    if not said:
        return None
    lows, highs = (np.stack(side) for side in zip(*((one.low, one.high) for one in said), strict=True))
    low, high = np.median(lows, 0), np.median(highs, 0)
    if ((lows + highs).std(0) / 2 > high - low).any():
        return None
    return Region(low, high, (low + high) / 2)


def laid(mask: np.ndarray, region: Region, told: Region, shape: tuple[int, int]) -> np.ndarray:
    """A labelled patient's mask on another image: moved and sized as its region is.

    Parameters
    ----------
    mask : ndarray of bool, (A, B)
    region : Region
        Where the structure is in the patient.
    told : Region
        Where it must be on the other image.
    shape : (A, B)
        Of the other image.

    Returns
    -------
    ndarray of bool, of `shape`
    """
    size, given = np.array(shape), np.array(mask.shape)
    scale = (region.high - region.low)[1:] / np.maximum((told.high - told.low)[1:], 1 / size)
    # where the middle of the first pixel lies in the patient, in pixels
    start = ((0.5 / size - told.low[1:]) * scale + region.low[1:]) * given - 0.5
    step = scale * given / size
    return ndimage.affine_transform(mask.astype(np.float32), step, start, shape, order=1) > 0.5


class Fit:
    """What was seen of all structures in an image, for layouts to be laid over.

    Parameters
    ----------
    seen : mapping of str to ndarray float32 (K, A, B)
        By structure, see `cells`.
    """

    def __init__(self, seen: Mapping[str, np.ndarray]) -> None:
        self.seen = seen
        self.grid = _grid(next(iter(seen.values())).shape)
        self._reach = np.array([int(n * FARTHEST) for n in self.grid])
        self._aside = np.array([round(n * ASIDE) for n in self.grid])
        self._full = [fft.next_fast_len(n + r, True) for n, r in zip(self.grid, self._reach, strict=True)]
        self._moves = np.ix_(
            *[np.arange(-r, r + 1) % n for r, n in zip(self._reach, self._full, strict=True)]
        )
        self._templates: dict[tuple, np.ndarray] = {}
        self._covers: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def region(
        self, structure: str, patients: Sequence[Layout], own: np.ndarray | None = None
    ) -> Region | None:
        """Where a structure must be.

        Each labelled patient says so by itself. What they say is of use only if they agree; a lesion can be
        anywhere.

        Parameters
        ----------
        structure : str
        patients : sequence of Layout
        own : ndarray float32 (K, A, B), optional
            What was seen of the structure itself, if that is known better by now.

        Returns
        -------
        Region or None
            None if no labelled patient has it together with others, or they disagree by more than its size.
        """
        others = [name for name in landmarks(structure, patients) if name in self.seen]
        said = []
        for parts in patients:
            names = [structure, *(name for name in others if name in parts)]
            if structure in parts and len(names) > 1:
                said.append(self._laid(structure, names, parts, own))
        return together(said)

    def _laid(self, structure: str, names: Sequence[str], parts: Layout, own: np.ndarray | None) -> Region:
        """Where a structure is when one patient's structures cover best."""
        best, found = -np.inf, None
        for along, across in itertools.product(SIZES if self.grid[0] > 1 else (1.0,), SIZES):
            size = (along, across, across)
            covers = {
                name: self._cover(name, parts, size, own if name == structure else None) for name in names
            }
            total = np.sum([np.maximum(moving, 0) for _, moving in covers.values()], 0)
            if total.max() > best:
                best = total.max()
                together = np.unravel_index(int(total.argmax()), total.shape)
                found = size, np.array(together), covers[structure][0]
        assert found is not None  # there is always a size
        size, at, cover = found
        low, high = parts[structure].region.low, parts[structure].region.high
        move = (self._alone(cover, at) - self._reach) / self.grid
        low, high = (low - 0.5) * size + 0.5 + move, (high - 0.5) * size + 0.5 + move
        return Region(low, high, (low + high) / 2)

    def _cover(
        self, name: str, parts: Layout, size: tuple[float, float, float], own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Dice of a sized structure with what was seen, by how far it is moved along each axis.

        The second one is for what may then move by itself. Other structures ask for the same again.
        """
        key = name, id(parts), size
        if own is None and key in self._covers:
            return self._covers[key]
        if key not in self._templates:
            self._templates[key] = _sized(parts[name].on(self.grid), size)
        template = self._templates[key]
        seen = self.seen[name] if own is None else own
        both = fft.irfftn(fft.rfftn(seen, self._full) * np.conj(fft.rfftn(template, self._full)), self._full)
        cover = 2 * both[self._moves] / max(float((seen**2).sum() + (template**2).sum()), 1e-6)
        covers = cover, self._let_move(cover)
        if own is None:
            self._covers[key] = covers
        return covers

    def _let_move(self, cover: np.ndarray) -> np.ndarray:
        """The best that a structure can do if it may move by itself, at a price."""
        for axis, (aside, price) in enumerate(zip(self._aside, self._prices, strict=True)):
            shape = np.ones(3, int)
            shape[axis] = 2 * aside + 1
            cost = -price * np.arange(-aside, aside + 1.0) ** 2
            cover = ndimage.grey_dilation(cover, structure=cost.reshape(shape), mode="constant", cval=-np.inf)
        return cover

    def _alone(self, cover: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Where it then is: the index into its cover, float (3,)."""
        steps = np.stack(
            np.meshgrid(*[np.arange(n) - a for n, a in zip(cover.shape, at, strict=True)], indexing="ij"), -1
        )
        value = cover - (self._prices * steps**2).sum(-1)
        value[(np.abs(steps) > self._aside).any(-1)] = -np.inf
        return np.array(np.unravel_index(int(value.argmax()), value.shape), float)

    @property
    def _prices(self) -> np.ndarray:
        return PRICE / np.array(self.grid) ** 2


def _grid(shape: Sequence[int]) -> tuple[int, int, int]:
    k, a, b = (min(most, size) for most, size in zip(GRID, shape, strict=True))
    return k, a, b


def _mean(values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """The mean over each of `count` cells along an axis."""
    # of each cell the first index i with i * count // n >= cell
    starts = -(-np.arange(count) * values.shape[axis] // count)
    sums = np.add.reduceat(values, starts, axis)
    sizes = np.diff(np.append(starts, values.shape[axis]))
    return sums / np.expand_dims(sizes, [n for n in range(values.ndim) if n != axis])


def _sized(filled: np.ndarray, size: Sequence[float]) -> np.ndarray:
    middle = (np.array(filled.shape) - 1) / 2
    scale = 1 / np.array(size)
    sized = ndimage.affine_transform(filled, scale, middle * (1 - scale), order=1)
    return ndimage.gaussian_filter(sized, BLUR)
