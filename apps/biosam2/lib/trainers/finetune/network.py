"""The network as it is trained: which parts learn, how fast, and what is kept of it.

BioSAM-2 (arXiv 2408.03286, section 3): the prompt encoder stays frozen, image encoder and mask decoder learn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from sam2.modeling.sam2_base import SAM2Base
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from lib.trainers.clips import clip_loss
from lib.trainers.finetune.optimizer import MuonAndAdamW
from lib.trainers.finetune.settings import TrainSettings
from lib.trainers.patients import patients_loss
from lib.trainers.pretrain import image_loss

# of the learning rate, for each block further from the output (SAM 2's own training): the first blocks of
# published networks know images in general. Ours have seen little, and must learn in all of them.
LAYER_DECAY, OWN_LAYER_DECAY = 0.9, 1.0
# learning rates where none is chosen: of networks that were trained here, and of published ones (the paper's)
OWN_RATE, PUBLISHED_RATE = 3e-4, 1e-4
WEIGHT_DECAY = 0.01
EMA = 0.99  # of the averaged weights, which are what is kept
LORA_RANK, LORA_ALPHA = 16, 32
CORRECTIONS = 2  # clicks on each answer

ENCODER, DECODER = "image_encoder", "sam_mask_decoder"
MEMORY = ("memory_attention", "memory_encoder", "obj_ptr_proj", "obj_ptr_tpos_proj", "maskmem_tpos_enc")
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")


class Trainable(nn.Module):
    """A SAM 2 network whose forward pass is the loss of one sample, as `DistributedDataParallel` needs it.

    Parameters
    ----------
    network : SAM2Base
        Taken over: its parameters are frozen or not, and LoRA is put into it.
    draws : bool
        `Architecture.draws_prompts`.
    settings : TrainSettings
    """

    def __init__(self, network: SAM2Base, draws: bool, settings: TrainSettings) -> None:
        super().__init__()
        self.draws, self.settings = draws, settings
        self.rate = settings.learning_rate or (OWN_RATE if draws else PUBLISHED_RATE)
        self.lora: LoraModel | None = None
        learning = (ENCODER, DECODER, *(MEMORY if settings.memory else ()))
        if settings.lora:
            names = [
                n for n, m in network.named_modules() if isinstance(m, nn.Linear) and _is_in(n, learning)
            ]
            config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=names)
            with torch.random.fork_rng([]):
                torch.manual_seed(settings.seed)
                self.lora = LoraModel(network, config, "default")
        else:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(_is_in(name, learning))
        self.network = network
        if settings.gradient_checkpointing:
            for part in (
                *network.image_encoder.trunk.blocks,
                *network.memory_attention.layers,
                network.memory_encoder,
            ):
                part.forward = _recomputed(part.forward)
            decoder = network.sam_mask_decoder
            decoder.predict_masks = _recomputed(decoder.predict_masks)

    def train(self, mode: bool = True) -> Trainable:
        """As any module; a frozen memory has no dropout, with which it takes gigabytes at 1024."""
        super().train(mode)
        if not self.settings.memory:
            self.network.memory_attention.eval()
        return self

    def forward(self, sample: dict[str, Any]) -> torch.Tensor:
        """The loss of a slice or a clip with its prompts: scalar.

        Parameters
        ----------
        sample : dict
            See `lib.trainers.finetune.samples`; on this module's device.
        """
        images, masks = sample["images"][None], sample["masks"][None]
        focal = self.settings.loss == "focal"
        with (
            torch.random.fork_rng([images.device] if images.is_cuda else []),
            torch.autocast("cuda", dtype=torch.bfloat16, enabled=images.is_cuda),
        ):
            torch.manual_seed(sample["seed"])
            if sample.get("crossing"):
                return patients_loss(self.network, images, masks, 0.0, self.draws, focal)
            if images.ndim == 5:
                return clip_loss(self.network, images, masks, 0.0, self.draws, focal)
            return image_loss(self.network, images, masks, 0.0, CORRECTIONS, self.draws, focal)

    def learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that learn, with their names in the network."""
        return ((name, p) for name, p in self.network.named_parameters() if p.requires_grad)

    def groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: a learning rate for each depth; no decay of what is no matrix."""
        depth = len(self.network.image_encoder.trunk.blocks)
        found: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in self.learning():
            rate = self.rate * (OWN_LAYER_DECAY if self.draws else LAYER_DECAY) ** _layers_above(name, depth)
            decay = WEIGHT_DECAY if parameter.ndim > 1 and "embed" not in name else 0.0
            group = found.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
            group["params"].append(parameter)
        return list(found.values())

    def optimizer(self) -> Optimizer:
        """The optimiser that the network was trained with: see `lib.trainers.finetune.optimizer`."""
        return MuonAndAdamW(self.groups()) if self.draws else AdamW(self.groups())

    def plain_weights(self) -> dict[str, torch.Tensor]:
        """The weights as a checkpoint has them, with LoRA's additions added in. It cannot be trained on."""
        network = self.network if self.lora is None else self.lora.merge_and_unload()
        return network.state_dict()


class Average:
    """The exponential moving average of the parameters that learn."""

    def __init__(self, trained: Trainable) -> None:
        self._parameters = nn.ParameterList([p for _, p in trained.learning()])
        self._average = AveragedModel(self._parameters, multi_avg_fn=get_ema_multi_avg_fn(EMA))

    def update(self) -> None:
        """After a step of the optimiser."""
        # a short run must not be left with the weights that it started from
        steps = int(self._average.n_averaged)
        decay = min(EMA, (1 + steps) / (10 + steps))
        self._average.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self._average.update_parameters(self._parameters)

    @torch.no_grad()
    def put_in_place(self) -> None:
        """Give the network the averaged weights."""
        for parameter, mean in zip(self._parameters, self._average.module.parameters(), strict=True):
            parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _layers_above(name: str, depth: int) -> int:
    """How many blocks lie between a parameter and the end of the trunk; 0 for all that comes after it."""
    block = _BLOCK.match(name)
    if block:
        return depth - int(block[1])
    return depth + 1 if name.startswith("image_encoder.trunk.") else 0


def _recomputed(forward):
    def run(*given, **named):
        return checkpoint(forward, *given, use_reentrant=False, **named)

    return run
