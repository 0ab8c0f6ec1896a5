"""CVAT's agents: the real `cvat-cli` 2.80 with our functions, between a double of CVAT and our server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
import pytest
import requests
from biosam2_cvat import shapes
from biosam2_cvat.server import Server
from clients.cvat.conftest import LABEL, Movie, agent_file, model_mask, overlap
from clients.cvat.double import TOKEN, Asked, Cvat, Task
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.masks import decode_mask
from skimage.draw import polygon2mask

CLOSED = "http://127.0.0.1:9"  # nothing listens there
TASK = 7


class Cli:
    """`cvat-cli`, signed in to the double, with one of our functions."""

    def __init__(self, cvat: Cvat, server: str, home: Path) -> None:
        self.cvat, self._server = cvat, server
        self._environment = {
            **os.environ,
            "CVAT_ACCESS_TOKEN": TOKEN,
            "HOME": str(home),
            "BIOSAM2_SERVER": "",
        }

    def run(self, *words: str, kind: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "cvat_cli", "--server-host", self.cvat.address]
        function = ["--function-file", str(agent_file(kind)), "-p", f"server=str:{self._server}"]
        return subprocess.run(
            [*program, *words, *function],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=300,
        )

    def create(self, kind: str) -> int:
        ran = self.run("function", "create-native", f"BioSAM-2 {kind}", kind=kind)
        assert ran.returncode == 0, ran.stderr
        return int(ran.stdout)

    def run_agent(self, function: int, kind: str) -> None:
        """Until there is nothing left to do."""
        ran = self.run("function", "run-agent", str(function), "--burst", kind=kind)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def cvat(movie: Movie) -> Iterator[Cvat]:
    """A CVAT with one task: the frames, an empty frame, and a frame that cannot be read."""
    frames = [*movie.frames, movie.empty, movie.frames[0][: len(movie.frames[0]) // 2]]
    with Cvat() as running:
        running.tasks[TASK] = Task(frames, movie.size, {"vessel": 31, LABEL: 32})
        running.tasks[TASK + 1] = Task(frames[:3], movie.size, {LABEL: 41})
        yield running


@pytest.fixture(scope="module")
def cli(cvat: Cvat, biosam2: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(cvat, biosam2, tmp_path_factory.mktemp("home"))


def done(asked: Asked) -> dict[str, Any]:
    assert asked.error is None and asked.result is not None, asked.error
    return asked.result


def bitmap(movie: Movie, points: list[float]) -> np.ndarray:
    """A mask that CVAT got, read by CVAT's own SDK."""
    return decode_mask(points, image_width=movie.size[0], image_height=movie.size[1])


def drawn(movie: Movie, points: list[float]) -> np.ndarray:
    return polygon2mask(movie.size[::-1], np.reshape(points, (-1, 2))[:, ::-1] - 0.5)


# interaction


@pytest.fixture(scope="module")
def interactions(cli: Cli, movie: Movie) -> dict[str, Asked]:
    """What a person asked of an agent's interaction function, all in one run of the agent."""
    function = cli.create("interaction")
    nothing: dict[str, Any] = {"pos_points": [], "neg_points": [], "obj_bbox": []}

    def ask(frame: int, **prompts: Any) -> Asked:
        return cli.cvat.ask(
            function, {"type": "interact", "task": TASK, "frame": frame, **nothing, **prompts}
        )

    last = len(movie.frames)
    asked = {
        "point": ask(0, pos_points=[[45.5, 62.5]]),
        "box": ask(1, obj_bbox=[[105, 58], [135, 96]]),
        "points": ask(0, pos_points=[[45.5, 62.5]], neg_points=[[90.5, 20.5]]),
        "nothing": ask(0),
        "unreadable": ask(last + 1, pos_points=[[45.5, 62.5]]),
    }
    cli.run_agent(function, "interaction")
    return asked


