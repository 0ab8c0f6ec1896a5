"""CVAT's detection function, for `cvat-cli function run-agent` and `cvat-cli task auto-annotate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where biosam2_cvat is

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models as models
import PIL.Image
from biosam2_cvat import shapes
from biosam2_cvat.agents import said_by_cvat
from biosam2_cvat.pictures import Picture
from biosam2_cvat.server import Found, Server


class Detection:
    """The structures on a picture that the server has learned from labels.

    Parameters
    ----------
    server : Server
    labels : sequence of str
        What it may find.
    tolerance : float
        Of polygons, as in `shapes.polygons`.
    """

    def __init__(self, server: Server, labels: Sequence[str], tolerance: float) -> None:
        self._server, self._tolerance = server, tolerance
        self._ids = {name: at for at, name in enumerate(labels)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, at) for name, at in self._ids.items()]
        )

    @said_by_cvat
    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[models.LabeledShapeRequest]:
        found = self._server.detect(Picture.from_image(image), list(self._ids), context.conf_threshold)
        known = (one for one in found if one.label in self._ids and one.mask.any())
        return [shape for one in known for shape in self._shapes(one, context.conv_mask_to_poly)]

    def _shapes(self, found: Found, as_polygons: bool) -> list[models.LabeledShapeRequest]:
        """One mask, or a polygon for each of its pieces."""
        label, score = self._ids[found.label], min(max(found.score, 0.0), 1.0)
        if as_polygons:
            outlines = shapes.polygons(found.mask, self._tolerance)
            return [cvataa.polygon(label, outline, score=score) for outline in outlines]
        points = [float(number) for number in shapes.run_mask(found.mask)]
        return [cvataa.mask(label, points, score=score)]


@said_by_cvat
def create(
    server: str = "",
    token: str = "",
    timeout: float = 0.0,
    labels: str = "",
    tolerance: float = shapes.TOLERANCE,
) -> Detection:
    """What `-p server=str:http://localhost:8000` and the like set; else the environment, as `Server` says.

    `labels`, names with commas between, are those the server has learned if they are not given.
    """
    asked = Server.from_environment(server, token, timeout)
    names = [name.strip() for name in labels.split(",") if name.strip()] or asked.labels()
    return Detection(asked, names, tolerance)
