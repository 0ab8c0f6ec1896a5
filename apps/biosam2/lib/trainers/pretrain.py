"""Training a network from scratch on generated images: one step, and the loop that can be resumed.

What is learned here is what inference asks: a box, one click or several, a mask to start from, then a
corrective click on the answer, at the scale at which inference looks (`lib.sam.views`).
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch.utils.data import DataLoader

from lib.sam.drawing import draw
from lib.sam.model import MEAN, STD
from lib.sam.network import decode
from lib.sam.segment import CLAMP
from lib.trainers import simulate
from lib.trainers.losses import score_loss
from lib.trainers.muon import Muon

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Learning rate: a linear warm-up, a plateau, a linear cool-down to zero at `steps`."""

    steps: int
    rate: float = 4e-4
    warmup: int = 200
    cooldown: int = 1500

    def at(self, step: int) -> float:
        return self.rate * max(0.0, min(1.0, (step + 1) / self.warmup, (self.steps - step) / self.cooldown))


def point_where_prompts_point(network: SAM2Base, gain: float = 2.0) -> None:
    """Start the decoder's attention between prompts and image as a comparison of their positions.

    Both carry the same positional code. With the same projection for queries and keys their product is high
    where the places agree, so a click is looked up where it was made from the first step on; with independent
    projections it takes thousands of steps of near-empty masks to find that out.
    """
    transformer = network.sam_mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            torch.nn.init.orthogonal_(attention.q_proj.weight, gain)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()


def image_loss(
    network: SAM2Base,
    images: torch.Tensor,
    masks: torch.Tensor,
    balance: float,
    corrections: int = 2,
    draws: bool = True,
    focal: bool = False,
) -> torch.Tensor:
    """Loss of a first prompt on every target and of the corrective clicks after it.

    Parameters
    ----------
    images : Tensor uint8 (B, S, S, 3)
    masks : Tensor uint8 (B, T, S, S), 0 or 1
    balance, focal
        See `lib.trainers.losses.mask_loss`.
    draws : bool
        Whether the network sees its prompts drawn (`Architecture.draws_prompts`).
    """
    targets = masks.shape[1]
    size = images.shape[1]
    features = network.forward_image(normalise(images))["backbone_fpn"]
    # the decoder works per target; the image was encoded once for all of its targets
    high = [f.repeat_interleave(targets, 0).float() for f in features[:-1]]
    low = (features[-1] + network.no_mem_embed.view(1, -1, 1, 1)).repeat_interleave(targets, 0).float()
    truth = masks.flatten(0, 1)
    target = F.avg_pool2d(truth[:, None].float(), 4)

    points, labels, single = first_prompts(truth, target)
    loss = torch.zeros((), device=images.device)
    logits: torch.Tensor | None = None
    for round_ in range(1 + corrections):
        if logits is not None:
            point, label = simulate.corrections(logits, target, size)
            points, labels = torch.cat([points, point], 1), torch.cat([labels, label], 1)
        several = single if round_ == 0 else torch.zeros_like(single)
        answer = torch.empty_like(target)
        for ambiguous in (True, False):
            rows = torch.nonzero(several == ambiguous)[:, 0]
            if not len(rows):
                continue
            given = None if logits is None else logits[rows]
            out, scores, _, present = ask(
                network,
                low[rows],
                [h[rows] for h in high],
                points[rows],
                labels[rows],
                given,
                ambiguous,
                draws,
            )
            part, best = score_loss(out, scores, target[rows], balance, focal)
            loss = loss + part * len(rows) / len(truth)
            # an object is there in every generated view: the score's negatives come from the clips
            loss = loss + 0.02 * F.softplus(-present).mean()
            answer[rows] = out.gather(1, best[:, None, None, None].expand(-1, 1, *out.shape[-2:])).detach()
        logits = answer.clamp(-CLAMP, CLAMP)
    return loss / (1 + corrections)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, S, S, 3) to the network's input (B, 3, S, S), as `lib.sam.model.square` does for one."""
    mean, std = (torch.tensor(v, device=images.device) for v in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).movedim(-1, 1)