def test_cvat_is_told_that_clicks_and_a_box_are_each_optional(cli, interactions):
    (function,) = [one for one in cli.cvat.functions.values() if one["kind"] == "interactor"]
    assert (function["min_pos_points"], function["min_neg_points"]) == (0, 0)
    assert function["startswith_box_optional"] is True
    assert (function["provider"], function["name"]) == ("native", "BioSAM-2 interaction")


@pytest.mark.parametrize(
    ("name", "frame", "prompts"),
    [
        ("point", 0, {"foreground": [[45, 62]]}),
        ("box", 1, {"box": [104.5, 57.5, 134.5, 95.5]}),
        ("points", 0, {"foreground": [[45, 62]], "background": [[90, 20]]}),
    ],
)
def test_cvat_gets_the_mask_that_the_model_made(interactions, biosam2, movie, name, frame, prompts):
    (shape,) = done(interactions[name])["shapes"]
    assert shape["type"] == "mask"
    mask = bitmap(movie, shape["points"])
    assert np.array_equal(mask, model_mask(biosam2, movie.frames[frame], **prompts))
    assert overlap(mask, (movie.right if name == "box" else movie.left)[frame]) > 0.9
    (confidence,) = shape["attributes"]
    assert confidence["spec_id"] == 0 and 0 <= float(confidence["value"]) <= 1


def test_a_request_without_a_click_or_a_box_is_answered_with_a_sentence(interactions):
    assert interactions["nothing"].error == (
        "Underlying function returned incorrect result: "
        "neither a click on the object nor a box around it was given."
    )


def test_a_frame_that_cannot_be_read_is_said_and_the_agent_goes_on(interactions):
    assert interactions["unreadable"].error is not None
    assert interactions["unreadable"].result is None


# tracking


@pytest.fixture(scope="module")
def tracking(cli: Cli, movie: Movie) -> dict[str, list[Asked]]:
    """Three shapes begun on the first frame and followed over the others, an empty one among them."""
    function = cli.create("tracking")
    begun = [
        {"type": "rectangle", "points": shapes.rectangle(movie.right[0])},
        shapes.shape("mask", movie.left[0]),
        shapes.shape("polygon", movie.right[0]),
    ]
    steps: list[Asked] = []
    frames = [1, len(movie.frames), 2, 3]

    def follow(result: dict[str, Any]) -> None:
        if frames:
            params = {"type": "track", "task": TASK, "frame": frames.pop(0), "states": result["states"]}
            steps.append(cli.cvat.ask(function, params, then=follow))

    first = {"type": "init_tracking", "task": TASK, "frame": 0, "shapes": begun}
    begin = cli.cvat.ask(function, first, then=follow)
    unknown = cli.cvat.ask(function, {"type": "track", "task": TASK, "frame": 1, "states": ["gone"]})
    cli.run_agent(function, "tracking")
    return {"begin": [begin], "steps": steps, "unknown": [unknown]}


def test_cvat_is_told_which_shapes_can_be_tracked(cli, tracking):
    (function,) = [one for one in cli.cvat.functions.values() if one["kind"] == "tracker"]
    assert function["supported_shape_types"] == ["mask", "polygon", "rectangle"]


def test_an_agent_follows_masks_polygons_and_boxes_in_their_order(tracking, movie):
    assert len(done(tracking["begin"][0])["states"]) == 3
    first, _, *others = tracking["steps"]
    for frame, asked in zip((1, 2, 3), (first, *others), strict=True):
        box, mask, polygon = done(asked)["shapes"]
        assert [one["type"] for one in (box, mask, polygon)] == ["rectangle", "mask", "polygon"]
        assert np.allclose(box["points"], shapes.rectangle(movie.right[frame]), atol=3)
        assert overlap(bitmap(movie, mask["points"]), movie.left[frame]) > 0.8
        assert overlap(drawn(movie, polygon["points"]), movie.right[frame]) > 0.8


def test_what_is_lost_is_null_and_is_found_again(tracking):
    lost, again = tracking["steps"][1:3]
    assert done(lost)["shapes"] == [None, None, None]
    assert None not in done(again)["shapes"]


