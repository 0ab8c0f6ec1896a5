"""`python -m biosam2_cvat`: prints the structures that are learned, for the detector's function.yaml."""

from __future__ import annotations

import json
import sys

from biosam2_cvat.errors import BioSAM2Error
from biosam2_cvat.server import Server
from biosam2_cvat.shapes import MASK


def main() -> int:
    try:
        names = Server.from_environment().labels()
    except BioSAM2Error as error:
        print(error, file=sys.stderr)
        return 1
    print(f"    spec: '{specification(names)}'")
    return 0


def specification(names: list[str]) -> str:
    """As CVAT reads it, and with what would end a YAML string in single quotes written twice."""
    labels = [{"id": at, "name": name, "type": MASK} for at, name in enumerate(names)]
    return json.dumps(labels).replace("'", "''")


if __name__ == "__main__":
    sys.exit(main())
