"""Training memory to carry a structure from one patient to the next: labelled patients, then another one.

A labelled case is to SAM 2 what a prompted slice is, only that what follows is no neighbour of it: the
structure lies elsewhere, has another shape, and another scanner may have seen it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from scipy import ndimage
from torch.utils.data import IterableDataset, get_worker_info

from lib.imaging.window import stretched
from lib.sam.looks import FAR
from lib.trainers import simulate
from lib.trainers.clips import PRESENCE, encoded, remember_mask
from lib.trainers.generated import generate_patients, is_seen
from lib.trainers.losses import score_loss
from lib.trainers.pretrain import ask
from lib.trainers.views import STRETCHED, TARGETS_A_CLIP, View, resized, turned

WHOLE = 0.5  # share of the samples that show the whole slices
NEAREST, FARTHEST = 1.6, 5.0  # sides of the other views, in extents of the structure
ASIDE = 0.15  # of a view's side: how far the structure lies from its middle, at most, where it is looked for
LEAST = 40  # pixels of a structure


class PatientViews(IterableDataset):
    """An endless stream of samples: uint8 (F, S, S, 3) images of F patients, (T, F, S, S) masks.

    Every structure is in the first patient; the others may be without it.

    Parameters
    ----------
    size : int
        Side of the network's input, pixels.
    frames : int
        Patients of a sample.
    seed : int
    """

    def __init__(self, size: int, frames: int = 4, seed: int = 0) -> None:
        self.size, self.frames, self.seed = size, frames, seed

    def __iter__(self) -> Iterator[View]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, 19, worker.id if worker else 0))
        while True:
            images, structures = generate_patients(rng, self.frames)
            good = [
                s
                for s in structures
                if LEAST <= s[0].sum() < 0.5 * s[0].size
                and all(is_seen(i, m, 0.04, 0.4) for i, m in zip(images, s, strict=True) if m.any())
            ]
            # who has it is not to be told by how often it is there
            if good and any(m.any() for s in good for m in s[1:]):
                order = rng.permutation(len(good))
                yield patients_view(rng, images, [good[n] for n in order], self.size)


def patients_view(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    structures: Sequence[Sequence[np.ndarray]],
    size: int,
) -> View:
    """The patients whole, or each through a window of its own around the first structure.

    Parameters
    ----------
    images : sequence of ndarray uint8 (H, H, 3), one a patient
        Squares, of any sizes.
    structures : sequence, one a structure, of sequences of ndarray bool (H, H), one a patient
        None is empty in the first patient.
    size : int

    Returns
    -------
    View
        image (F, S, S, 3), masks (T, F, S, S); with fewer structures in sight they repeat.
    """
    turn, stretch = turned(rng), rng.random() < STRETCHED
    windows = [(slice(0, len(image)),) * 2 for image in images]
    if rng.random() >= WHOLE:
        scale = float(np.exp(rng.uniform(np.log(NEAREST), np.log(FARTHEST))))
        windows = [_around(rng, masks, structures[0][0], scale) for masks in structures[0]]
    chosen = [s for s in structures if s[0][windows[0]].sum() >= LEAST][:TARGETS_A_CLIP] or [structures[0]]
    views = []
    for t, (image, window) in enumerate(zip(images, windows, strict=True)):
        part = stretched(image[window]) if stretch else image[window]
        views.append(turn(resized(part, np.stack([s[t][window] for s in chosen]), size)))
    masks = np.stack([view.masks for view in views], 1)
    return View(np.stack([view.image for view in views]), masks[np.arange(TARGETS_A_CLIP) % len(chosen)])


def _around(
    rng: np.random.Generator, mask: np.ndarray, first: np.ndarray, scale: float
) -> tuple[slice, slice]:
    """A square around a structure, or around where it would be if it is missing.

    `first` is the structure in the first patient, whose image may be of another size.
    """
    limit, share = len(mask), len(mask) / len(first)
    side = int(np.clip(scale * share * _extent(first), min(40, limit), limit))
    place = np.array(ndimage.center_of_mass(mask if mask.any() else first)) * (1 if mask.any() else share)
    start = place - side / 2 + rng.uniform(-ASIDE, ASIDE, 2) * side
    low, left = (int(np.clip(round(s), 0, limit - side)) for s in start)
    return slice(low, low + side), slice(left, left + side)


def _extent(mask: np.ndarray) -> int:
    return int(max(np.ptp(np.flatnonzero(mask.any(axis))) for axis in (0, 1))) + 1


def patients_loss(
    network: SAM2Base,
    images: torch.Tensor,
    masks: torch.Tensor,
    balance: float,
    draws: bool = True,
    focal: bool = False,
) -> torch.Tensor:
    """Loss of the masks that memory makes of patients, after others with theirs; of any number of these.

    Parameters
    ----------
    images : Tensor uint8 (B, F, S, S, 3)
    masks : Tensor uint8 (B, T, F, S, S), 0 or 1
    balance, focal
        See `lib.trainers.losses.mask_loss`.
    draws : bool
        Whether the network sees its prompts drawn; here there are none.
    """
    frames = images.shape[1]
    features_of = encoded(network, images, masks.shape[1])
    masks = masks.flatten(0, 1)
    rows = len(masks)
    known = int(torch.randint(1, frames, ()))
    conditioning = {}
    for t in range(known):
        flat, _, sizes, high = features_of(t)
        conditioning[t] = remember_mask(network, flat, sizes, high, masks[:, t])
    loss = torch.zeros((), device=images.device)
    for t in range(known, frames):
        flat, flat_positions, sizes, high = features_of(t)
        target = F.avg_pool2d(masks[:, t, None].float(), 4)
        present = masks[:, t].flatten(1).any(1).bool()
        fused = network._prepare_memory_conditioned_features(
            frame_idx=known + FAR,
            is_init_cond_frame=False,
            current_vision_feats=flat[-1:],
            current_vision_pos_embeds=flat_positions[-1:],
            feat_sizes=sizes[-1:],
            output_dict={"cond_frame_outputs": conditioning, "non_cond_frame_outputs": {}},
            num_frames=known + FAR + 1,
        )
        points = torch.zeros(rows, 1, 2, device=images.device)
        labels = torch.full((rows, 1), simulate.PADDING, dtype=torch.int32, device=images.device)
        logits, scores, _, score = ask(network, fused, high, points, labels, None, True, draws)
        if present.any():
            part, _ = score_loss(logits[present], scores[present], target[present], balance, focal)
            loss = loss + part * present.float().mean()
        loss = loss + PRESENCE * F.binary_cross_entropy_with_logits(score[:, 0], present.float())
    return loss / (frames - known)
