"""Patients with the same anatomy: generated volumes whose structures have other shapes and contrasts in each.

What one labelled patient tells about the next can only be measured where the same structures come back. Real
data of that kind is not at hand (one template is one patient), so they are drawn: a body with organs that
touch, nest and repeat; each patient has it bent, turned, scaled and shifted, with organs that grow and shrink
by themselves, and is seen by a scanner of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SHAPE = (128, 128, 24)  # voxels (i, j, k)
SPACING = (2.0, 2.0, 5.0)  # mm
ORGANS = 5
# of one patient against another
TURN, SCALE, SHIFT = 8.0, 0.08, 0.04  # degrees about k; deviations of size and place, of the volume's sides
BEND, BUMPS = 0.03, 4  # deviation by which points move, of the volume's sides; bumps across it
SWELL = 0.12  # deviation of each organ's size by itself
CONTRAST, LEAST = 0.12, 0.12  # deviation of a tissue's brightness, 0 to 1; gap to what is around it
BIAS, NOISE = 0.1, 0.04  # deviation of the field of brightness and, at most, of the noise
INVERTED = 0.2  # share of the patients whose scanner shows dark what others show bright


@dataclass(frozen=True, eq=False)
class Patient:
    """A volume and its label map on the same grid.

    Attributes
    ----------
    pixels : ndarray uint8 (I, J, K)
    labels : ndarray uint8 (I, J, K)
        0 and 1 to `ORGANS`.
    """

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Organ:
    centre: np.ndarray
    radii: np.ndarray
    turn: float
    lobes: tuple[tuple[float, float], ...]  # strength and phase of each
    parent: int  # an organ that it lies in, or -1


class Anatomy:
    """What the patients of one set have in common.

    Parameters
    ----------
    seed : int
    organs : int
    shape : (I, J, K)
    """

    def __init__(self, seed: int, organs: int = ORGANS, shape: tuple[int, int, int] = SHAPE) -> None:
        self.seed, self.shape = seed, shape
        rng = np.random.default_rng((seed, 71))
        self.body = _Organ(np.zeros(3), np.array([0.8, 0.62, 2.0]), 0.0, _lobes(rng, 0.06), -1)
        self.organs: list[_Organ] = []
        while len(self.organs) < organs:
            self._add(rng)
        self.tissues = self._tissues(rng)

    def patients(self, count: int, first: int = 0) -> Iterator[Patient]:
        """Patients `first`, `first` + 1, …; each is the same however many are asked for."""
        for number in range(first, first + count):
            yield self.patient(number)

    def patient(self, number: int) -> Patient:
        """One patient."""
        rng = np.random.default_rng((self.seed, number, 72))
        where = self._places(rng)
        labels = np.zeros(self.shape, np.uint8)
        body = _inside(self.body, where, 1.0)
        for index, organ in enumerate(self.organs, 1):
            found = _inside(organ, where, float(np.exp(rng.normal(0, SWELL)))) & body
            if organ.parent >= 0:
                found &= labels == organ.parent + 1
            labels[found] = index
        return Patient(self._scan(rng, labels, body), labels)

    def _add(self, rng: np.random.Generator) -> None:
        """An organ at a place where it covers little of the others, or inside one of them."""
        nested = len(self.organs) > 1 and rng.random() < 0.25
        if nested:
            parent = int(rng.integers(len(self.organs)))
            outer = self.organs[parent]
            radii = outer.radii * rng.uniform(0.5, 0.65)
            centre = outer.centre + rng.uniform(-0.15, 0.15, 3) * outer.radii
        else:
            parent = -1
            radii = np.exp(rng.uniform(np.log(0.14), np.log(0.32), 3)) * [1, 1, 2]
            centre = rng.uniform(-0.65, 0.65, 3) * (self.body.radii * [1, 1, 0.4])
            apart = [
                float((np.abs(centre - o.centre) / (radii + o.radii)).max())
                for o in self.organs
                if o.parent < 0
            ]
            if min(apart, default=1.0) < 0.8:
                return
        self.organs.append(_Organ(centre, radii, rng.uniform(0, np.pi), _lobes(rng, 0.15), parent))

    def _tissues(self, rng: np.random.Generator) -> np.ndarray:
        """Brightness of air, body and each organ; an organ stands out from what is around it."""
        bright = [0.05, float(rng.uniform(0.3, 0.6))]
        for organ in self.organs:
            around = bright[organ.parent + 2 if organ.parent >= 0 else 1]
            choices = [v for v in rng.uniform(0.1, 0.95, 50) if abs(v - around) > 0.15]
            bright.append(float(choices[0]))
        return np.array(bright)

    def _places(self, rng: np.random.Generator) -> np.ndarray:
        """For each voxel, where it lies in the common anatomy: float (3, I, J, K), the body from -1 to 1."""
        shape = np.array(self.shape)
        grid = np.indices(self.shape, np.float32)
        bend = np.stack([_field(rng, self.shape, (BUMPS,) * 3) for _ in range(3)])
        bend *= BEND * (shape * [1, 1, 2])[:, None, None, None]
        shift = rng.normal(0, SHIFT, 3) * shape * [1, 1, 2]
        centred = grid + bend - ((shape - 1) / 2 + shift)[:, None, None, None]
        angle = np.deg2rad(rng.normal(0, TURN))
        size = np.exp(rng.normal(0, SCALE)) * np.exp(rng.normal(0, SCALE / 2, 3))
        i = centred[0] * np.cos(angle) + centred[1] * np.sin(angle)
        j = centred[1] * np.cos(angle) - centred[0] * np.sin(angle)
        return np.stack([i, j, centred[2]]) / (shape / 2 * size)[:, None, None, None]

    def _scan(self, rng: np.random.Generator, labels: np.ndarray, body: np.ndarray) -> np.ndarray:
        bright = self.tissues + rng.normal(0, CONTRAST, len(self.tissues))
        for index, organ in enumerate(self.organs):  # what nobody can see nobody can label
            around = bright[organ.parent + 2 if organ.parent >= 0 else 1]
            gap = bright[index + 2] - around
            bright[index + 2] = around + np.copysign(max(abs(gap), LEAST), gap)
        tissue = np.where(labels > 0, labels.astype(int) + 1, body.astype(int))
        image = bright[tissue]
        for cells in (6, 40):
            texture = np.abs(rng.normal(0, 0.02, len(bright)))[tissue]
            image = image + texture * _field(rng, self.shape, (cells, cells, 6))
        image = ndimage.gaussian_filter(image, (0.7, 0.7, 0.3))
        if rng.random() < INVERTED:
            image = bright.max() - image
        image = image * np.exp(BIAS * _field(rng, self.shape, (3, 3, 3)))
        image = image + rng.uniform(0, NOISE) * rng.standard_normal(self.shape)
        low, high = np.percentile(image, (0.5, 99.8))
        return (np.clip((image - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.25) * 255).astype(np.uint8)


def _field(rng: np.random.Generator, shape: tuple[int, ...], bumps: tuple[int, ...]) -> np.ndarray:
    """A smooth random field of unit deviation with so many bumps along each axis."""
    field = ndimage.zoom(rng.normal(0, 1, bumps), np.array(shape) / bumps, order=3, mode="nearest")
    return field / field.std()


def _lobes(rng: np.random.Generator, strength: float) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(rng.uniform(-strength, strength)) / np.sqrt(n), float(rng.uniform(0, 2 * np.pi)))
        for n in range(2, 6)
    )


def _inside(organ: _Organ, where: np.ndarray, size: float) -> np.ndarray:
    """The voxels in an organ, bool (I, J, K)."""
    i, j, k = where - organ.centre[:, None, None, None]
    c, s = np.cos(organ.turn), np.sin(organ.turn)
    u, v = (i * c + j * s) / organ.radii[0], (j * c - i * s) / organ.radii[1]
    angle = np.arctan2(v, u)
    edge = 1 + np.sum([a * np.cos(n * angle + p) for n, (a, p) in enumerate(organ.lobes, 2)], 0)
    return np.sqrt(u**2 + v**2 + (k / organ.radii[2]) ** 2) < size * edge
