"""One structure over pictures that come one at a time: the same as through a video, no dearer with time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.prompts.prompts import Direction
from lib.sam import moving, network, turns
from lib.sam.checkpoints import Checkpoint
from lib.sam.memory import REACH
from lib.sam.model import Model
from lib.sam.moving import Following, tracker_of
from lib.sam.propagate import Target, propagate
from lib.sam.stream import Stream

from .conftest import SIZE

SHAPE = (80, 60)
COUNT = 19  # more than the network remembers


@pytest.fixture(scope="module")
def movie() -> list[np.ndarray]:
    """A disc that wanders over a textured ground: uint8 (A, B) each."""
    rng = np.random.default_rng(3)
    a, b = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = [
        60 + 120 * (np.hypot(a - 24 - 1.5 * k, b - 30) < 9) + rng.normal(0, 12, SHAPE) for k in range(COUNT)
    ]
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in frames]


@pytest.fixture(params=[True, False], ids=["ours", "sam2.1"])
def any_model(request, small_network) -> Model:
    """A network that sees prompts drawn, and one that does not, as those of SAM 2's authors."""
    architecture = replace(network.NANO, draws_prompts=request.param)
    return Model(small_network, Checkpoint("random", "0", architecture), "cpu", 1 << 28)


@pytest.fixture
def other_model(_one_thread) -> Model:
    """Other weights."""
    torch.manual_seed(8)
    net = network.build(network.NANO, SIZE)
    net.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10.0)
    return Model(net, Checkpoint("other", "1", network.NANO), "cpu", 1 << 28)


@pytest.fixture
def presence(small_network):
    """Sets what the network always says of whether the structure is there; put back afterwards."""
    layer = small_network.sam_mask_decoder.pred_obj_score_head.layers[-1]
    before = layer.bias.data.clone()
    yield layer.bias.data.fill_
    layer.bias.data.copy_(before)


@pytest.fixture
def given(prompts):
    """The ways of prompting the first picture."""
    disc = np.zeros(SHAPE, bool)
    disc[16:33, 22:39] = True
    return {
        "click": prompts([(24, 30)], [True]),
        "clicks": prompts([(24, 30), (50, 50), (27, 28)], [True, False, True]),
        "box": prompts(box=(15, 21, 33, 39)),
        "mask": prompts(mask=disc),
    }


@pytest.mark.parametrize(
    ("how", "use_zoom"), [("click", True), ("clicks", False), ("box", True), ("mask", False)]
)
def test_step_by_step_is_the_same_as_through_a_video(any_model, movie, given, how, use_zoom):
    target = Target({0: given[how]}, 0, COUNT - 1)
    whole = propagate(any_model, movie.__getitem__, COUNT, [target], Direction.FORWARD, use_zoom)
    stream = Stream(any_model, movie[0], given[how], use_zoom)
    areas = []
    for answer in whole:
        seen = stream.seen if answer.index == 0 else stream.step(any_model, movie[answer.index])
        assert np.array_equal(seen.mask, answer.mask), answer.index
        assert seen.score == answer.score
        areas.append(seen.mask.sum())
    assert len(areas) == COUNT and max(areas) > 0


def test_a_mask_is_shown_as_it_was_given(any_model, movie, given):
    seen = Stream(any_model, movie[0], given["mask"]).seen
    assert np.array_equal(seen.mask, given["mask"].mask) and seen.score == 1


def test_colour_is_followed(model, movie, given):
    frames = [np.repeat(frame[..., None], 3, -1) for frame in movie[:3]]
    stream = Stream(model, frames[0], given["box"])
    assert stream.step(model, frames[1]).mask.shape == SHAPE


def test_a_picture_of_another_size_is_our_error_and_changes_nothing(model, movie, given):
    stream, other = Stream(model, movie[0], given["box"]), Stream(model, movie[0], given["box"])
    with pytest.raises(ValueError, match="after those of"):
        stream.step(model, movie[1].T)
    assert np.array_equal(stream.step(model, movie[1]).mask, other.step(model, movie[1]).mask)


