"""What is asked of a model in an evaluation: the pipeline, the prompts, and all else that moves a number."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from lib.errors import UserError
from lib.evaluation.metrics import MOST_CLICKS
from lib.prompts.prompts import Direction

Pipeline = Literal["image", "volume", "video"]
PIPELINES: tuple[Pipeline, ...] = get_args(Pipeline)

BOX, MASK, NOC, CVPR = "box", "mask", "noc", "cvpr"
DESIGNS: dict[Pipeline, tuple[str, ...]] = {
    "image": ("1click", "3clicks", "5clicks", BOX),
    "volume": ("1click", "3clicks", BOX, MASK),
    "video": ("1click", "3clicks", BOX, MASK),
}
"""What is asked when nothing is said."""

# A mask on a single slice is the answer; clicks are counted on one slice; the challenge's protocol is 3D.
ONLY_IN: dict[str, tuple[Pipeline, ...]] = {MASK: ("volume", "video"), NOC: ("image",), CVPR: ("volume",)}
# A video's first frame with the structure is prompted, and time only goes forward.
FIRST = "first"


@dataclass(frozen=True)
class Protocol:
    """How a model is asked; two results are comparable if, and only if, this is the same.

    Attributes
    ----------
    pipeline : "image", "volume" or "video"
        Slices by themselves; prompts propagated through a volume; prompts propagated along time.
    designs : tuple of str
        ``"1click"``, ``"3clicks"``, …: the deepest point of the structure, then of the largest error each
        time; ``"box"``; ``"mask"``: the true mask of the prompted slice; ``"noc"``: clicks up to 20;
        ``"cvpr"``: a box on the middle slice, then 5 clicks anywhere (the CVPR 2025 challenge on interactive
        3D segmentation). Empty: `DESIGNS`.
    jitter : int
        Clicks lie up to so many voxels from the deepest point, and each edge of a box so many outside.
    prompted_slice : str
        ``"middle"`` or ``"largest"`` of the slices that hold the structure, or ``"every:N"``-th of them.
    direction : Direction
        Which way prompts are propagated.
    seed : int
    image_size : int or None
        Side of the network's input; None is the checkpoint's own.
    zoom : bool
        Look at what the prompts point to, as the app does.
    nsd_mm : float
        Tolerance of the surface distance.

    Raises
    ------
    UserError
        If a value is none of these, or has no meaning in this pipeline.
    """

    pipeline: Pipeline
    designs: tuple[str, ...] = ()
    jitter: int = 0
    prompted_slice: str = ""
    direction: Direction | None = None
    seed: int = 0
    image_size: int | None = None
    zoom: bool = True
    nsd_mm: float = 2.0

    def __post_init__(self) -> None:
        if self.pipeline not in PIPELINES:
            raise UserError(f"--pipeline must be one of {', '.join(PIPELINES)}, not {self.pipeline}.")
        if self.jitter < 0:
            raise UserError(f"--jitter must be 0 or more voxels, not {self.jitter}.")
        if not (math.isfinite(self.nsd_mm) and self.nsd_mm >= 0):
            raise UserError(f"--nsd-mm must be 0 or more, not {self.nsd_mm}.")
        self._fill_in()
        for design in self.designs:
            self._check_design(design)

    def _fill_in(self) -> None:
        video = self.pipeline == "video"
        if video and (self.prompted_slice or self.direction):
            raise UserError("--prompted-slice and --direction have no meaning in a video: time goes one way.")
        chosen = {
            "designs": tuple(dict.fromkeys(self.designs)) or DESIGNS[self.pipeline],
            "prompted_slice": FIRST if video else self.prompted_slice or "middle",
            "direction": Direction.FORWARD if video else self.direction or Direction.BOTH,
        }
        for name, value in chosen.items():
            object.__setattr__(self, name, value)
        which = self.prompted_slice
        if not re.fullmatch(r"middle|largest|first|every:[1-9][0-9]{0,3}", which):
            raise UserError(f"--prompted-slice must be middle, largest or every:N, not {which}.")

    def _check_design(self, design: str) -> None:
        count = clicks_in(design)
        if design not in (BOX, *ONLY_IN) and not 1 <= count <= MOST_CLICKS:
            raise UserError(
                f"--prompts {design} is not known; there are 1click to {MOST_CLICKS}clicks, {BOX}, "
                f"{', '.join(ONLY_IN)}."
            )
        if self.pipeline not in ONLY_IN.get(design, PIPELINES):
            raise UserError(f"--prompts {design} has no meaning in the {self.pipeline} pipeline.")

    @property
    def signature(self) -> str:
        """12 hexadecimal digits that stand for all of this but the list of designs, which a result names."""
        values = {name: value for name, value in asdict(self).items() if name != "designs"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def described(self) -> dict[str, str]:
        """All of this in words, for a report."""
        return {
            "pipeline": self.pipeline,
            "prompts": ", ".join(self.designs),
            "prompted slice": self.prompted_slice,
            **({} if self.pipeline == "image" else {"direction": str(self.direction)}),
            "jitter": f"{self.jitter} voxels",
            "zoom": "yes" if self.zoom else "no",
            "image size": "the checkpoint's own" if self.image_size is None else str(self.image_size),
            "NSD tolerance": f"{self.nsd_mm:g} mm",
            "seed": str(self.seed),
            "protocol": self.signature,
        }

    def prompted(self, areas: list[int]) -> list[int]:
        """The slices to prompt of a structure that has `areas` voxels on each slice, not all of them 0."""
        present = [index for index, area in enumerate(areas) if area]
        middle = present[len(present) // 2]
        if self.prompted_slice == FIRST:
            return present[:1]
        if self.prompted_slice == "largest":
            return [max(present, key=lambda index: areas[index])]
        if self.prompted_slice.startswith("every:"):
            step = int(self.prompted_slice.removeprefix("every:"))
            return present[step // 2 :: step] or [middle]
        return [middle]


def clicks_in(design: str) -> int:
    """How many clicks a design makes on the prompted slice, corrections included; 0 for a box or a mask."""
    if design == NOC:
        return MOST_CLICKS
    found = re.fullmatch(r"(1)click|([1-9][0-9]?)clicks", design)
    return int(found[1] or found[2]) if found else 0
