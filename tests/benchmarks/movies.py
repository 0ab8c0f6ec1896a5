"""How well objects are followed through movies: J and F as in DAVIS, and what happens around absences.

OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/movies.py [--help]

Generated movies (`lib.evaluation.movies`); an object is asked for by a box, or by its true mask, on the first
frame. The seed of the reported figures is one that nothing was tuned with.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "apps" / "biosam2"))

from lib.evaluation.davis import Followed, followed  # noqa: E402
from lib.evaluation.movies import KINDS, movies  # noqa: E402
from lib.evaluation.simulate import box_around, clicks, generator  # noqa: E402
from lib.prompts.prompts import SlicePrompts  # noqa: E402
from lib.sam.model import Model, ModelSlot  # noqa: E402
from lib.sam.propagate import Target, propagate  # noqa: E402

DEFAULT = REPOSITORY / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"
HELD_OUT = 2**32 + 5
SLACK = 3  # pixels that a box may be too large by on each side
WAYS = ("box", "mask")


def follow(model: Model, frames: np.ndarray, prompts: SlicePrompts, start: int = 0) -> np.ndarray:
    """The masks, bool (T, W, H), of what is prompted on frame `start` of frames (T, W, H[, 3])."""
    masks = np.zeros(frames.shape[:3], bool)
    target = Target({start: prompts}, 0, len(frames) - 1)
    for one in propagate(model, frames.__getitem__, len(frames), [target]):
        masks[one.index] = one.mask
    return masks


def prompts_of(way: str, truth: np.ndarray, rng: np.random.Generator) -> SlicePrompts:
    """A loose box around the object, or its mask; `truth` bool (W, H)."""
    if way == "box":
        return clicks([], [], box=box_around(truth, SLACK, rng))
    return clicks([], [], mask=truth)


def strip(frames: np.ndarray, truth: np.ndarray, masks: np.ndarray, path: Path, each: int = 2) -> None:
    """Every `each`-th frame with the true outline in green and the answer's in red, as a PNG."""
    from PIL import Image
    from scipy import ndimage

    shown = []
    for frame, true, mask in list(zip(frames, truth, masks, strict=True))[::each]:
        rgb = np.repeat(frame[..., None], 3, -1) if frame.ndim == 2 else frame.copy()
        for one, colour in ((true, (0, 255, 0)), (mask, (255, 0, 0))):
            rgb[one & ~ndimage.binary_erosion(one)] = colour
        shown.append(np.pad(rgb.swapaxes(0, 1), ((0, 2), (0, 2), (0, 0))))
    columns = 6
    shown += [np.zeros_like(shown[0])] * (-len(shown) % columns)
    rows = [np.concatenate(shown[n : n + columns], 1) for n in range(0, len(shown), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def line(name: str, way: str, found: list[Followed], seconds: float | None = None) -> str:
    def mean(values) -> str:
        kept = [v for v in values if v is not None]
        return f"{np.mean(kept):.3f}" if kept else "-"

    cells = [
        f"{name:<12}",
        f"{way:<4}",
        f"{len(found):>3}",
        mean(f.region for f in found),
        mean(f.boundary for f in found),
        mean(f.both for f in found),
        f"{min(f.both for f in found):.3f}",
        f"{mean(f.empty for f in found):>5}",
        f"{mean(f.refound for f in found):>8}",
        f"{'-' if seconds is None else round(1000 * seconds):>8}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--count", type=int, default=8, help="movies of each kind")
    parser.add_argument("--seed", type=int, default=HELD_OUT)
    parser.add_argument("--strips", type=Path, help="a folder for pictures of every movie")
    parser.add_argument("--each", action="store_true", help="a line for each object as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ModelSlot(args.checkpoint, "cpu").get()
    print("| movies       | from |   n | J     | F     | J&F   | worst | empty | re-found | ms/frame |")
    print("| ------------ | ---- | --- | ----- | ----- | ----- | ----- | ----- | -------- | -------- |")
    everything: dict[str, list[Followed]] = {way: [] for way in args.ways.split(",")}
    for kind in args.kinds.split(","):
        found: dict[str, list[Followed]] = {way: [] for way in everything}
        seconds, frames = dict.fromkeys(everything, 0.0), dict.fromkeys(everything, 0)
        for movie in movies(kind, args.count, args.seed):
            for number, truth in enumerate(movie.truths):
                for way in everything:
                    rng = generator(args.seed, movie.name, number)
                    begin = time.perf_counter()
                    masks = follow(model, movie.frames, prompts_of(way, truth[0], rng))
                    seconds[way] += time.perf_counter() - begin
                    frames[way] += len(masks)
                    found[way].append(followed(masks, truth))
                    if args.each:
                        one = found[way][-1]
                        print(f"{movie.name} object {number + 1} {way}: {one}", file=sys.stderr)
                    if args.strips:
                        name = f"{found[way][-1].both:.2f} {movie.name} {number + 1} {way}.png"
                        strip(movie.frames, truth, masks, args.strips / name.replace(" ", "_"))
        for way in everything:
            print(line(kind, way, found[way], seconds[way] / max(1, frames[way])), flush=True)
            everything[way] += found[way]
    for way, all_ in everything.items():
        print(line("all", way, all_))


if __name__ == "__main__":
    main()
