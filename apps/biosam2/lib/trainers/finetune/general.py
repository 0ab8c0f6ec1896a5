"""The general set: what a site's tuning must not forget. Made once, where the versions are."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data, filters, measure

from lib.evaluation.cases import Case, generated, generated_volumes
from lib.evaluation.datasets import Pair, find_pairs

GENERATED, COINS, VOLUMES = 24, 6, 3
SEED = 2**33  # neither training nor the model card's tables draw from it
SLICES, VOLUME = "slices", "volumes"


def general_set(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Slices (generated anatomy of any contrast; objects on a photograph) and generated volumes.

    No scans of patients: what a site calls the parts of one is its own affair, and no forgetting.

    Parameters
    ----------
    folder : Path
        Made if it is not there, whole or not at all.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            _write(work)
            os.rename(work, folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            if not folder.exists():  # another process may have been faster
                raise
    slices, volumes = (
        list(find_pairs(folder / kind / "images", folder / kind / "labels").pairs)
        for kind in (SLICES, VOLUME)
    )
    return slices, volumes


def _write(folder: Path) -> None:
    for kind in (SLICES, VOLUME):
        for part in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
    cases = [*generated(GENERATED, seed=SEED), *_coins(COINS)]
    for case in cases:
        name = f"{case.name.replace(' ', '_')}.png"
        Image.fromarray(np.ascontiguousarray(np.swapaxes(case.plane, 0, 1))).save(
            folder / SLICES / "images" / name
        )
        Image.fromarray(case.truth.T.astype(np.uint8)).save(folder / SLICES / "labels" / name)
    for number, (pixels, truth) in enumerate(generated_volumes(VOLUMES, seed=SEED), 1):
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        for part, voxels in (("images", pixels), ("labels", truth.astype(np.uint8))):
            stack = nib.Nifti1Image(np.ascontiguousarray(np.moveaxis(voxels, 0, 2)), affine)
            nib.save(stack, folder / VOLUME / part / f"volume_{number}.nii.gz")


def _coins(count: int) -> list[Case]:
    """Greek coins from Pompeii on an uneven ground (package scikit-image), the clearest ones by Otsu."""
    photograph = data.coins()
    bright = ndimage.binary_fill_holes(photograph > filters.threshold_otsu(photograph))
    numbered = measure.label(ndimage.binary_opening(bright, iterations=2))
    coins = sorted(measure.regionprops(numbered), key=lambda region: -region.solidity)
    round_ones = [coin for coin in coins if coin.area > 800][:count]
    return [Case(f"coin {n}", photograph, numbered == coin.label) for n, coin in enumerate(round_ones, 1)]
