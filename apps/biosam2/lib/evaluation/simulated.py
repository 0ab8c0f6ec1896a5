"""Sets of patients to simulate annotation on: the same structures in each, pools in which choosing matters.

Two anatomies are drawn (`lib.evaluation.anatomy`), two are brains that packages carry, a human's and a
macaque's, with structures of their atlases: each patient is such a brain, bent and sized in a way of its own
(smooth, without folds). What a pool of images from a clinic has is in all of them:

- most patients are of one kind, few are turned, larger, scanned with another contrast, or badly;
- some come again, so that there are scans that show next to nothing new;
- some scans end early, and some drawn patients lack an organ, so that structures are absent.

The macaque is among what the default checkpoint was trained on, the human brain and the drawn ones are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from lib.errors import NotFound
from lib.evaluation.anatomy import SPACING, Anatomy
from lib.evaluation.simulate import generator, largest
from lib.imaging.volume import load_volume

COUNT = 50  # cases of a set: a pool of 40 and a hold-out of 10
TEMPLATES = Path("/usr/share/mricron/templates")  # where Debian's mricron-data puts the brains
USUAL, TURNED, LARGE, OTHER, POOR = "usual", "turned", "large", "other contrast", "poor"
KINDS = {USUAL: 0.68, TURNED: 0.08, LARGE: 0.08, OTHER: 0.08, POOR: 0.08}  # shares of the patients
AGAIN = 0.3  # share of the scans that are followed by another one of the same patient
CUT, CUT_SHARE = 0.15, (0.25, 0.45)  # share of the scans that end early, and of their slices that are missing
REMOVED = 0.15  # share of the drawn patients that lack an organ
LEAST_VOXELS = 25  # less of a structure than this nobody would annotate
# how patients differ, and scans of one patient: deviations of turn in degrees, size, place and bend in voxels
PATIENT = (6.0, 0.06, 2.0, 1.25)
SCAN = (1.5, 0.0, 1.0, 0.2)
BUMPS = 5  # of the bend, along each axis
LEAST_VOLUME = 0.3  # of what a voxel shows, over what it showed before the bend: no folds


Part = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A scan and what is to be found on it.

    Attributes
    ----------
    name : str
        As BIDS names files, so that scans of one patient are known to be.
    kind : str
        One of `KINDS`.
    voxels, labels : ndarray uint8, (I, J, K)
        Slices are along the last axis. `labels` holds 0 and the values of the set's structures, of which some
        may be absent.
    affine : ndarray, (4, 4)
        Voxel index to mm.
    """

    name: str
    kind: str
    voxels: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class _Source:
    """What a patient is made of.

    Attributes
    ----------
    voxels : ndarray float32, (I, J, K)
        0 to 1.
    labels : ndarray uint8, (I, J, K)
    spacing : ndarray
        mm.
    window : slices
        The part that is scanned; what is around it comes into sight where a patient is turned.
    """

    voxels: np.ndarray
    labels: np.ndarray
    spacing: np.ndarray
    window: Part


@dataclass(frozen=True)
class _Brain:
    """A brain of a package: its files, how it is cut and sampled, and its structures.

    Attributes
    ----------
    window : slices
        The part in which the structures are and that is scanned, in voxels of the file.
    step : (float, float, float)
        Voxels of the file from one voxel of a scan to the next.
    regions : dict of str to tuple of int
        Values of the atlas that make up a structure.
    dark_in : tuple of slices
        Parts where all that is dark is one more structure, the ventricles.
    """

    image: str
    atlas: str
    window: Part
    step: tuple[float, float, float]
    regions: dict[str, tuple[int, ...]]
    dark_in: tuple[Part, ...] = ()


