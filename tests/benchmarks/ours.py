"""Our side: the app's own infer tasks, called as MONAI Label calls them, and what they cannot go below."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from measures import PeakMemory, ask, clicks, main, propagations, say, timed
from plan import Plan

from lib.infers import volume_task
from lib.infers.slice_task import SliceTask
from lib.infers.volume_task import VolumeTask
from lib.sam.model import Model, ModelSlot
from lib.settings import Settings

FILL = 1.25  # the cache lets go of one embedding for each new one once it is full: this is past that


def measure_clicks(plan: Plan) -> dict[str, Any]:
    result = clicks(plan, lambda: _task(SliceTask, plan, plan.image_size), _encodes)
    model = result.pop("task").slot.get()
    return {**result, "floor": _floor(model)}


def measure_propagation(plan: Plan) -> dict[str, Any]:
    task = _task(VolumeTask, plan, plan.image_size)
    return propagations(plan, task, lambda _: _visited(), _encodes)


def measure_memory_of_all_slices(plan: Plan) -> dict[str, Any]:
    """One propagation through all slices, at the input size that the plan gives for this."""
    return _memory(plan, plan.memory_size, plan.memory_slices)


def measure_memory_with_full_cache(plan: Plan) -> dict[str, Any]:
    """One propagation at the full input size through as many slices as overfill the embedding cache."""
    bytes_each = 16 * plan.image_size**2  # float32: 32 channels at stride 4, 64 at 8, 256 at 16
    slices = math.ceil(FILL * plan.cache_gb * 1e9 / bytes_each)
    return _memory(plan, plan.image_size, min(slices, plan.memory_slices))


def _memory(plan: Plan, image_size: int, slices: int) -> dict[str, Any]:
    task = _task(VolumeTask, plan, image_size)
    middle = plan.memory_slices // 2
    first = middle - slices // 2
    request = plan.request("memory.nii", [plan.point(0, middle)])
    request["slice_range"] = [first, first + slices - 1]
    # the model is loaded and the volume not yet opened
    with PeakMemory() as memory:
        seconds, _ = ask(task, request)
    cache = task.slot.get().cache.nbytes
    say(f"{slices} slices at {image_size}: {memory.resident / 1e9:.2f} GB in {seconds:.0f} s")
    return {
        "slices": slices,
        "size": image_size,
        "memory": memory.resident,
        "memory_on_gpu": memory.on_gpu,
        "cache": cache,
        "seconds": seconds,
    }


def _task(kind: type[SliceTask] | type[VolumeTask], plan: Plan, image_size: int) -> Any:
    settings = Settings(
        checkpoint=str(plan.checkpoint), device=plan.device, image_size=image_size, cache_gb=plan.cache_gb
    )
    slot = ModelSlot(plan.checkpoint, settings.device, int(settings.cache_gb * 1e9), settings.image_size)
    return kind(slot, settings)


def _encodes(task: Any):
    return lambda: task.slot.get().encoded


def _visited() -> set[int]:
    """A set of the slices that propagation has answered for, from now on."""
    slices: set[int] = set()
    propagate = volume_task.propagate

    def propagate_noted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for answer in propagate(*args, **kwargs):
            slices.add(answer.index)
            yield answer

    volume_task.propagate = propagate_noted
    return slices


def _floor(model: Model) -> dict[str, float]:
    """Median seconds of one pass of the image encoder, and of one of prompt encoder and mask decoder."""
    network, size = model.network, model.size
    picture = torch.rand(1, 3, size, size, device=model.device)
    with model.running():
        levels = network.forward_image(picture)["backbone_fpn"]
        encode = statistics.median(timed(lambda: network.forward_image(picture))[0] for _ in range(3))

        def decode() -> torch.Tensor:
            points = torch.from_numpy(np.full((1, 2, 2), size / 2, np.float32)).to(model.device)
            labels = torch.ones((1, 2), dtype=torch.int32, device=model.device)
            sparse, dense = network.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
            return network.sam_mask_decoder(
                image_embeddings=levels[-1],
                image_pe=network.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                repeat_image=False,
                high_res_features=list(levels[:-1]),
            )[0]

        decode()
        return {"encode": encode, "decode": statistics.median(timed(decode)[0] for _ in range(9))}


if __name__ == "__main__":
    main(
        {
            "clicks": measure_clicks,
            "propagation": measure_propagation,
            "memory_all": measure_memory_of_all_slices,
            "memory_full_cache": measure_memory_with_full_cache,
        }
    )
