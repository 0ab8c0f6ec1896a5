"""Training on clips: a prompt on the first slice, SAM 2's memory on the others, some without it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base

from lib.sam.segment import CLAMP, as_logits
from lib.trainers import simulate
from lib.trainers.losses import mask_loss, score_loss
from lib.trainers.pretrain import ask, normalise

OWN = 0.7  # share of the clips that go on from the network's own answers, wrong ones as well
CORRECTED = 0.3  # share of the later slices that get a corrective click
BESIDE = 0.8  # share of the clips that see the mask of the slice before as a mask prompt (`lib.sam.tracker`)
# share of the later slices whose mask goes wrong on purpose before the next ones see it: on a long way small
# mistakes add up to large ones, which no clip of a few slices comes to by itself, and memory must undo them
SPOILED = 0.25
PRESENCE = 1.0  # weight of the object score's loss


def clip_loss(
    network: SAM2Base,
    images: torch.Tensor,
    masks: torch.Tensor,
    balance: float,
    draws: bool = True,
    focal: bool = False,
) -> torch.Tensor:
    """Loss of a box, click or mask on the first slice and of the masks that the memory makes on the others.

    Some of these get a corrective click as well.

    Parameters
    ----------
    images : Tensor uint8 (B, F, S, S, 3)
    masks : Tensor uint8 (B, T, F, S, S), 0 or 1; each of the T structures is on the first slice
    balance, focal
        See `lib.trainers.losses.mask_loss`.
    draws : bool
        Whether the network sees its prompts drawn, and the mask of the slice before (`lib.sam.tracker`).
    """
    clips, targets, frames, size = masks.shape[:4]
    features_of = encoded(network, images, targets)
    masks, batch = masks.flatten(0, 1), clips * targets
    outputs: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    loss = torch.zeros((), device=images.device)
    beside, own = draws and bool(torch.rand(()) < BESIDE), bool(torch.rand(()) < OWN)
    before: torch.Tensor | None = None
    for t in range(frames):
        truth = masks[:, t]
        target = F.avg_pool2d(truth[:, None].float(), 4)
        present = truth.flatten(1).any(1).bool()
        features, flat_positions, sizes, high = features_of(t)
        if t == 0 and torch.rand(()) < 0.35:
            outputs["cond_frame_outputs"][0] = remember_mask(network, features, sizes, high, truth)
            before = as_logits(target) if beside else None
            continue
        fused = network._prepare_memory_conditioned_features(
            frame_idx=t,
            is_init_cond_frame=t == 0,
            current_vision_feats=features[-1:],
            current_vision_pos_embeds=flat_positions[-1:],
            feat_sizes=sizes[-1:],
            output_dict=outputs,
            num_frames=frames,
        )
        points, labels, several = _prompt(truth, target, first=t == 0)
        logits, scores, tokens, score = ask(network, fused, high, points, labels, before, several, draws)
        # a structure that is not there has no mask to learn, only its absence
        if present.any():
            part, _ = score_loss(logits[present], scores[present], target[present], balance, focal)
            loss = loss + part * present.float().mean()
        loss = loss + PRESENCE * F.binary_cross_entropy_with_logits(score[:, 0], present.float())
        rows = torch.arange(batch, device=logits.device)
        best = scores.argmax(1)
        with torch.no_grad():
            if several and not own:  # follow the best mask, not the one that a beginner's score prefers
                best = mask_loss(logits, target).argmin(1)
        there = score[:, 0].detach() > 0 if own and t > 0 else present
        if t > 0 and torch.rand(()) < CORRECTED:
            # somebody mends what the memory made of this slice, and goes on from there
            given = logits[rows, best][:, None].detach().clamp(-CLAMP, CLAMP)
            click = simulate.corrections(given, target, size)
            logits, scores, tokens, _ = ask(network, fused, high, *click, given, False, draws)
            best = torch.zeros_like(best)
            part, _ = score_loss(logits, scores, target, balance, focal)
            loss = loss + part
            there = present
        answer = logits[rows, best][:, None]
        if t > 0 and torch.rand(()) < SPOILED:
            grey = images[:, t].float().mean(-1).repeat_interleave(targets, 0)
            answer = simulate.spoiled(answer, F.avg_pool2d(grey[:, None], 4))
        # an absent structure is shown as an empty mask, which is what the app makes of it
        shown = (answer.detach() > 0) & there[:, None, None, None]
        before = as_logits(shown.float()) if beside else None
        outputs["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = _remember(
            network, features, sizes, answer, tokens, best, there, t == 0
        )
    return loss / frames


def encoded(network: SAM2Base, images: torch.Tensor, targets: int) -> Callable[[int], tuple]:
    """Encode the slices of clips once for all structures on them.

    Parameters
    ----------
    images : Tensor uint8 (B, F, S, S, 3)
    targets : int
        Structures of each clip.

    Returns
    -------
    callable
        Slice -> features, positions and grid sizes as `SAM2Base` flattens them, and the finer levels; for
        each structure of each clip.
    """
    clips, frames = images.shape[:2]
    out = network.forward_image(normalise(images.flatten(0, 1)))
    levels = [
        level.view(clips, frames, *level.shape[1:]).repeat_interleave(targets, 0)
        for level in out["backbone_fpn"]
    ]
    positions = [p[:1].expand(clips * targets, *p.shape[1:]) for p in out["vision_pos_enc"]]

    def of(t: int) -> tuple:
        here = {"backbone_fpn": [level[:, t] for level in levels], "vision_pos_enc": positions}
        _, features, flat_positions, sizes = network._prepare_backbone_features(here)
        return features, flat_positions, sizes, here["backbone_fpn"][:-1]

    return of


def _prompt(
    truth: torch.Tensor, target: torch.Tensor, first: bool
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Box or click on the first slice; on the others the empty point that sam2 fills in for no prompt."""
    count, size = truth.shape[0], truth.shape[-1]
    if not first:
        empty = torch.full((count, 1), simulate.PADDING, dtype=torch.int32, device=truth.device)
        return torch.zeros(count, 1, 2, device=truth.device), empty, True
    if torch.rand(()) < 0.6:
        return *simulate.boxes(truth > 0), False
    click = simulate.clicks(target[:, 0], size)
    return click, torch.full((count, 1), simulate.POSITIVE, dtype=torch.int32, device=truth.device), True