BRAINS = {
    "human": _Brain(
        "ch2.nii.gz",
        "aal.nii.gz",
        (slice(34, 148), slice(58, 170), slice(56, 104)),
        (1.25, 1.25, 2.5),
        {
            "left putamen": (73,),
            "right caudate nucleus": (72,),
            "thalamus": (77, 78),
        },
        (
            (slice(56, 126), slice(76, 156), slice(80, 104)),
            (slice(66, 116), slice(124, 156), slice(62, 104)),  # the frontal horns reach further down
        ),
    ),
    "macaque": _Brain(
        "inia19-t1-brain.nii.gz",
        "inia19-NeuroMaps.nii.gz",
        (slice(24, 144), slice(24, 150), slice(30, 90)),
        (1.5, 1.5, 2.5),
        {
            "left putamen": (98,),
            "right putamen": (1098,),
            "right caudate nucleus": (1082,),
            "cerebellum": (*range(228, 261), *range(1228, 1261)),
        },
    ),
}
DRAWN = {"bodies": 1, "trunks": 2}  # and the numbers of their anatomies
SETS = (*DRAWN, *BRAINS)


class SimulatedSet:
    """Patients with the same structures; case by case, each the same whenever it is asked for.

    Parameters
    ----------
    name : str
        One of `SETS`.
    count : int
        Scans in it.
    seed : int
        Other patients, and for drawn sets another anatomy.
    templates : Path
        Folder of the brains; drawn sets need none.
    slices : int, optional
        So many slices of each scan, those in the middle: one is a standard plane, as of ultrasound.

    Attributes
    ----------
    structures : dict of int to str
        Names by their value in the labels.

    Raises
    ------
    NotFound
        If there is no such set, or a brain is not in `templates`.
    """

    def __init__(
        self,
        name: str,
        count: int = COUNT,
        seed: int = 0,
        templates: Path = TEMPLATES,
        slices: int | None = None,
    ) -> None:
        if name not in SETS:
            raise NotFound(f'set "{name}" is not one of {", ".join(SETS)}.')
        self.name, self.seed, self.slices = name, seed, slices
        self._anatomy = Anatomy(1000 * DRAWN[name] + seed) if name in DRAWN else None
        self._brain = None if self._anatomy else _read(name, templates)
        if self._anatomy:
            names = [f"organ {n}" for n in range(1, len(self._anatomy.organs) + 1)]
        else:
            names = [*BRAINS[name].regions, *(["ventricles"] if BRAINS[name].dark_in else [])]
        self.structures = dict(enumerate(names, 1))
        self._plan = list(self._scans(count))

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[SimulatedCase]:
        return (self.case(number) for number in range(len(self)))

    def case(self, number: int) -> SimulatedCase:
        """Scan `number` of the set, from 0."""
        patient, scan, kind = self._plan[number]
        source, about = self._patient(patient), self._rng("patient", patient)
        rng = self._rng("scan", patient, scan)
        shape = np.array([part.stop - part.start for part in source.window])
        moves = [(about, PATIENT), (rng, SCAN)] if self._brain else [(rng, SCAN)]
        where = _moved(shape, source.spacing, moves, kind, self._rng("kind", patient))
        where += np.array([part.start for part in source.window])[:, None, None, None]
        # a body may end beside the scan, a head ends within its file
        voxels = ndimage.map_coordinates(
            source.voxels, where, order=1, mode="nearest" if self._anatomy else "constant"
        )
        labels = _labels_at(source.labels, where, len(self.structures))
        pixels = _scanned(rng, about, voxels, kind)
        first, last = _extent(rng, int(shape[2]), self.slices)
        labels = labels[:, :, first:last]
        for value in self.structures:
            if (labels == value).sum() < LEAST_VOXELS:
                labels[labels == value] = 0
        affine = np.diag([*source.spacing, 1.0])
        affine[:3, 3] = (np.array([0, 0, first]) - shape / 2) * source.spacing
        name = f"sub-{self.name}{patient:03d}_ses-{scan}"
        return SimulatedCase(name, kind, pixels[:, :, first:last], labels, affine)

    def _scans(self, count: int) -> Iterator[tuple[int, int, str]]:
        """Patient, number of the scan and kind of each scan of the set."""
        patient = done = 0
        while done < count:
            patient += 1
            rng = self._rng("plan", patient)
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
            scan = 1
            while done < count:
                yield patient, scan, kind
                done, scan = done + 1, scan + 1
                if rng.random() >= AGAIN:
                    break

    def _patient(self, patient: int) -> _Source:
        if self._brain:
            return self._brain
        assert self._anatomy
        drawn = self._anatomy.patient(patient)
        rng = self._rng("organs", patient)
        voxels, labels = drawn.pixels / np.float32(255), drawn.labels
        if rng.random() < REMOVED:
            voxels, labels = _without(voxels, labels, int(rng.integers(1, len(self.structures) + 1)))
        i, j, k = (slice(0, n) for n in self._anatomy.shape)
        return _Source(voxels, labels, np.array(SPACING), (i, j, k))

    def _rng(self, *names: object) -> np.random.Generator:
        return generator(self.seed, self.name, *names)


