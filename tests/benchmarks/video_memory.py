"""Peak memory of `biosam2_video` on a short and on a long video: it must not depend on the length.

    python tests/benchmarks/video_memory.py --frames 100 10000 --out video_memory.json

Each length is a process of its own, with the default checkpoint on one core: it follows one object, prompted
by a box on the frame in the middle, through all frames both ways, and writes a labelled multi-frame
file. 10,000 frames take an hour or more; what the process has in memory is printed all the while.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "apps" / "biosam2"))

SIZE = (320, 240)
RADIUS = 28
MOST_APART = 1000  # MB between the shortest and the longest
SAMPLE_EVERY = 2.0  # s


def centre(index: int) -> tuple[float, float]:
    """Where the object is on a frame: it wanders about and never stands still."""
    import numpy as np

    x = SIZE[0] / 2 + 90 * np.sin(index / 60)
    y = SIZE[1] / 2 + 60 * np.sin(index / 43)
    return float(x), float(y)


def write_video(path: Path, frames: int) -> None:
    """A disk that moves over a speckled ground, as H.264."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    ground = rng.integers(40, 60, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    skin = rng.integers(180, 200, (SIZE[1], SIZE[0], 1)).astype(np.uint8) * np.array([1, 0, 0], np.uint8)
    yy, xx = np.mgrid[: SIZE[1], : SIZE[0]]
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(frames):
            x, y = centre(index)
            inside = (xx - x) ** 2 + (yy - y) ** 2 < RADIUS**2
            picture = np.where(inside[..., None], skin + np.array([0, 90, 60], np.uint8), ground)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())


def measure(path: Path, frames: int, form: str, image_size: int | None) -> dict[str, object]:
    """Answer one request in this process; its memory over the time, in MB."""
    import torch

    from lib.infers.video_task import VideoTask
    from lib.sam.model import ModelSlot
    from lib.settings import Settings
    from lib.work import Work, working_on

    torch.set_num_threads(1)
    model = REPOSITORY / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"
    task = VideoTask(ModelSlot(model, "cpu", image_size=image_size), Settings())
    x, y = centre(frames // 2)
    box = [x - RADIUS, y - RADIUS, frames // 2, x + RADIUS, y + RADIUS, frames // 2]
    request = {"image": str(path), "boxes": [box], "result_format": form}
    one = Work("memory", "biosam2_video", path.name, "", True)
    samples: list[list[float]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_EVERY):
            samples.append([one.progress[0], now()])
            print(json.dumps(samples[-1]), file=sys.stderr, flush=True)

    threading.Thread(target=sample, daemon=True).start()
    before, begin = now(), time.perf_counter()
    with working_on(one):
        file, params = task(request)
    seconds = time.perf_counter() - begin
    ended.set()
    size = Path(str(file)).stat().st_size
    Path(str(file)).unlink()
    return {
        "frames": frames,
        "format": form,
        "image_size": image_size,
        "before_mb": before,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1),
        "seconds": round(seconds, 1),
        "file_mb": round(size / 1e6, 2),
        "score": params["score"],
        "absent": params["absent"],
        "samples": samples[:: max(1, len(samples) // 100)],
    }


def now() -> float:
    """Memory of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 10_000])
    parser.add_argument("--format", default="labels")
    parser.add_argument("--image-size", type=int, help="side of the network's input; smaller is faster")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=2, metavar=("VIDEO", "FRAMES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(Path(asked.only[0]), int(asked.only[1]), asked.format, asked.image_size)))
        return 0
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in asked.frames:
            video = Path(folder) / f"{frames}.mp4"
            write_video(video, frames)
            command = [sys.executable, __file__, "--format", asked.format, "--only", str(video), str(frames)]
            if asked.image_size:
                command += ["--image-size", str(asked.image_size)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found.append(json.loads(answer.stdout.splitlines()[-1]))
            print({key: value for key, value in found[-1].items() if key != "samples"}, flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(found, indent=1))
    apart = max(one["peak_mb"] for one in found) - min(one["peak_mb"] for one in found)
    print(f"{apart:.0f} MB between the lowest and the highest peak")
    return int(apart > MOST_APART)


if __name__ == "__main__":
    raise SystemExit(main())
