"""What both sides work on: a volume like a CT, and a checkpoint in the format of SAM 2's authors."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import sam2
import torch
from omegaconf import OmegaConf

from lib.sam.checkpoints import load_network
from lib.sam.network import PUBLISHED, build

CONFIGS = {"hiera_tiny": "t", "hiera_small": "s", "hiera_base_plus": "b+", "hiera_large": "l"}
SPACING = (0.8, 0.8, 2.5)  # mm, an abdominal CT
AIR, FAT, TISSUE = -1000, -90, 45  # HU
NOISE = 15  # HU


def write_volume(path: Path, side: int, depth: int) -> None:
    """A body with two organs that move and change from slice to slice: int16, (side, side, depth)."""
    rng = np.random.default_rng(0)
    a, b = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    voxels = np.empty((side, side, depth), np.int16, order="F")
    for k in range(depth):
        t = k / max(depth - 1, 1)
        plane = np.full((side, side), AIR, np.float32)
        plane[(a / 0.42) ** 2 + (b / 0.33) ** 2 < 1] = FAT
        plane[(a / 0.38) ** 2 + (b / 0.29) ** 2 < 1] = TISSUE
        grown = 0.08 + 0.06 * np.sin(np.pi * t)
        plane[((a - 0.02 - 0.1 * t) / grown) ** 2 + (b / grown) ** 2 < 1] = TISSUE + 80
        plane[((a + 0.2) / 0.05) ** 2 + ((b - 0.1 + 0.1 * t) / 0.07) ** 2 < 1] = TISSUE - 60
        plane += rng.normal(0, NOISE, plane.shape).astype(np.float32)
        voxels[:, :, k] = plane
    nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING, 1.0])), path)


def write_checkpoint(path: Path, given: Path | None = None) -> str:
    """A checkpoint `{"model": weights}`; the given one, or SAM 2.1 tiny with random weights.

    Returns
    -------
    str
        What it is, in words.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if given is not None:
        path.symlink_to(given.resolve())
        return given.name
    torch.manual_seed(0)
    torch.save({"model": build(PUBLISHED["hiera_tiny"]).state_dict()}, path)
    return "SAM 2.1 tiny, random weights"


def write_config(path: Path, checkpoint: Path, image_size: int) -> None:
    """sam2's own configuration of the checkpoint's network, as the peer reads it, at an input size.

    Parameters
    ----------
    image_size : int
        Side of the network's input, pixels; sam2's files say 1024.
    """
    name = load_network(checkpoint)[0].architecture.name
    config = OmegaConf.load(
        Path(sam2.__path__[0]) / "configs" / "sam2.1" / f"sam2.1_hiera_{CONFIGS[name]}.yaml"
    )
    config.model.image_size = image_size
    layer = config.model.memory_attention.layer
    layer.self_attention.feat_sizes = layer.cross_attention.feat_sizes = [image_size // 16] * 2
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(config))
