"""What a step of fine-tuning costs: time and peak memory, ours beside the recipe of BioSAM-2's authors.

    .venv/bin/python tests/benchmarks/train_cost.py [--help]

Every setting runs in a process of its own, one after the other: the peak of the memory is the process's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from sam2.modeling.sam2_base import SAM2Base

APP = Path(__file__).resolve().parents[2] / "apps" / "biosam2"
sys.path.insert(0, str(APP))

from lib.sam.network import NANO, PUBLISHED, build, decode  # noqa: E402
from lib.trainers.finetune import network as finetune  # noqa: E402
from lib.trainers.finetune.samples import FRAMES, TARGETS  # noqa: E402
from lib.trainers.finetune.settings import TrainSettings  # noqa: E402
from lib.trainers.losses import mask_loss  # noqa: E402
from lib.trainers.pretrain import normalise  # noqa: E402
from lib.trainers.simulate import BOX_HIGH, BOX_LOW  # noqa: E402

NETWORKS = {"nano": NANO, "SAM 2.1 tiny": PUBLISHED["hiera_tiny"]}
SIZES = (("nano", 256), ("nano", 512), ("SAM 2.1 tiny", 512), ("SAM 2.1 tiny", 1024))
BUDGET = 8e9  # bytes, of a small GPU
SHIFT = 20  # pixels that the authors move a box outwards, at most
LARGEST_GRADIENT = 1.0
Step = Callable[[int], None]


@dataclass(frozen=True)
class Way:
    """One way to train: what a sample is, and the settings; the authors' recipe if there are none."""

    settings: dict[str, Any] | None
    targets: int = TARGETS
    corrections: int = finetune.CORRECTIONS
    frames: int = 1


LESS = {"gradient_checkpointing": True}
WAYS = {
    "authors' recipe": Way(None, targets=1, corrections=0),
    "ours, same work": Way({}, targets=1, corrections=0),
    "ours, same work, checkpointing": Way(LESS, targets=1, corrections=0),
    "ours": Way({}),
    "ours, checkpointing": Way(LESS),
    "ours, LoRA": Way({"lora": True}),
    "ours, LoRA, checkpointing": Way({"lora": True, **LESS}),
    "ours, clip": Way({}, frames=FRAMES),
    "ours, clip, checkpointing": Way(LESS, frames=FRAMES),
    "ours, clip, LoRA, checkpointing": Way({"lora": True, **LESS}, frames=FRAMES),
}


def main() -> None:
    options = _options()
    if options.one:
        print(json.dumps(_measure(options)))
        return
    found: list[dict[str, Any]] = []
    for name in _names(options.only):
        found.append({"name": name, **_run(options, name)})
        print("- " + ", ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    text = f"{_setting(options)}\n\n{table(found, options.device)}\n"
    print(f"\n{text}")
    if options.write:
        options.write.write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as '*1024*', '*same work'")
    parser.add_argument("--limit-gb", type=float, help="address space of each process, to protect others")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to a file as well")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: there is no CUDA here")
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    if not _names(options.only):
        parser.error(f"--only: {options.only!r} fits none of {'; '.join(_names('*'))}")
    return options


def _names(pattern: str) -> list[str]:
    names = [f"{network} at {size}: {way}" for network, size in SIZES for way in WAYS]
    return [name for name in names if fnmatch(name, pattern)]


