"""MONAI Label's server as `python -m monailabel.main` runs it, except that long work waits for the tests.

A file (`VARIABLE` in the environment names it) holds a number: a propagation that has done so many slices, or
a search for all structures that has done so many looks at them, waits until the number is higher, the file is
gone, or the work is cancelled. Without the file nothing waits.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "BIOSAM2_TEST_PACE"
LOOK_SECONDS = 0.05


class Pace:
    """How far long work may go, as the tests set it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def hold(self, slices: int) -> None:
        """Let work go on until it has done so many slices or looks."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(slices))
        fresh.replace(self.file)  # so that nobody reads half of it

    def release(self) -> None:
        self.file.unlink(missing_ok=True)

    def allows(self, done: int) -> bool:
        try:
            return done < int(self.file.read_text())
        except FileNotFoundError:
            return True


def main() -> None:
    app = Path(__file__).resolve().parents[3] / "apps" / "biosam2"
    sys.path[0] = str(app)
    os.environ["MONAI_LABEL_RELOAD_APP_LIB"] = "false"  # or the server would import all of it a second time

    from lib import work
    from lib.sam.looks import Looking
    from lib.sam.tracker import Tracker

    pace = Pace(Path(os.environ[VARIABLE]))

    def paced(step: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_step(*args: Any) -> Any:
            current = work.current()
            while current and not current.is_cancelled and not pace.allows(current.progress[0]):
                time.sleep(LOOK_SECONDS)
            return step(*args)

        return wait_and_step

    Tracker.track = paced(Tracker.track)  # type: ignore[method-assign]
    Looking._look = paced(Looking._look)  # type: ignore[method-assign]
    runpy.run_module("monailabel.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
