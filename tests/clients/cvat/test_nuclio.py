"""The nuclio functions under the real `nuclio-sdk`, asked as CVAT asks them, with the real server behind."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import requests
from biosam2_cvat import shapes
from clients.cvat.conftest import LABEL, call, deployed, model_mask, overlap
from PIL import Image
from skimage.draw import polygon2mask

pytestmark = pytest.mark.usefixtures("clean_environment")
CLOSED = "http://127.0.0.1:9"  # nothing listens there


def signed(states: list) -> list:
    """What CVAT gives back next time: it keeps each state as a signed string of JSON."""
    return [json.loads(json.dumps(state, separators=(",", ":"))) for state in states]


def begin(nuclio, frame, *given):
    answer = call(nuclio, "tracker", frame, shapes=list(given), states=[])
    assert answer.status_code == 200, answer.text
    return signed(answer.json()["states"])


def step(nuclio, frame, states):
    """As a current CVAT continues: no shapes, but as many nulls."""
    answer = call(nuclio, "tracker", frame, shapes=[None] * len(states), states=states)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return content["shapes"], signed(content["states"])


def drawn(movie, shape) -> np.ndarray:
    """A shape of CVAT's as a mask, bool (H, W)."""
    points, size = shape["points"], movie.size[::-1]
    if shape["type"] == "mask":
        return shapes.from_run_mask(points, movie.size)
    if shape["type"] == "rectangle":
        x0, y0, x1, y1 = points
        points = [x0, y0, x1, y0, x1, y1, x0, y1]
    return polygon2mask(size, np.reshape(points, (-1, 2))[:, ::-1] - 0.5)


def boxed(mask: np.ndarray) -> np.ndarray:
    """The box around a mask, as a mask."""
    x0, y0, x1, y1 = map(int, shapes.rectangle(mask))
    filled = np.zeros_like(mask)
    filled[y0:y1, x0:x1] = True
    return filled


# functions are found and described


def test_cvat_finds_the_three_functions_and_what_they_can_do(nuclio):
    found = requests.get(f"{nuclio.address}/api/functions", timeout=30).json()
    kinds = {name: one["metadata"]["annotations"]["type"] for name, one in found.items()}
    assert kinds == {f"biosam2-{kind}": kind for kind in ("detector", "interactor", "tracker")}
    notes = {one["metadata"]["annotations"]["type"]: one["metadata"]["annotations"] for one in found.values()}
    assert notes["tracker"]["supported_shape_types"] == "mask,polygon,rectangle"
    assert json.loads(notes["detector"]["spec"])[0]["type"] == "mask"
    assert all(isinstance(note, str) for one in notes.values() for note in one.values())


# interactor


def test_a_click_gives_cvat_the_mask_that_the_model_made(nuclio, biosam2, movie):
    answer = call(
        nuclio, "interactor", movie.frames[0], pos_points=[[45.5, 62.5]], neg_points=[], obj_bbox=None
    )
    mask = np.array(answer.json()["mask"])
    assert mask.shape == (120, 160) and set(np.unique(mask)) == {0, 1}
    assert np.array_equal(mask == 1, model_mask(biosam2, movie.frames[0], foreground=[[45, 62]]))
    assert overlap(mask == 1, movie.left[0]) > 0.9


def test_a_box_gives_cvat_the_mask_that_the_model_made(nuclio, biosam2, movie):
    corners = [[105, 61], [135, 99]]
    answer = call(nuclio, "interactor", movie.frames[0], pos_points=[], neg_points=[], obj_bbox=corners)
    mask = np.array(answer.json()["mask"]) == 1
    assert np.array_equal(mask, model_mask(biosam2, movie.frames[0], box=[104.5, 60.5, 134.5, 98.5]))
    assert overlap(mask, movie.right[0]) > 0.9


def test_clicks_beside_it_and_a_box_are_used_together(nuclio, biosam2, movie):
    asked = {"pos_points": [[45.5, 62.5]], "neg_points": [[90.5, 20.5]], "obj_bbox": [[20, 40], [70, 80]]}
    answer = call(nuclio, "interactor", movie.frames[0], **asked)
    prompts = {"foreground": [[45, 62]], "background": [[90, 20]], "box": [19.5, 39.5, 69.5, 79.5]}
    expected = model_mask(biosam2, movie.frames[0], **prompts)
    assert np.array_equal(np.array(answer.json()["mask"]) == 1, expected)


def test_further_clicks_on_a_picture_encode_nothing_again(nuclio, biosam2, movie):
    frame, clicks = movie.frames[3], [[54, 62], [60, 66]]
    for count in (1, 2):
        here = [[x + 0.5, y + 0.5] for x, y in clicks[:count]]
        assert call(nuclio, "interactor", frame, pos_points=here, neg_points=[]).ok
    sent = requests.post(f"{biosam2}/biosam2/pictures", files={"image": frame}, timeout=60)
    asked = {"foreground": clicks, "background": [[70, 80]]}
    path = f"{biosam2}/biosam2/pictures/{sent.json()['picture']}/mask"
    assert requests.post(path, json=asked, timeout=60).json()["cached"] is True