def _run(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What one setting costs, measured in a fresh process; `failed` and why if it could not be."""
    command = [sys.executable, __file__, "--one", name, "--device", options.device]
    command += ["--threads", str(options.threads), "--steps", str(options.steps)]
    if options.limit_gb:
        command += ["--limit-gb", str(options.limit_gb)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        full = "allocate memory" in last or "out of memory" in last.lower()
        return {"failed": "out of memory" if full else last[:80]}
    return json.loads(done.stdout.splitlines()[-1])


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.limit_gb:
        resource.setrlimit(resource.RLIMIT_AS, (int(options.limit_gb * 1e9),) * 2)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    where, way = options.one.split(": ")
    network, size = where.split(" at ")
    step, frames, trained = _step(NETWORKS[network], int(size), WAYS[way], torch.device(options.device))
    before = psutil.Process().memory_info().rss
    if options.device == "cuda":
        before = torch.cuda.memory_allocated()
    step(0)  # the optimiser's state is made here
    seconds = []
    for number in range(1, 1 + options.steps):
        begin = time.perf_counter()
        step(number)
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    result = {"seconds": statistics.mean(seconds), "frames": frames, "trained": trained, "before": before}
    if options.device == "cuda":
        result["peak"] = torch.cuda.max_memory_allocated()
        result["reserved"] = torch.cuda.max_memory_reserved()
    else:
        unit = 1 if platform.system() == "Darwin" else 1024
        result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return result


def _step(architecture, size: int, way: Way, device: torch.device) -> tuple[Step, int, int]:
    """A function that makes one step on one sample, the slices of a sample, and the parameters that learn."""
    network = build(architecture, size).to(device).train()
    images, masks = _sample(size, way)
    images, masks = images.to(device), masks.to(device)
    if way.settings is None:
        step, learning = _authors(network, images, masks)
    else:
        finetune.CORRECTIONS = way.corrections
        settings = TrainSettings(**way.settings)
        trained = finetune.Trainable(network, architecture.draws_prompts, settings).to(device).train()
        step, learning = _ours(trained, images, masks)
    return step, way.frames, sum(p.numel() for p in learning)


def _ours(
    trained: finetune.Trainable, images: torch.Tensor, masks: torch.Tensor
) -> tuple[Step, list[torch.nn.Parameter]]:
    """A step as `lib.trainers.finetune.training` makes it, with a batch of one sample."""
    learning = [p for _, p in trained.learning()]
    optimizer = torch.optim.AdamW(trained.groups(), betas=(0.9, 0.999))
    average = finetune.Average(trained)

    def step(number: int) -> None:
        # seeded by the number: every setting gets the same prompts
        loss = trained({"images": images, "masks": masks, "seed": number})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, LARGEST_GRADIENT)
        optimizer.step()
        average.update()

    return step, learning


def _authors(
    network: SAM2Base, images: torch.Tensor, masks: torch.Tensor
) -> tuple[Step, list[torch.nn.Parameter]]:
    """BioSAM-2's own training: all of image encoder and mask decoder, one box, one mask, Dice and BCE.

    Their code does not hand the encoder's fine features to the decoder, a defect; here it gets them. The loss
    is taken at the decoder's resolution, as ours is. Single precision on every device.
    """
    network.requires_grad_(False)
    network.image_encoder.requires_grad_(True)
    network.sam_mask_decoder.requires_grad_(True)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.01)
    rows, columns = torch.nonzero(masks[0], as_tuple=True)
    low = torch.stack([columns.min(), rows.min()]).float()
    high = torch.stack([columns.max(), rows.max()]).float()
    labels = torch.tensor([[BOX_LOW, BOX_HIGH]], dtype=torch.int32, device=images.device)
    target = torch.nn.functional.avg_pool2d(masks[None].float(), 4)

    def step(number: int) -> None:
        torch.manual_seed(number)
        shift = torch.randint(0, SHIFT + 1, (2, 2)).to(low)
        limit = masks.shape[-1] - 1
        box = torch.stack([low - shift[0], high + shift[1]])[None].clamp(0, limit)
        features = network.forward_image(normalise(images[None]))["backbone_fpn"]
        coarse = features[-1] + network.no_mem_embed.view(1, -1, 1, 1)
        logits, *_ = decode(network, coarse, features[:-1], (box, labels), None, several=False)
        loss = mask_loss(logits, target).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step, learning


def _sample(size: int, way: Way) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with bright ellipses that move from slice to slice, as `Samples` gives them.

    Returns
    -------
    images : Tensor uint8 (S, S, 3), for a clip (F, S, S, 3)
    masks : Tensor uint8 (T, S, S), for a clip (T, F, S, S), 0 or 1
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    masks = np.empty((way.targets, way.frames, size, size), np.uint8)
    for n in range(way.targets):
        for t in range(way.frames):
            middle = 0.3 + 0.2 * n + 0.02 * t
            masks[n, t] = ((x - middle) / 0.12) ** 2 + ((y - middle) / 0.09) ** 2 < 1
    images = rng.integers(0, 120, (way.frames, size, size, 3), dtype=np.uint8)
    images += (100 * masks.any(0)[..., None]).astype(np.uint8)
    if way.frames == 1:
        return torch.from_numpy(images[0]), torch.from_numpy(masks[:, 0])
    return torch.from_numpy(images), torch.from_numpy(masks)


def table(found: Sequence[dict[str, Any]], device: str) -> str:
    """The results as a Markdown table with aligned columns.

    Parameters
    ----------
    found
        `name`, and what `_measure` returns or `failed`.
    """
    header = ["setting", "images/s", "s/sample", "peak memory", "before training", "trained", "within 8 GB"]
    if device == "cuda":
        header.append("reserved")
    lines = [header, *(_cells(one) for one in found)]
    lines = [line + ["-"] * (len(header) - len(line)) for line in lines]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cells(one: dict[str, Any]) -> list[str]:
    if "failed" in one:
        return [one["name"], "-", "-", one["failed"]]
    peak = one.get("reserved", one["peak"])  # what must be free on a GPU
    return [
        one["name"],
        f"{one['frames'] / one['seconds']:.2f}",
        f"{one['seconds']:.2f}",
        f"{one['peak'] / 1e9:.2f} GB",
        f"{one['before'] / 1e9:.2f} GB",
        f"{one['trained'] / 1e6:.2f} M",
        "yes" if peak <= BUDGET else "no",
        *([f"{one['reserved'] / 1e9:.2f} GB"] if "reserved" in one else []),
    ]


def _setting(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        what = f"{torch.cuda.get_device_name()}, ours in bfloat16 (autocast), the authors' in float32"
    else:
        what = f"{platform.machine()} CPU, {options.threads} threads, float32"
    return (
        f"Random weights, one sample to a step; {what}; torch {torch.__version__}; "
        f"mean of {options.steps} warm steps"
    )


if __name__ == "__main__":
    main()
