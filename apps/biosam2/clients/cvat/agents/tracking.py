"""CVAT's tracking function for `cvat-cli function run-agent`: the server keeps the memory."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where biosam2_cvat is

import cvat_sdk.auto_annotation as cvataa
import PIL.Image
from biosam2_cvat import shapes
from biosam2_cvat.agents import said_by_cvat
from biosam2_cvat.pictures import Picture
from biosam2_cvat.server import Server


class Tracking:
    """Masks, polygons and rectangles followed from picture to picture."""

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=shapes.TRACKED)

    def __init__(self, server: Server, tolerance: float) -> None:
        self._server, self._tolerance = server, tolerance

    @said_by_cvat
    def preprocess_image(self, context: cvataa.TrackingFunctionContext, image: PIL.Image.Image) -> Picture:
        return Picture.from_image(image)

    @said_by_cvat
    def init_tracking_state(
        self,
        context: cvataa.TrackingFunctionShapeContext,
        pp_image: Picture,
        shape: cvataa.TrackableShape,
    ) -> str:
        """The server's name for the object's memory."""
        asked = shapes.tracked_object(shape.type, shape.points, pp_image.size)
        return self._server.start_tracks(pp_image, [asked])[0].track

    @said_by_cvat
    def track(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: Picture, state: str
    ) -> cvataa.TrackableShape | None:
        """None where the object is not found; it may be found again on a later picture."""
        step = self._server.step_tracks(pp_image, [state])[0]
        if step.mask is None:
            return None
        shape = shapes.shape(context.original_shape_type, step.mask, self._tolerance)
        return cvataa.TrackableShape(**shape) if shape else None


@said_by_cvat
def create(
    server: str = "", token: str = "", timeout: float = 0.0, tolerance: float = shapes.TOLERANCE
) -> Tracking:
    """What `-p server=str:http://localhost:8000` and the like set; else the environment, as `Server` says."""
    return Tracking(Server.from_environment(server, token, timeout), tolerance)
