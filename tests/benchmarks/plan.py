"""What a run measures: one plan, the same for both sides, handed to every process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

CHEAPEST_ANSWER = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
"""How both sides are asked to answer: the file that costs either of them least."""


@dataclass(frozen=True)
class Plan:
    """Sizes, places and process settings; lengths are in voxels, `image_size` in pixels.

    Attributes
    ----------
    folder
        Work folder of the run; everything in it is thrown away at the end.
    image_size
        Side of the network's square input.
    side, depth
        The volume that is clicked on is `side` x `side` x `depth`.
    slices
        Slices of the volume that is propagated through.
    memory_slices, memory_size
        Slices of the volume whose memory is measured, and the input size at which all are done.
    busy_slices
        Slices of the volume that is propagated through while others ask for something.
    cache_gb
        Budget of our embedding cache.
    repeats
        First clicks, and repeated clicks after each of them.
    """

    folder: str
    image_size: int
    side: int
    depth: int
    slices: int
    memory_slices: int
    memory_size: int
    busy_slices: int
    cache_gb: float
    repeats: int
    device: str
    threads: int

    def path(self, name: str) -> Path:
        """A file of the work folder."""
        return Path(self.folder) / name

    @property
    def checkpoint(self) -> Path:
        return self.path("model") / "benchmark.pt"

    def save(self) -> Path:
        path = self.path("plan.json")
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def load(cls, path: str) -> Plan:
        return cls(**json.loads(Path(path).read_text()))

    def request(self, volume: str, points: list[list[int]]) -> dict:
        """A request as MONAI Label hands it to an infer task; `points` are voxels (i, j, k) inside."""
        return {
            "image": str(self.path(volume)),
            "foreground": [list(point) for point in points],
            "background": [],
            "device": self.device,
            **CHEAPEST_ANSWER,
        }

    def point(self, number: int, k: int) -> list[int]:
        """The click of a number on slice `k`: each at another place, within a quarter of the middle."""
        reach, middle = self.side // 4, self.side // 2
        return [middle + 3 * number % reach, middle - 2 * number % reach, k]

    def click_slices(self) -> list[int]:
        """Slices that are clicked on; the first of them is the warm-up's."""
        return [(n + 1) * self.depth // (self.repeats + 2) for n in range(self.repeats + 1)]

    def propagation_prompts(self) -> tuple[list[list[int]], list[list[int]]]:
        """The click in the middle, and the same with a correction half-way to the end."""
        first = [self.point(0, self.slices // 2)]
        return first, [*first, self.point(1, (3 * self.slices) // 4)]