@lru_cache(maxsize=len(BRAINS))
def _read(name: str, templates: Path) -> _Source:
    """A brain of a package as the patient that nothing has been done to yet."""
    brain = BRAINS[name]
    for file in (brain.image, brain.atlas):
        if not (templates / file).is_file():
            raise NotFound(f"{file} is not in {templates}: it comes with Debian's package mricron-data.")
    image, atlas = (load_volume(templates / file) for file in (brain.image, brain.atlas))
    voxels, regions = np.asarray(image.voxels, np.float32), np.asarray(atlas.voxels)
    labels = np.zeros(voxels.shape, np.uint8)
    for value, parts in enumerate(brain.regions.values(), 1):
        # an atlas leaves gaps between the regions that make up one structure
        whole = ndimage.binary_closing(np.isin(regions, parts), iterations=2)
        labels[_without_specks(ndimage.binary_fill_holes(whole)) & (labels == 0)] = value
    if brain.dark_in:
        place = np.zeros(voxels.shape, bool)
        for part in brain.dark_in:
            place[part] = True
        dark = ndimage.binary_opening((voxels < 0.65 * np.median(voxels[place])) & place)
        labels[largest(dark)] = len(brain.regions) + 1
    step = np.array(brain.step)
    # what lies between two samples is seen by both
    blurred = ndimage.gaussian_filter(voxels, step / 4)
    count = (np.array(blurred.shape) / step).astype(int)
    grid = (np.indices(tuple(count)) + 0.5) * step[:, None, None, None] - 0.5
    top = float(np.percentile(blurred, 99.8))
    sampled = np.clip(ndimage.map_coordinates(blurred, grid, order=1, mode="nearest") / top, 0, 1)
    spacing = np.array(image.spacing) * step
    found = _labels_at(labels, grid, int(labels.max()))
    i, j, k = (slice(int(w.start / n), int(w.stop / n)) for w, n in zip(brain.window, step, strict=True))
    return _Source(sampled.astype(np.float32), found, spacing, (i, j, k))


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """The pieces of a mask that are at least a fifth of the largest one."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.isin(pieces, np.flatnonzero(sizes >= max(sizes.max() / 5, 1)))


def _moved(
    shape: np.ndarray,
    spacing: np.ndarray,
    moves: list[tuple[np.random.Generator, tuple[float, float, float, float]]],
    kind: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """Where each voxel of a scan lies in the window of its source, in voxels: float (3, I, J, K).

    The first of `moves` is turned and sized as the kind of patient is, as `rng` has it.
    """
    centre = (shape - 1) / 2
    voxel = float(spacing[0])  # of a slice, mm
    mm = (np.indices(tuple(shape)) - centre[:, None, None, None]) * spacing[:, None, None, None]
    angle, size = 0.0, 1.0
    if kind == TURNED:
        angle = float(rng.choice([-1, 1]) * rng.uniform(25, 40))
    if kind == LARGE:
        size = float(rng.uniform(1.2, 1.35))
    for number, (by, (turn, scale, shift, _)) in enumerate(moves):
        turned = np.deg2rad(by.normal(0, turn) + (angle if number == 0 else 0))
        c, s = np.cos(turned), np.sin(turned)
        sizes = (size if number == 0 else 1.0) * np.exp(by.normal(0, scale, 3))
        mm = np.stack([c * mm[0] + s * mm[1], c * mm[1] - s * mm[0], mm[2]])
        shifts = by.normal(0, shift * voxel, 3) * [1, 1, 0.5]
        mm = (mm + shifts[:, None, None, None]) / sizes[:, None, None, None]
    for by, (*_, bend) in moves:
        field = np.stack([_field(by, shape) for _ in range(3)]) * bend * voxel
        while _least_volume(mm + field, spacing) < LEAST_VOLUME * _least_volume(mm, spacing):
            field = field * 0.8
        mm = mm + field
    return mm / spacing[:, None, None, None] + centre[:, None, None, None]


def _least_volume(mm: np.ndarray, spacing: np.ndarray) -> float:
    """The least of the volumes that neighbouring voxels span; below 0 where they are folded over."""
    # a bend is smooth: every third voxel tells
    steps = [np.stack(np.gradient(axis[::3, ::3, ::3], *(3 * spacing))) for axis in mm]
    return float((np.cross(steps[0], steps[1], axis=0) * steps[2]).sum(0).min())


def _field(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    """A smooth random field of unit deviation, (I, J, K)."""
    field = rng.normal(0, 1, (BUMPS,) * 3)
    for count in shape:  # axis by axis, which takes a tenth of the time
        weights = ndimage.zoom(np.eye(BUMPS), (count / BUMPS, 1), order=3, mode="nearest")
        field = np.moveaxis(np.tensordot(weights, field, (1, 0)), 0, -1)
    return field / field.std()


def _labels_at(labels: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Labels at places between voxels: the structure that has most of the place, uint8 (I, J, K)."""
    share = np.stack(
        [
            ndimage.map_coordinates((labels == value).astype(np.float32), where, order=1)
            for value in range(1, count + 1)
        ]
    )
    best = share.argmax(0)
    found = np.take_along_axis(share, best[None], 0)[0] > np.maximum(1 - share.sum(0), 0.25)
    return np.where(found, best + 1, 0).astype(np.uint8)


