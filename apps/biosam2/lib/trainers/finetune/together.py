"""Several processes that train together, on one machine or more, as `torchrun` has started them.

The first one prepares the cases and judges the outcome; the others wait for what it has prepared, in the
folder of runs that they all see.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

JOB = "job.json"
LOOK_EVERY = 0.5  # s


@dataclass(frozen=True)
class Place:
    """Which of several processes this is: over all machines, how many there are, and on this machine."""

    rank: int
    world: int
    local: int
    started: str

    @classmethod
    def of_this_process(cls) -> Place | None:
        """None when this one is alone."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world < 2 or "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        # the same command has the same id every night, but a port of its own
        known = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
        started = " ".join(os.environ.get(name, "") for name in known)
        # read now: MONAI Label puts the rank into LOCAL_RANK when it begins to train
        return cls(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]), started)

    @property
    def backend(self) -> str:
        return "nccl" if torch.cuda.is_available() else "gloo"

    def tell(self, runs: Path, job: dict[str, Any] | None) -> None:
        """Let the other processes know what to do, None for nothing."""
        part = runs / f"{JOB}.part"
        part.write_text(json.dumps({"started": self.started, "job": job}))
        os.replace(part, runs / JOB)

    def wait(self, runs: Path) -> dict[str, Any] | None:
        """What the first process has told the others of this start; `torchrun` ends who waits if it fails."""
        while True:
            try:
                told = json.loads((runs / JOB).read_text())
                if told["started"] == self.started:
                    return told["job"]
            except (OSError, ValueError):
                pass
            time.sleep(LOOK_EVERY)