def remember_mask(network, features, sizes, high, truth: torch.Tensor) -> dict:
    """Memory and object pointer of a slice whose mask was given (`SAM2VideoPredictor.add_new_mask`)."""
    low = features[-1].permute(1, 2, 0).reshape(len(truth), -1, *sizes[-1])
    answer = network._use_mask_as_output(low, high, truth[:, None].float())
    memory, positions = network._encode_new_memory(
        features, sizes, answer[4], answer[6], is_mask_from_pts=False
    )
    return {"maskmem_features": memory, "maskmem_pos_enc": positions, "obj_ptr": answer[5]}


def _remember(network, features, sizes, logits, tokens, best, present, prompted: bool) -> dict:
    """Memory and object pointer of one slice, as `SAM2Base.track_step` makes them; `present` (B,) bool."""
    rows = torch.arange(len(best), device=logits.device)
    pointer = network.obj_ptr_proj(tokens[rows, best if tokens.shape[1] > 1 else 0])
    there = present.float()[:, None]
    pointer = there * pointer + (1 - there) * network.no_obj_ptr
    masks = torch.where(present[:, None, None, None], logits, torch.full_like(logits, NO_OBJ_SCORE))
    masks = F.interpolate(masks, (network.image_size,) * 2, mode="bilinear", align_corners=False)
    memory, positions = network._encode_new_memory(
        current_vision_feats=features,
        feat_sizes=sizes,
        pred_masks_high_res=masks,
        object_score_logits=there * 20 - 10,
        is_mask_from_pts=prompted,
    )
    return {"maskmem_features": memory, "maskmem_pos_enc": positions, "obj_ptr": pointer}