def _without(voxels: np.ndarray, labels: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
    """A patient whose organ was taken out: what surrounds it has closed over the place."""
    place = ndimage.binary_dilation(labels == value, iterations=3)
    if not place.any():
        return voxels, labels
    nearest = ndimage.distance_transform_edt(
        place, sampling=SPACING, return_distances=False, return_indices=True
    )
    filled = voxels[tuple(nearest)]
    smooth = ndimage.gaussian_filter(filled, (3, 3, 1))
    return np.where(place, smooth, voxels), np.where(labels == value, 0, labels)


def _scanned(
    rng: np.random.Generator, about: np.random.Generator, voxels: np.ndarray, kind: str
) -> np.ndarray:
    """What a scanner makes of a patient: contrast, uneven brightness, blur and noise; uint8 (I, J, K)."""
    # the scanner is the patient's own, its mood is the scan's
    gamma, noise, blur = np.exp(about.normal(0, 0.2)), about.uniform(0.005, 0.03), 0.0
    image = voxels ** (gamma * np.exp(rng.normal(0, 0.03)))
    if kind == OTHER:
        # T2 shows fluid bright and white matter dark; air stays black
        tissue = 1 / (1 + np.exp(-(ndimage.gaussian_filter(voxels, (1, 1, 0.5)) - 0.12) / 0.02))
        image = tissue * (1.1 - image) * about.uniform(0.8, 1.0)
    if kind == POOR:
        noise, blur = about.uniform(0.06, 0.1), about.uniform(0.6, 1.0)
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    image = image * np.exp(0.1 * _field(about, np.array(voxels.shape)))
    image = image + noise * rng.standard_normal(voxels.shape)
    low, high = np.percentile(image, (0.5, 99.8))
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _extent(rng: np.random.Generator, count: int, wanted: int | None) -> tuple[int, int]:
    """First slice of a scan and the one after its last: those `wanted`, or all; a few end early then."""
    if wanted is not None:
        first = max(0, (count - wanted) // 2)
        return first, min(count, first + wanted)
    early, missing, top = rng.random() < CUT, rng.uniform(*CUT_SHARE), rng.random() < 0.5
    if not early:
        return 0, count
    kept = count - int(missing * count)
    return (0, kept) if top else (count - kept, count)
