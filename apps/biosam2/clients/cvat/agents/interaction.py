"""CVAT's interaction function for `cvat-cli function run-agent`: clicks and a box to a mask."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where biosam2_cvat is

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models as models
import PIL.Image
from biosam2_cvat import shapes
from biosam2_cvat.agents import said_by_cvat
from biosam2_cvat.pictures import Picture
from biosam2_cvat.prompts import read_prompts
from biosam2_cvat.server import Server

CONFIDENCE = cvataa.InteractionResultAttributes.CONFIDENCE


class Interaction:
    """Clicks and a box on a picture, each optional, to the mask of what was meant."""

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, server: Server) -> None:
        self._server = server

    @said_by_cvat
    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: PIL.Image.Image) -> Picture:
        """Sends the picture; the agent keeps what this returns for later clicks on it."""
        picture = Picture.from_image(image)
        self._server.send(picture)
        return picture

    @said_by_cvat
    def detect(
        self,
        context: cvataa.InteractionFunctionContext,
        pp_image: Picture,
        prompts: cvataa.InteractionPrompts,
    ) -> list[cvataa.InteractionResultShape]:
        asked = read_prompts(prompts.pos_points, prompts.neg_points, prompts.bounding_box)
        answer = self._server.mask(pp_image, asked)
        if not answer.mask.any():
            return []
        sure = models.AttributeValRequest(spec_id=int(CONFIDENCE), value=str(round(answer.score, 4)))
        return [
            cvataa.InteractionResultShape(
                type=shapes.MASK, points=shapes.run_mask(answer.mask), attributes=[sure]
            )
        ]


@said_by_cvat
def create(server: str = "", token: str = "", timeout: float = 0.0) -> Interaction:
    """What `-p server=str:http://localhost:8000` and the like set; else the environment, as `Server` says."""
    return Interaction(Server.from_environment(server, token, timeout))