def test_the_outline_that_comes_with_a_mask_is_the_mask(nuclio, movie):
    answer = call(nuclio, "interactor", movie.frames[0], pos_points=[[45, 62]], neg_points=[], obj_bbox=[])
    content = answer.json()
    outline = {"type": "polygon", "points": np.ravel(content["points"])}
    assert overlap(drawn(movie, outline), np.array(content["mask"]) == 1) > 0.98


@pytest.mark.parametrize("format", ["TIFF", "GIF"])
def test_a_picture_of_a_kind_that_only_cvat_reads_is_sent_as_png(nuclio, biosam2, movie, format):
    with Image.open(io.BytesIO(movie.frames[0])) as frame:
        grey = frame.convert("L")
    stored, png = io.BytesIO(), io.BytesIO()
    grey.save(stored, format)
    grey.convert("RGB" if format == "GIF" else "L").save(png, "PNG")
    answer = call(nuclio, "interactor", stored.getvalue(), pos_points=[[45.5, 62.5]], neg_points=[])
    assert answer.status_code == 200, answer.text
    expected = model_mask(biosam2, png.getvalue(), foreground=[[45, 62]])
    assert np.array_equal(np.array(answer.json()["mask"]) == 1, expected)


# detector


def test_a_detector_finds_what_was_labelled_as_a_mask_and_its_outline(nuclio, movie):
    answer = call(nuclio, "detector", movie.frames[1])
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()
    assert (found["label"], found["type"]) == (LABEL, "mask")
    assert 0 <= float(found["confidence"]) <= 1
    *pixels, x0, y0, x1, y1 = found["mask"]
    mask = np.zeros((120, 160), bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = np.reshape(pixels, (y1 - y0 + 1, x1 - x0 + 1))
    assert overlap(mask, movie.left[1]) > 0.8
    assert overlap(drawn(movie, {"type": "polygon", "points": found["points"]}), mask) > 0.9


def test_a_detector_can_answer_with_polygons(biosam2, movie):
    gateway = deployed(BIOSAM2_SERVER=biosam2, BIOSAM2_SHAPES="polygon")
    found = call(gateway, "detector", movie.frames[1]).json()
    assert {(one["label"], one["type"]) for one in found} == {(LABEL, "polygon")}
    assert overlap(np.any([drawn(movie, one) for one in found], axis=0), movie.left[1]) > 0.8


def test_a_threshold_that_nothing_reaches_leaves_nothing(nuclio, movie):
    assert call(nuclio, "detector", movie.frames[1], threshold=1.0).json() == []


# tracker


def test_masks_polygons_and_boxes_are_followed_in_their_order(nuclio, movie):
    box = {"type": "rectangle", "points": shapes.rectangle(movie.right[0])}
    begun = [box, shapes.shape("mask", movie.left[0]), shapes.shape("polygon", movie.right[0])]
    states = begin(nuclio, movie.frames[0], *begun)
    truths = [[boxed(mask) for mask in movie.right], movie.left, movie.right]
    for number in range(1, len(movie.frames)):
        found, states = step(nuclio, movie.frames[number], states)
        assert [one["type"] for one in found] == ["rectangle", "mask", "polygon"]
        for one, truth in zip(found, truths, strict=True):
            assert overlap(drawn(movie, one), truth[number]) > 0.8


def test_two_peoples_trackers_do_not_mix(nuclio, movie):
    mine = begin(nuclio, movie.frames[0], shapes.shape("mask", movie.left[0]))
    theirs = begin(nuclio, movie.frames[0], shapes.shape("mask", movie.right[0]))
    for number in (1, 2):
        (here,), mine = step(nuclio, movie.frames[number], mine)
        (there,), theirs = step(nuclio, movie.frames[number], theirs)
        assert overlap(drawn(movie, here), movie.left[number]) > 0.8
        assert overlap(drawn(movie, there), movie.right[number]) > 0.8


def test_a_lost_mask_is_null_and_the_others_go_on(nuclio, movie):
    begun = [shapes.shape("mask", movie.left[0]), shapes.shape("rectangle", movie.right[0])]
    _, states = step(nuclio, movie.frames[1], begin(nuclio, movie.frames[0], *begun))
    (lost, stays), states = step(nuclio, movie.empty, states)
    assert lost is None
    assert overlap(drawn(movie, stays), boxed(movie.right[1])) > 0.8  # where it was last seen
    (again, _), _ = step(nuclio, movie.frames[2], states)
    assert overlap(drawn(movie, again), movie.left[2]) > 0.8


def test_a_lost_box_is_null_where_that_is_asked_for(biosam2, movie):
    gateway = deployed(BIOSAM2_SERVER=biosam2, BIOSAM2_LOST="none")
    states = begin(gateway, movie.frames[0], shapes.shape("rectangle", movie.left[0]))
    assert step(gateway, movie.empty, states)[0] == [None]


def test_an_older_cvat_gets_boxes_as_it_sends_them(nuclio, movie):
    box = shapes.rectangle(movie.left[0])
    states = begin(nuclio, movie.frames[0], box)
    answer = call(nuclio, "tracker", movie.frames[1], shapes=[box], states=states)
    (points,) = answer.json()["shapes"]
    assert overlap(drawn(movie, {"type": "rectangle", "points": points}), boxed(movie.left[1])) > 0.8


def test_an_object_that_is_begun_beside_one_that_goes_on(nuclio, movie):
    states = begin(nuclio, movie.frames[0], shapes.shape("mask", movie.left[0]))
    new = shapes.shape("mask", movie.right[1])
    answer = call(nuclio, "tracker", movie.frames[1], shapes=[None, new], states=[*states, None]).json()
    assert overlap(drawn(movie, answer["shapes"][0]), movie.left[1]) > 0.8
    found, _ = step(nuclio, movie.frames[2], signed(answer["states"]))
    assert overlap(drawn(movie, found[1]), movie.right[2]) > 0.8


@pytest.mark.parametrize("payload", [{}, {"shapes": [], "states": []}])
def test_nothing_to_follow_is_no_error(nuclio, movie, payload):
    answer = call(nuclio, "tracker", movie.frames[0], **payload)
    assert (answer.status_code, answer.json()) == (200, {"shapes": [], "states": []})


# what goes wrong


def test_an_expired_state_is_said_and_the_others_have_not_moved_on(nuclio, biosam2, movie):
    states = begin(
        nuclio, movie.frames[0], *(shapes.shape("mask", one[0]) for one in (movie.left, movie.right))
    )
    requests.delete(f"{biosam2}/biosam2/tracks/{states[1]['track']}", timeout=30).raise_for_status()
    answer = call(nuclio, "tracker", movie.frames[1], shapes=[None, None], states=states)
    assert answer.status_code == 410
    assert states[1]["track"] in answer.json()["message"]
    (found,), _ = step(nuclio, movie.frames[1], states[:1])
    assert overlap(drawn(movie, found), movie.left[1]) > 0.8


@pytest.mark.parametrize("state", [{}, {"track": 5}, "text", {"track": "x", "type": "cuboid"}])
def test_a_state_of_another_tracker_is_refused(nuclio, movie, state):
    answer = call(nuclio, "tracker", movie.frames[1], shapes=[None], states=[state])
    assert (answer.status_code, "not one of this tracker" in answer.json()["message"]) == (400, True)


@pytest.mark.parametrize("kind", ["detector", "interactor", "tracker"])
def test_an_unreachable_server_is_said_by_name(movie, kind):
    gateway = deployed(BIOSAM2_SERVER=CLOSED)
    asked = {"pos_points": [[9, 9]], "neg_points": [], "shapes": [[1, 1, 20, 20]], "states": []}
    answer = call(gateway, kind, movie.frames[0], **asked)
    assert answer.status_code == 503
    assert answer.json() == {"message": f"the BioSAM-2 server at {CLOSED} cannot be reached."}


@pytest.mark.parametrize("kind", ["detector", "interactor", "tracker"])
def test_a_broken_image_is_said(nuclio, movie, kind):
    asked = {"pos_points": [[9, 9]], "neg_points": [], "shapes": [[1, 1, 20, 20]], "states": []}
    answer = call(nuclio, kind, movie.frames[0][:20], **asked)
    assert answer.status_code == 400
    assert "is not a picture that can be read" in answer.json()["message"]


def test_a_picture_that_ends_early_is_refused_by_the_server_in_its_words(nuclio, movie):
    whole = movie.frames[0]
    answer = call(nuclio, "interactor", whole[: len(whole) // 2], pos_points=[[9, 9]], neg_points=[])
    assert 400 <= answer.status_code < 500
    assert answer.json()["message"].endswith(".")


def test_a_click_outside_the_picture_is_said_with_the_point(nuclio, movie):
    answer = call(nuclio, "interactor", movie.frames[0], pos_points=[[400.5, 10.5]], neg_points=[])
    assert answer.status_code == 400
    assert "400" in answer.json()["message"]


@pytest.mark.parametrize("body", [b"no json", b"[1, 2]"])
def test_a_request_that_is_none_is_said(nuclio, body):
    answer = nuclio.functions["biosam2-interactor"].call(body, "text/plain")
    assert answer["status_code"] == 400
    assert "the request is" in json.loads(answer["body"])["message"]


def test_a_function_with_a_wrong_setting_does_not_start(biosam2):
    with pytest.raises(Exception, match='BIOSAM2_SHAPES "circle" is not one of mask, polygon'):
        deployed(BIOSAM2_SERVER=biosam2, BIOSAM2_SHAPES="circle")
