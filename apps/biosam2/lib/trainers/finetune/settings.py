"""What a person may choose for one training, checked before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import UserError

# What MONAI Label and its clients put into every train request beside these.
FROM_CLIENTS = frozenset({"client_id", "model", "gpus", "multi_gpu", "local_rank", "enqueue", "run_sync"})

_MEANT = {
    "max_epochs": "a whole number from 1 to 1000",
    "train_batch_size": "a whole number from 1 to 256",
    "learning_rate": "a number above 0 and at most 0.01",
    "loss": "dice_bce or focal",
    "clips": "a number from 0 to 0.9",
    "across": "a number from 0 to 0.9",
    "image_size": "256, 512 or 1024, or empty for the served one",
    "device": "auto, cpu or cuda",
    "seed": "a whole number from 0 to 4294967295",
}


class TrainSettings(BaseModel):
    """The settings of one training.

    Attributes
    ----------
    max_epochs
        Rounds of about 100 samples each.
    train_batch_size
        Samples to one step, over all GPUs.
    learning_rate
        Of the mask decoder; that of the image encoder falls from layer to layer (`network.LAYER_DECAY`). None
        chooses by the checkpoint (`network.OWN_RATE`, `PUBLISHED_RATE`).
    lora
        Train low-rank additions to the linear layers only: less memory, for small GPUs.
    gradient_checkpointing
        Compute the network's parts twice rather than keep what they computed: less memory, a third slower.
    memory
        Also train SAM 2's memory attention and memory encoder.
    loss
        ``dice_bce`` is BioSAM-2's, ``focal`` SAM 2's own.
    clips
        Share of the samples that are short clips instead of single slices.
    across
        Share of the samples that carry a structure from one patient to others, as `biosam2_auto` does.
    image_size
        Side of the network's input in pixels; None is the one it is served at.
    device
        ``auto`` takes a GPU if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    train_batch_size: Annotated[int, Field(ge=1, le=256)] = 4
    learning_rate: Annotated[float | None, Field(gt=0, le=0.01, allow_inf_nan=False)] = None
    lora: bool = False
    gradient_checkpointing: bool = False
    memory: bool = False
    loss: Literal["dice_bce", "focal"] = "dice_bce"
    clips: Annotated[float, Field(ge=0, le=0.9, allow_inf_nan=False)] = 0.2
    across: Annotated[float, Field(ge=0, le=0.9, allow_inf_nan=False)] = 0.0
    image_size: Literal[256, 512, 1024] | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> TrainSettings:
        """The settings in a train request; what a client leaves empty has its default.

        Raises
        ------
        UserError
            If a field is unknown, or its value is not what it takes.
        """
        given = {k: v for k, v in request.items() if k not in FROM_CLIENTS and v not in (None, "")}
        for key in given:
            if key not in cls.model_fields:
                raise UserError(
                    f"{key[:80]} is not a setting of a training; they are {', '.join(cls.model_fields)}."
                )
        if isinstance(given.get("image_size"), str) and given["image_size"].isdecimal():
            given["image_size"] = int(given["image_size"])
        try:
            return cls(**given)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            meant = _MEANT.get(key, "true or false")
            raise UserError(f"{key} must be {meant}, not {str(given[key])[:80]!r}.") from None
