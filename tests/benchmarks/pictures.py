"""How long clicks on a picture take that a client has sent by itself, as CVAT's interactor does.

.venv/bin/python tests/benchmarks/pictures.py [--help]

SAM 2.1 tiny at 1024 with random weights, which do for time, and the default checkpoint. Every click brings
those before it along. What HTTP adds, some milliseconds, is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "apps" / "biosam2"), str(Path(__file__).parent)]

from material import write_checkpoint  # noqa: E402

from lib.bank.bank import LabelBank  # noqa: E402
from lib.infers.auto_task import AutoTask  # noqa: E402
from lib.infers.picture_task import PictureTask  # noqa: E402
from lib.sam.model import ModelSlot  # noqa: E402
from lib.settings import Settings  # noqa: E402
from lib.streams.pictures import Pictures  # noqa: E402

DEFAULT = REPOSITORY / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"
WANTED = 10  # times that a later click must be faster than the first


def picture(width: int, height: int, seed: int) -> bytes:
    """A PNG in colour: an ellipse of a sixth of the height on a textured ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot((x - width / 2) / 1.3, y - height / 2) < height / 6
    pixels = 80 + 90 * inside[..., None] * (1.0, 0.6, 0.4) + rng.normal(0, 10, (height, width, 3))
    file = BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def clicks(width: int, height: int, count: int) -> list[list[float]]:
    """Places on the ellipse: in its middle, then around it."""
    angles = np.arange(count) * 2.4
    reach = height / 14 * (np.arange(count) > 0)
    return np.stack([width / 2 + reach * np.cos(angles), height / 2 + reach * np.sin(angles)], 1).tolist()


def measure(name: str, path: Path, given: argparse.Namespace) -> None:
    slot = ModelSlot(path, given.device)
    bank = LabelBank(lambda: None, path.parent)  # type: ignore[arg-type, return-value]  # nobody asks it
    task = PictureTask(AutoTask(slot, Settings(), bank), Pictures(1 << 30, 30))
    places = clicks(given.width, given.height, given.clicks)
    seconds: list[list[float]] = [[] for _ in places]
    encoded: list[list[int]] = [[] for _ in places]
    for seed in range(given.pictures + 1):  # the first one warms up
        added = task.pictures.add(picture(given.width, given.height, seed))
        for n in range(len(places)):
            before, begin = slot.get().encoded, time.perf_counter()
            task.mask(added, {"foreground": places[: n + 1]})
            if seed:
                seconds[n].append(time.perf_counter() - begin)
                encoded[n].append(slot.get().encoded - before)
    print(f"\n{name}; input {slot.get().size}; pictures of {given.width}x{given.height}; {slot.device}")
    first = statistics.median(seconds[0])
    for n, (took, made) in enumerate(zip(seconds, encoded, strict=True), 1):
        median = statistics.median(took)
        faster = "" if n == 1 else f", {first / median:.1f}x faster than the first"
        print(f"  click {n}: {1000 * median:7.0f} ms, pictures encoded {made}{faster}")
    later = statistics.median([s for took in seconds[1:] for s in took])
    met = "met" if first / later >= WANTED else "missed"
    print(f"  later clicks: {1000 * later:.0f} ms, {first / later:.1f}x; at least {WANTED}x: {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("tiny", "default"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.only != "default":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.pt"
            measure(write_checkpoint(path), path, given)
    if given.only != "tiny":
        measure("default checkpoint", DEFAULT, given)


if __name__ == "__main__":
    main()
