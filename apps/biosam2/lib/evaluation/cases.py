"""Single slices with a known structure: generated ones, and real ones from installed packages."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from lib.imaging.volume import load_volume
from lib.imaging.window import PRESETS, Window, to_uint8
from lib.trainers.generated import acquire, generate_clip, generate_scene, is_seen

# Training draws its scenes from small seeds (`scripts/train_default --seed`).
HELD_BACK_SEED = 2**32


@dataclass(frozen=True, eq=False)
class Case:
    """A slice and what is to be found on it.

    Attributes
    ----------
    name : str
    plane : ndarray uint8, (A, B) or (A, B, 3)
    truth : ndarray of bool, (A, B)
    """

    name: str
    plane: np.ndarray
    truth: np.ndarray


def generated(count: int, seed: int = HELD_BACK_SEED) -> Iterator[Case]:
    """Generated images of the kind that the default checkpoint learns from, one structure of each."""
    rng = np.random.default_rng(seed)
    done = 0
    while done < count:
        scene = generate_scene(rng)
        image = acquire(rng, scene.image)
        seen = [m for m in scene.masks if is_seen(image, m)]
        if seen:
            done += 1
            yield Case(f"generated {done}", image, seen[int(rng.integers(len(seen)))])


def generated_volumes(
    count: int, slices: int = 24, seed: int = HELD_BACK_SEED
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generated volumes with a structure on some slices: pixels uint8 and truth bool, both (K, H, H)."""
    rng = np.random.default_rng(seed)
    done = 0
    while done < count:
        images, masks = generate_clip(rng, slices)
        for structure in rng.permutation(len(masks)):
            truth = np.stack(masks[structure])
            largest = int(truth.sum((1, 2)).argmax())
            on = int(truth.any((1, 2)).sum())
            if 6 <= on < slices and truth[largest].sum() > 200 and is_seen(images[largest], truth[largest]):
                done += 1
                yield np.stack(images).mean(3).astype(np.uint8), truth
                break


def icbm_tissue(step: int = 8) -> Iterator[Case]:
    """Grey and white matter on axial slices of the ICBM 2009a T1 template (package nilearn, BSD-3)."""
    folder = resources.files("nilearn") / "datasets" / "data"

    def read(kind: str) -> np.ndarray:
        path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        return np.asarray(load_volume(Path(str(path))).voxels)

    image, grey, white = read("t1"), read("gm"), read("wm")
    tissue = grey.astype(int) + white > 127  # probabilities are 0 to 255
    low, high = np.percentile(image[image > 0], (0.5, 99.5))
    window = Window(float(low), float(high))
    for k in range(30, image.shape[2] - 30, step):
        if tissue[:, :, k].mean() > 0.01:  # not the tips of the brain
            yield Case(f"ICBM T1 slice {k}", to_uint8(image[:, :, k], window), tissue[:, :, k])


def cranium_skull(archive: Path, step: int = 8) -> Iterator[Case]:
    """Bone on axial slices of a head CT, above 300 HU (`Cranium.inv3` of Debian's invesalius-examples)."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("matrix.dat"))
        tar.extract(member, folder, filter="data")
        voxels = np.fromfile(Path(folder) / member.name, np.int16).reshape(108, 256, 256)
    window = Window.from_level_width(*PRESETS["soft_tissue"])
    for k in range(24, 100, step):
        plane = voxels[k].T
        yield Case(f"head CT slice {k}", to_uint8(plane, window), plane > 300)
