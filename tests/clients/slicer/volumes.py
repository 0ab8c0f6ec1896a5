"""Volumes of several directions, in which a flip or a swap of axes ends in another structure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

Voxel = tuple[int, int, int]

SHAPE = (80, 64, 12)
# centre and radii in voxels, slices along the third axis
STRUCTURES = {
    "tumour": ((30, 14, 4), (9, 7, 2.6)),
    "vessel": ((50, 46, 7), (8, 10, 2.6)),
}
# as bright, and where the first two would be mirrored or with their axes swapped
OTHERS = (
    ((49, 14, 5.5), (6, 6, 3.5)),
    ((30, 47, 5.5), (6, 7, 3.5)),
    ((12, 31, 5.5), (6, 7, 3.5)),
)


def _turned(x: float, y: float, z: float) -> np.ndarray:
    return Rotation.from_euler("xyz", (x, y, z), degrees=True).as_matrix()


LPS = np.diag([-1.0, -1.0, 1.0])
# where the axes point to, in RAS, along which one slices were acquired, and the ending of the file
DIRECTIONS = {
    "ras": (np.eye(3), 2, ".nii.gz"),
    "lps": (LPS, 2, ".nii.gz"),
    "oblique": (_turned(21, -13, 0), 2, ".nii.gz"),
    "oblique_lps": (_turned(-12, 15, 8) @ LPS, 2, ".nrrd"),
    "turned_far": (_turned(-17, 9, 34), 2, ".nrrd"),
    "sagittal": (_turned(3, 0, 4), 0, ".nii.gz"),
    "las": (np.diag([-1.0, 1.0, 1.0]), 2, ".nii.gz"),  # left-handed
}


@dataclass(frozen=True)
class Volume:
    """A file with structures.

    Attributes
    ----------
    path : Path
    name : str
        Its id in a datastore.
    voxels : ndarray (I, J, K)
        In the order of the file.
    affine : ndarray (4, 4)
        Voxel to RAS mm.
    inside : dict of str to ndarray of bool, (I, J, K)
        The voxels of each structure.
    centre : dict of str to tuple of int
        A voxel in the middle of each.
    """

    path: Path
    voxels: np.ndarray
    affine: np.ndarray
    inside: dict[str, np.ndarray]
    centre: dict[str, Voxel]

    @property
    def name(self) -> str:
        return self.path.name.split(".")[0]

    def bounds(self, structure: str) -> tuple[np.ndarray, np.ndarray]:
        """First and last voxel (i, j, k) of the smallest box around a structure."""
        places = np.argwhere(self.inside[structure])
        return places.min(0), places.max(0)


def _ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    terms = [((g - c) / r) ** 2 for g, c, r in zip(np.indices(SHAPE), centre, radii, strict=True)]
    return sum(terms) <= 1


def write(name: str, folder: Path) -> Volume:
    """Write the volume of `DIRECTIONS` called `name`: structures of 200 on 60, with noise of 6."""
    direction, slice_axis, ending = DIRECTIONS[name]
    order = [2, 0, 1] if slice_axis == 0 else [0, 1, 2]
    inside = {label: _ellipsoid(*place).transpose(order) for label, place in STRUCTURES.items()}
    bright = sum((_ellipsoid(*place).transpose(order) for place in OTHERS), sum(inside.values())) > 0
    noise = np.random.default_rng(len(name)).normal(0, 6, bright.shape)
    voxels = (np.where(bright, 200, 60) + noise).round().astype(np.int16)
    centre = {label: _reordered(place[0], order) for label, place in STRUCTURES.items()}
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array([0.8, 0.9, 2.8])[order]
    affine[:3, 3] = (-12.5, 33.0, 81.25)

    path = folder / f"slicer_{name}{ending}"
    if ending == ".nrrd":
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
        lps = np.diag([-1.0, -1.0, 1.0]) @ direction
        image.SetSpacing([0.8, 0.9, 2.8])
        image.SetOrigin((np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 3]).tolist())
        image.SetDirection(lps.ravel().tolist())
        sitk.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(voxels, affine), path)
    return Volume(path, voxels, affine, inside, centre)


def _reordered(place: Voxel, order: list[int]) -> Voxel:
    return place[order[0]], place[order[1]], place[order[2]]