def test_a_state_that_the_agent_no_longer_has_is_said(tracking):
    assert "'gone' not found - possibly expired" in tracking["unknown"][0].error


def test_a_state_that_the_server_no_longer_has_is_said(biosam2, movie):
    """The agent's own states live for eight hours, the server's for less."""
    function = FunctionLoader(None, agent_file("tracking"), {"server": biosam2}).load()
    size, picture = movie.size[::-1], PIL.Image.fromarray(np.zeros(movie.size[::-1], np.uint8))
    state = function.init_tracking_state(
        None,
        function.preprocess_image(None, picture),
        cvataa.TrackableShape(type="rectangle", points=[9, 9, 40, 40]),
    )
    assert picture.size == size[::-1]
    requests.delete(f"{biosam2}/biosam2/tracks/{state}", timeout=30).raise_for_status()
    with pytest.raises(cvataa.BadFunctionError, match=state):
        function.track(None, function.preprocess_image(None, picture), state)


# detection


def test_an_agent_finds_what_was_labelled_on_a_whole_task_and_on_a_frame(cli, movie):
    function = cli.create("detection")
    assert cli.cvat.functions[function]["labels_v2"] == [{"name": LABEL, "attributes": [], "type": "any"}]
    mapping = {LABEL: {"name": LABEL, "attributes": {}}}
    shared = {"task": TASK + 1, "mapping": mapping, "threshold": None}
    whole = cli.cvat.ask(
        function, {**shared, "type": "annotate_task", "conv_mask_to_poly": False}, category="batch"
    )
    frame = cli.cvat.ask(
        function, {**shared, "type": "annotate_frame", "frame": 1, "conv_mask_to_poly": True}
    )
    cli.run_agent(function, "detection")
    found = done(whole)["annotations"]["shapes"]
    assert [(one["frame"], one["type"], one["label_id"]) for one in found] == [
        (at, "mask", 41) for at in range(3)
    ]
    for one in found:
        assert overlap(bitmap(movie, one["points"]), movie.left[one["frame"]]) > 0.8
        assert 0 <= one["score"] <= 1
    outlines = done(frame)["annotations"]["shapes"]
    assert {(one["frame"], one["type"]) for one in outlines} == {(1, "polygon")}
    assert overlap(np.any([drawn(movie, one["points"]) for one in outlines], axis=0), movie.left[1]) > 0.8


def test_auto_annotate_works_without_an_agent_as_on_community(cli, movie):
    ran = cli.run("task", "auto-annotate", str(TASK + 1), kind="detection")
    assert ran.returncode == 0, ran.stderr
    (uploaded,) = cli.cvat.tasks[TASK + 1].annotations
    assert [one["source"] for one in uploaded["shapes"]] == ["auto"] * 3
    for one in uploaded["shapes"]:
        assert overlap(bitmap(movie, one["points"]), movie.left[one["frame"]]) > 0.8


# a server that does not answer


def test_an_unreachable_server_is_said_to_who_asked(movie):
    function = FunctionLoader(None, agent_file("interaction"), {"server": CLOSED}).load()
    picture = PIL.Image.fromarray(movie.left[0])
    with pytest.raises(cvataa.BadFunctionError, match=f"the BioSAM-2 server at {CLOSED} cannot be reached."):
        function.preprocess_image(None, picture)


def test_a_detector_without_a_structure_is_not_made(biosam2, monkeypatch):
    monkeypatch.setattr(Server, "_request", lambda *_, **__: {"labels": []})
    with pytest.raises(cvataa.BadFunctionError, match="has not been shown a label yet."):
        FunctionLoader(None, agent_file("detection"), {"server": biosam2}).load()


def test_a_detector_of_an_unreachable_server_is_not_made():
    with pytest.raises(cvataa.BadFunctionError, match=f"the BioSAM-2 server at {CLOSED} cannot be reached."):
        FunctionLoader(None, agent_file("detection"), {"server": CLOSED}).load()