def first_prompts(
    truth: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A first prompt for every target: a box, one click (almost half each), or both.

    Parameters
    ----------
    truth : Tensor uint8 (N, S, S); target : Tensor (N, 1, S/4, S/4)

    Returns
    -------
    points : Tensor (N, 3, 2); labels : Tensor (N, 3) int32; single : Tensor (N,) bool, one click only
    """
    count, size = truth.shape[0], truth.shape[-1]
    corners, corner_labels = simulate.boxes(truth > 0)
    click = simulate.clicks(target[:, 0], size, sharpness=float(torch.rand(()) * 4))
    points = torch.cat([corners, click], 1)
    labels = torch.cat([corner_labels, torch.full_like(corner_labels[:, :1], simulate.POSITIVE)], 1).clone()
    kind = torch.rand(count)
    boxed, single = kind < 0.42, kind > 0.52
    labels[boxed, 2] = simulate.PADDING
    labels[single, :2] = simulate.PADDING
    return points, labels, single


def ask(
    network: SAM2Base,
    low: torch.Tensor,
    high: list[torch.Tensor],
    points: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor | None,
    several: bool,
    draws: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`lib.sam.network.decode` in single precision; if it `draws`, with the points also in the mask prompt.

    Points that are all padding draw nothing.
    """
    if draws and bool((labels != simulate.PADDING).any()):
        mask = draw(points, labels, network.image_size, mask)
    logits, scores, tokens, present = decode(network, low, high, (points, labels), mask, several)
    return logits.float(), scores.float(), tokens, present.float()


class Run:
    """A training run in a folder: network, optimiser, averaged weights, step; written atomically."""

    def __init__(self, network: SAM2Base, folder: Path, schedule: Schedule, decay: float = 0.99) -> None:
        self.network, self.folder, self.schedule, self.decay = network, folder, schedule, decay
        self.average = copy.deepcopy(network).eval()
        # Matrices get orthogonalised updates (Muon), which leave the plateau of a fresh transformer in a
        # fraction of the steps; everything else is AdamW's.
        matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name]
        ours = {id(p) for p in matrices}
        rest = [p for p in network.parameters() if id(p) not in ours]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=schedule.rate, weight_decay=0.05),
            torch.optim.AdamW(rest, lr=schedule.rate, weight_decay=0.0),
        ]
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Write the state; of several processes, which all have the same, only the first."""
        if processes()[0] > 0:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def resume(self) -> bool:
        """Continue from the folder's last state, if it has one."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        return True

    def update(self, loss: torch.Tensor) -> bool:
        """One optimiser step on the mean of all processes' gradients; one that is not finite is skipped."""
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        _average_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not math.isfinite(norm.item()):
            logger.warning("step %d: the gradient is %s, skipped", self.step, norm.item())
            return False
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.schedule.at(self.step)
            optimiser.step()
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - keep)
                else:
                    mean.copy_(value)
        self.step += 1
        return True


def processes() -> tuple[int, int]:
    """The number of this process and how many train together (`torchrun`), (0, 1) when it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _average_gradients(network: torch.nn.Module) -> None:
    """Every process gets the mean gradient, so that all make the same step.

    `DistributedDataParallel` does it for a module's `forward`; training calls the network's parts one by one.
    What a process did not use counts as zero there.
    """
    if not dist.is_initialized():
        return
    parameters = list(network.parameters())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _agreed(stop: bool) -> bool:
    """Whether any process wants to stop: their clocks differ, and none must wait for one that has left."""
    if not dist.is_initialized():
        return stop
    votes = torch.tensor(float(stop))
    dist.all_reduce(votes)
    return bool(votes > 0)


def train(
    run: Run,
    loader: DataLoader | Iterable,
    loss_of,
    minutes: float = math.inf,
    save_every: int = 200,
    log_every: int = 50,
    device: str = "cpu",
) -> None:
    """Run until the schedule ends, the minutes are over or it is stopped; the state is then on disk.

    `loss_of(network, *batch, step)` gives the loss of one batch.
    """
    begin, recent, images = time.monotonic(), 0.0, 0
    since = begin
    run.network.train()
    try:
        for batch in loader:
            if _agreed(run.step >= run.schedule.steps or time.monotonic() - begin > minutes * 60):
                break
            batch = [part.to(device) for part in batch]
            images += batch[0].shape[:-3].numel()  # the slices of a clip count each
            # bf16 pays on a GPU only: on a CPU the conversions cost what the products save
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.device(device).type == "cuda"):
                loss = loss_of(run.network, *batch, run.step)
            if run.update(loss):
                recent += loss.item()
            if run.step % log_every == 0:
                speed = images * processes()[1] / (time.monotonic() - since)
                logger.info("step %6d  loss %.4f  %.1f images/s", run.step, recent / log_every, speed)
                recent, images, since = 0.0, 0, time.monotonic()
            if run.step % save_every == 0:
                run.save()
    finally:
        run.save()
