"""The same app under MONAI Label's server as it is: our server room puts nothing in front of its routes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from monailabel.interfaces.app import MONAILabelApp

# both files are called main, which is what MONAI Label looks for
_spec = importlib.util.spec_from_file_location(
    "biosam2_main", Path(__file__).resolve().parents[3] / "apps" / "biosam2" / "main.py"
)
assert _spec is not None and _spec.loader is not None
_ours = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_ours)


# MONAI Label looks for a class that names its own among the bases
class StockApp(_ours.BioSAM2App, MONAILabelApp):
    """BioSAM2App without `lib.server.install`."""

    def on_init_complete(self) -> None:
        MONAILabelApp.on_init_complete(self)