def test_the_number_of_pictures_costs_no_memory(any_model, movie, given):
    stream, sizes = Stream(any_model, movie[0], given["box"]), []
    for k in range(45):
        stream.step(any_model, movie[k % COUNT])
        sizes.append(stream.nbytes)
    assert len(stream._planes) == 2
    assert len(stream._tracker.memory.recent) <= REACH
    assert max(sizes[30:]) <= max(sizes[:30])
    assert sizes[-1] > 2 * movie[0].nbytes


def test_a_structure_that_is_not_there_has_no_mask_and_may_come_back(any_model, movie, given, presence):
    stream = Stream(any_model, movie[0], given["box"])
    assert stream.step(any_model, movie[1]).mask.any()
    presence(-10.0)
    for k in (2, 3, 4):
        lost = stream.step(any_model, movie[k])
        assert not lost.mask.any() and lost.score == 0
    presence(10.0)
    assert any(stream.step(any_model, movie[k]).mask.any() for k in (5, 6, 7))


# --- other weights -------------------------------------------------------------------------------------


def test_other_weights_go_on_from_what_was_shown(model, other_model, movie, given):
    stream = Stream(model, movie[0], given["box"], use_zoom=False)
    masks = [stream.seen.mask, stream.step(model, movie[1]).mask, stream.step(model, movie[2]).mask]
    found = stream.step(other_model, movie[3])
    # as if a person had given both masks to these weights alone
    tracker = tracker_of(
        other_model, movie.__getitem__, 1 << 30, {0: replace(given["mask"], mask=masks[0])}, False
    )
    list(tracker.start(lambda: None))
    tracker.resume(2, masks[2])
    expected, score = tracker.track(3, backwards=False)
    assert np.array_equal(found.mask, expected) and found.score == score
    assert all(plane.dtype == np.uint8 for plane in stream._planes.values()) and len(stream._planes) == 2


def test_the_weights_before_are_let_go(model, other_model, movie, given):
    stream = Stream(model, movie[0], given["box"])
    stream.step(model, movie[1])
    stream.step(other_model, movie[2])
    assert stream._tracker.model is other_model
    encoded = model.encoded
    stream.step(other_model, movie[3])
    assert model.encoded == encoded


def test_other_weights_after_the_first_picture(model, other_model, movie, given):
    stream = Stream(model, movie[0], given["mask"])
    straight = Stream(other_model, movie[0], given["mask"])
    assert np.array_equal(stream.step(other_model, movie[1]).mask, straight.step(other_model, movie[1]).mask)


def test_other_weights_while_it_is_lost(model, other_model, movie, given, presence, monkeypatch):
    stream = Stream(model, movie[0], given["mask"], use_zoom=False)
    presence(-10.0)
    monkeypatch.setattr(moving, "FOUND_ALIKE", 10.0)  # weights at random find it anywhere
    assert not stream.step(model, movie[1]).mask.any()
    assert stream.step(other_model, movie[2]).mask.shape == SHAPE
    assert set(stream._tracker.memory.conditioning) == {0}


def test_a_step_that_fails_can_be_done_again(any_model, movie, given, monkeypatch):
    stream = Stream(any_model, movie[0], given["box"])
    stream.step(any_model, movie[1])
    kind = type(stream._tracker)
    real = kind.track
    monkeypatch.setattr(kind, "track", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        stream.step(any_model, movie[2])
    monkeypatch.setattr(kind, "track", real)
    assert stream.step(any_model, movie[2]).mask.any()
    assert sorted(stream._planes) == [0, 2]


def test_clicks_of_others_go_first(model, movie, given, monkeypatch):
    stream, seen = Stream(model, movie[0], given["box"]), []
    real = Following.track
    monkeypatch.setattr(Following, "track", lambda *a, **k: seen.append(turns._long.get()) or real(*a, **k))
    stream.step(model, movie[1])
    assert seen == [True] and turns._long.get() is False
