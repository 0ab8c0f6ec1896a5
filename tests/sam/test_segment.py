"""Prompts on one slice: coordinates there and back, and what a click costs."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.prompts.prompts import SlicePrompts
from lib.sam import segment as module
from lib.sam import zoom
from lib.sam.model import square
from lib.sam.network import NANO
from lib.sam.segment import (
    Decoded,
    _surest,
    connected,
    decode_in_view,
    first_view,
    picture,
    segment,
    to_logits,
    to_points,
    to_slice,
)
from lib.sam.zoom import View

SHAPE = (90, 140)
INPUT = 256
VIEWS = [zoom.whole(SHAPE), View(8, 64, 48, 48), View(0, 44, 64, 96), View(42, 92, 48, 48)]


def _plane(*blocks, shape=SHAPE, side=5) -> np.ndarray:
    """A dark slice with bright blocks centred on voxels (a, b)."""
    plane = np.zeros(shape, np.uint8)
    for a, b in blocks:
        plane[a - side // 2 : a + side // 2 + 1, b - side // 2 : b + side // 2 + 1] = 255
    return plane


def _centroid(image: torch.Tensor) -> np.ndarray:
    """(x, y) of the mean of an image's brightness over its ground."""
    weight = (image - image.min()).numpy().astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


# --- coordinates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_click_on_a_voxel_falls_on_its_pixels_in_the_networks_picture(prompts, view):
    a, b = view.a0 + 10, view.b0 + 31
    seen = square(picture(_plane((a, b)), view), INPUT)[0, 0]
    points, labels = to_points(prompts([(a, b)], [True]), view, INPUT)
    np.testing.assert_allclose(points[0], _centroid(seen), atol=0.1)
    assert labels.tolist() == [1]


def test_the_first_axis_of_a_slice_runs_to_the_right_and_the_second_down():
    shown = picture(_plane((20, 100)), zoom.whole(SHAPE))
    assert shown.shape == (140, 90)
    assert shown[100, 20] == 255


def test_a_picture_of_a_colour_slice_keeps_its_channels():
    plane = np.stack([_plane((20, 100)), _plane((30, 100)), _plane((40, 100))], -1)
    shown = picture(plane, zoom.whole(SHAPE))
    assert shown.shape == (140, 90, 3)
    assert [shown[100, x].tolist() for x in (20, 30, 40)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_a_box_reaches_to_the_outer_borders_of_its_voxels(prompts):
    view = View(10, 20, 64, 64)
    points, labels = to_points(prompts(box=(10.0, 20.0, 73.0, 83.0)), view, INPUT)
    np.testing.assert_allclose(points, [[-0.5, -0.5], [INPUT - 0.5, INPUT - 0.5]])
    assert labels.tolist() == [2, 3]


def test_a_box_comes_before_the_clicks_and_background_clicks_are_told_apart(prompts):
    _, labels = to_points(
        prompts([(30, 30), (40, 40)], [True, False], (20.0, 20.0, 50.0, 50.0)), View(0, 0, 64, 64), INPUT
    )
    assert labels.tolist() == [2, 3, 1, 0]


def test_clicks_outside_the_view_are_left_out_and_a_box_is_cut_to_it(prompts):
    view = View(10, 20, 64, 64)
    clicks = [(9, 30), (10, 20), (73.5, 83.5), (74, 30), (30, 84)]
    points, labels = to_points(prompts(clicks, [True] * 5, (0.0, 0.0, 89.0, 139.0)), view, INPUT)
    assert labels.tolist() == [2, 3, 1, 1]
    assert points.min() >= -0.5 and points.max() <= INPUT - 0.5


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_mask_comes_back_on_the_same_voxels(view):
    mask = _plane((view.a0 + 12, view.b0 + 20), (view.a0 + 40, view.b0 + 44), side=7) > 0
    seen = np.zeros(SHAPE, bool)
    seen[view.window] = mask[view.window]
    logits = to_logits(mask, view, 1024)
    assert logits.shape == (1, 1, 256, 256)
    np.testing.assert_array_equal(to_slice(logits, view, SHAPE) > 0, seen)


def test_nothing_is_found_outside_the_view():
    out = to_slice(torch.full((1, 1, 64, 64), 10.0), View(8, 64, 48, 48), SHAPE)
    assert (out[8:56, 64:112] > 0).all()
    assert (out > 0).sum() == 48 * 48


# --- what is looked at ---------------------------------------------------------------------------------


@pytest.fixture
def decoder(monkeypatch):
    """A decoder that finds what is bright in its view, and notes how it was asked."""
    asked: list[dict] = []

    def decode(model, embedding, points, labels, mask_logits) -> Decoded:
        asked.append({"points": points, "labels": labels, "mask": mask_logits})
        return Decoded(seen[embedding.key], 0.9)

    seen: dict[str, torch.Tensor] = {}
    real, real_embed = module.picture, module.embed_in_ways

    def note(plane, view):
        shown = real(plane, view)
        if plane.dtype == np.uint8:
            note.last = torch.from_numpy((shown if shown.ndim == 2 else shown[..., 0]) > 127)
        return shown

    monkeypatch.setattr(module, "picture", note)
    monkeypatch.setattr(module, "_decode", decode)

    def embed_and_note(model, pixels):
        embedding, hit = real_embed(model, pixels)
        grid = torch.nn.functional.interpolate(note.last.float()[None, None], (256, 256), mode="area")
        seen[embedding.key] = grid * 20 - 10
        return embedding, hit

    monkeypatch.setattr(module, "embed_in_ways", embed_and_note)
    return asked


def test_the_mask_of_a_zoomed_look_lies_where_the_structure_is(model, prompts, decoder):
    plane = _plane((300, 100), shape=(400, 330), side=21)
    found = segment(model, plane, prompts([(300, 100)], [True]))
    assert found.view.side < 330
    np.testing.assert_array_equal(found.mask, plane > 0)
    assert found.score == 0.9


def test_a_first_click_is_looked_at_from_several_distances_and_the_surest_is_taken(model, prompts, decoder):
    asked = decoder
    plane = _plane((300, 100), shape=(400, 330), side=41)
    found = segment(model, plane, prompts([(300, 100)], [True]))
    assert len(asked) == len(zoom.distances(*[np.array([300.0, 100.0])] * 2, (400, 330), model.size)) > 3
    assert (
        found.view.side == 64
    )  # the closest that holds all of it: what is seen large has the sharpest border
    np.testing.assert_array_equal(found.mask, plane > 0)


def test_a_network_that_draws_no_prompts_looks_once_and_then_closer(model, prompts, decoder):
    asked = decoder
    model.checkpoint = replace(model.checkpoint, architecture=replace(NANO, draws_prompts=False))
    large = _plane((300, 100), shape=(400, 330), side=65)
    segment(model, large, prompts([(300, 100)], [True]))
    assert len(asked) == 2  # native resolution, then wider
    small = _plane((300, 100), shape=(400, 330), side=5)
    found = segment(model, small, prompts([(300, 100)], [True]))
    assert len(asked) == 4 and found.view.side < model.size
    np.testing.assert_array_equal(found.mask, small > 0)


def test_later_clicks_stay_with_the_view_of_the_first(model, prompts, decoder):
    plane = _plane((300, 100), shape=(400, 330), side=21)
    clicks, positive = [(300, 100), (312, 100), (306, 104)], [True, False, True]
    views = [segment(model, plane, prompts(clicks[:n], positive[:n])).view for n in (1, 2, 3)]
    assert views[0].side < 330 and len(set(views)) == 1
    encoded = model.encoded
    segment(model, plane, prompts(clicks, positive))
    assert model.encoded == encoded


@pytest.mark.parametrize(
    ("beside", "draws", "expected"),
    [
        ((300, 160), True, "organ"),  # deep in the body: it was not the body that was meant
        ((300, 208), True, "body"),  # at its border, which is only a little off
        ((300, 160), False, "body"),  # published networks take a correction as it is meant
    ],
)
def test_a_click_that_takes_most_of_a_mask_away_has_the_slice_looked_at_afresh(
    model, prompts, monkeypatch, beside, draws, expected
):
    """From afar the network sees the body and clings to it; from near by the organ that was clicked on."""
    body, organ = (_plane((300, 160), shape=(400, 330), side=side) > 0 for side in (101, 15))
    body[270:331, 140:181] = True
    organ = np.roll(organ, -30, 1)
    clicks = [(300, 130), beside]

    def look(model, plane, given, view, cached=True):
        near = view.side <= 64
        mask = (organ if near else body).copy()
        for (a, b), positive in zip(given.points.astype(int), given.positive, strict=True):
            mask[a, b] = positive
        return module._Look(
            view, mask, True, 0.9 if near else 0.8 + 0.15 * (len(given.points) == 1), 0.5, True
        )

    model.checkpoint = replace(model.checkpoint, architecture=replace(NANO, draws_prompts=draws))
    monkeypatch.setattr(module, "_look", look)
    plane = np.zeros((400, 330), np.uint8)
    monkeypatch.setattr(module, "_first_click", lambda *a: look(*a, zoom.whole((400, 330))))
    assert segment(model, plane, prompts(clicks[:1], [True])).mask.sum() >= body.sum()
    found = segment(model, plane, prompts(clicks, [True, False])).mask
    assert not found[clicks[1]] and found[clicks[0]]
    assert abs(int(found.sum()) - int((organ if expected == "organ" else body).sum())) <= 1


def test_a_click_beside_the_view_widens_it_and_a_background_click_does_not(model, prompts, decoder):
    plane = _plane((300, 100), shape=(400, 330), side=21)
    first = segment(model, plane, prompts([(300, 100)], [True])).view
    both = segment(model, plane, prompts([(300, 100), (120, 250)], [True, True])).view
    assert both.contains(np.array([120, 100]), np.array([300, 250]))
    assert segment(model, plane, prompts([(300, 100), (120, 250)], [True, False])).view == first


def test_without_zoom_the_network_always_looks_at_the_whole_slice(model, prompts, decoder):
    plane = _plane((300, 100), shape=(400, 330), side=21)
    found = segment(model, plane, prompts([(300, 100)], [True]), use_zoom=False)
    assert found.view == zoom.whole((400, 330))


def test_a_structure_larger_than_the_first_look_is_looked_at_wider(model, prompts, decoder):
    plane = _plane((200, 160), shape=(400, 330), side=151)
    found = segment(model, plane, prompts([(200, 160)], [True]))
    np.testing.assert_array_equal(found.mask, plane > 0)


def test_looking_wider_and_closer_keeps_everything_that_was_pointed_at_in_sight(model, prompts, monkeypatch):
    kept = []
    for look in ("wider_look", "closer_look"):
        monkeypatch.setattr(zoom, look, lambda view, mask, size, keep: kept.append(keep))
    segment(model, _plane((40, 60)), prompts([(20, 30), (40, 60), (80, 99)], [True, True, False]))
    for low, high in kept:
        assert (tuple(low), tuple(high)) == ((20, 30), (40, 60))
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"points": [(30, 30)], "positive": [True]}, 64),
        ({"box": (20.0, 20.0, 60.0, 50.0)}, 96),
        ({"points": [(30, 30)], "positive": [False]}, 400),
    ],
    ids=["a click: native resolution", "a box: twice its size", "only background: everything"],
)
def test_the_prompts_say_where_to_look_first(prompts, given, expected):
    assert first_view(prompts(**given), (400, 330), 64).side == expected


def test_a_mask_prompt_says_where_to_look_first(prompts):
    mask = np.zeros((400, 330), bool)
    mask[100:120, 200:210] = True
    assert first_view(prompts(mask=mask), (400, 330), 64).contains(*zoom.extent(mask))


# --- what it costs -------------------------------------------------------------------------------------


def test_the_answer_is_the_mean_of_two_ways_so_that_a_turned_slice_gets_the_turned_mask(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    plane = np.where(plane < 8, 0, np.where(plane > 247, 255, plane)).astype(np.uint8)  # in its own window
    mask = _plane((40, 60), side=21) > 0
    (a, b), high = (40, 60), (SHAPE[0] - 1, SHAPE[1] - 1)
    box, turned_box = (
        (30.0, 50.0, 50.0, 75.0),
        (high[0] - 50.0, high[1] - 75.0, high[0] - 30.0, high[1] - 50.0),
    )
    for asked, turned in (
        (prompts([(a, b)], [True]), prompts([(high[0] - a, high[1] - b)], [True])),
        (prompts(box=box), prompts(box=turned_box)),
        (prompts([(a, b)], [False], box), prompts([(high[0] - a, high[1] - b)], [False], turned_box)),
        (prompts(mask=mask), prompts(mask=mask[::-1, ::-1])),
    ):
        one, _ = decode_in_view(model, plane, asked, zoom.whole(SHAPE))
        other, _ = decode_in_view(model, plane[::-1, ::-1], turned, zoom.whole(SHAPE))
        torch.testing.assert_close(one.logits, other.logits.flip(-2, -1), atol=1e-3, rtol=1e-3)


def test_a_box_is_looked_at_from_two_distances_and_a_lone_click_from_one_at_a_time(
    model, prompts, monkeypatch
):
    views = []
    real = module.decode_in_view
    monkeypatch.setattr(module, "decode_in_view", lambda *args: views.append(args[3]) or real(*args))
    plane = _plane((200, 160), shape=(400, 330), side=31)
    segment(model, plane, prompts(box=(185.0, 145.0, 215.0, 175.0)))
    assert views[1] == zoom.farther(views[0], (400, 330), model.size) and views[1].side > views[0].side
    views.clear()
    segment(model, plane, prompts([(200, 160)], [True]))
    assert set(views) <= set(zoom.distances(*[np.array([200.0, 160.0])] * 2, (400, 330), model.size))


def test_a_click_costs_one_decode_and_the_same_request_none(model, prompts, monkeypatch):
    calls = []
    real = module._decode
    monkeypatch.setattr(module, "_decode", lambda *args: calls.append(len(args[2])) or real(*args))
    plane = _plane((40, 60), side=21)
    view = zoom.whole(SHAPE)
    clicks, positive = [(40, 60), (10, 10), (45, 65)], [True, False, True]
    for count in (1, 2, 3):
        decode_in_view(model, plane, prompts(clicks[:count], positive[:count]), view)
    assert calls == [1, 2, 3]
    assert model.encoded == 2  # the view and the same turned


def test_a_further_click_on_a_structure_encodes_nothing_and_is_answered_as_if_nothing_was_remembered(
    model, prompts, monkeypatch
):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    places, signs = [(40, 60), (42, 61), (45, 58)], [True, True, False]
    segment(model, plane, prompts(places[:1], signs[:1]))
    encoded = model.encoded
    second = segment(model, plane, prompts(places[:2], signs[:2]))
    assert second.cached and model.encoded == encoded
    third = segment(model, plane, prompts(places, signs))
    assert third.cached and model.encoded == encoded
    monkeypatch.setattr(model, "recall", lambda key: None)
    for count, answer in ((2, second), (3, third)):
        afresh = segment(model, plane, prompts(places[:count], signs[:count]))
        np.testing.assert_array_equal(afresh.mask, answer.mask)
        assert (afresh.view, afresh.score) == (answer.view, answer.score)


def test_the_same_request_is_answered_from_the_cache(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)
    asked = prompts([(40, 60), (10, 10)], [True, False])
    first = segment(model, plane, asked)
    encoded = model.encoded
    second = segment(model, plane, asked)
    assert model.encoded == encoded
    assert (first.cached, second.cached) == (False, True)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.score == second.score


def test_another_network_input_is_encoded_again(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    segment(model, plane, prompts([(40, 60)], [True]))
    encoded = model.encoded
    segment(model, plane ^ 1, prompts([(40, 60)], [True]))
    assert model.encoded > encoded


def test_every_kind_of_prompt_gets_a_mask_and_a_score_between_0_and_1(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    mask = _plane((40, 60), side=11) > 0
    box = (30.0, 50.0, 50.0, 70.0)
    for asked in (
        prompts([(40, 60)], [True]),
        prompts([(40, 60)], [False]),
        prompts(box=box),
        prompts(mask=mask),
        prompts([(40, 60)], [False], mask=mask),
        prompts(box=box, mask=mask),
        prompts([(40, 60), (33, 53)], [True, False], box, mask),
    ):
        for image in (plane, np.repeat(plane[..., None], 3, -1)):
            found = segment(model, image, asked)
            assert found.mask.shape == SHAPE and found.mask.dtype == np.bool_
            assert 0 <= found.score <= 1


def test_a_gray_slice_and_the_same_in_colour_get_the_same_mask(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    gray = segment(model, plane, prompts([(40, 60)], [True]))
    colour = segment(model, np.repeat(plane[..., None], 3, -1), prompts([(40, 60)], [True]))
    assert np.mean(gray.mask != colour.mask) < 1e-3


def test_another_starting_mask_gets_another_answer(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    view = zoom.whole(SHAPE)
    one, _ = decode_in_view(model, plane, prompts(mask=_plane((20, 30), side=15) > 0), view)
    other, _ = decode_in_view(model, plane, prompts(mask=_plane((60, 100), side=31) > 0), view)
    assert not torch.equal(one.logits, other.logits)


def test_the_same_pixels_under_another_part_of_a_mask_get_another_answer(model, prompts):
    plane = np.full(SHAPE, 100, np.uint8)
    asked = prompts(mask=_plane((20, 30), side=15) > 0)
    one, _ = decode_in_view(model, plane, asked, View(0, 0, 48, 48))
    other, _ = decode_in_view(model, plane, asked, View(16, 16, 48, 48))
    assert not torch.equal(one.logits, other.logits)


def test_a_view_without_any_prompt_is_our_error(model, prompts):
    with pytest.raises(ValueError, match="no prompt in this view"):
        decode_in_view(model, _plane((20, 30)), prompts([(80, 130)], [True]), View(0, 0, 48, 48))


def test_remembered_answers_are_bounded(model, monkeypatch):
    monkeypatch.setattr("lib.sam.model.MAX_ANSWERS", 3)
    for number in range(5):
        model.remember((number,), torch.zeros(1))
    assert [number for number in range(5) if model.recall((number,)) is not None] == [2, 3, 4]


def test_two_requests_for_the_same_picture_at_once_encode_it_once(model, prompts):
    plane = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    ready = threading.Barrier(4)
    found = []

    def ask() -> None:
        ready.wait()
        found.append(segment(model, plane, prompts([(40, 60)], [True]), use_zoom=False).mask)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.encoded == 2  # in both ways
    assert len(found) == 4 and all(np.array_equal(mask, found[0]) for mask in found)


def test_a_click_keeps_the_piece_it_is_on_and_a_box_keeps_all():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = True
    mask[25:35, 25:35] = True
    clicked = SlicePrompts(np.array([[8.0, 8.0], [30.0, 8.0]]), np.array([True, False]), None, None)
    assert connected(mask, clicked).sum() == 100 and connected(mask, clicked)[8, 8]
    boxed = SlicePrompts(np.zeros((0, 2)), np.zeros(0, bool), (0.0, 0.0, 39.0, 39.0), None)
    assert connected(mask, boxed).sum() == 200
    beside = SlicePrompts(np.array([[20.0, 20.0]]), np.array([True]), None, None)
    assert connected(mask, beside).sum() == 200


def test_of_several_masks_the_surest_that_holds_the_click_is_taken():
    logits = torch.full((1, 3, 16, 16), -4.0)
    logits[0, 0, 8:, 8:] = 9.0  # sure, but elsewhere
    logits[0, 1, :6, :6] = 1.0
    logits[0, 2, 1:5, 1:5] = 5.0
    assert _surest(logits, np.array([10.0, 10.0]), 64, otherwise=0) == 2
    assert _surest(logits, np.array([40.0, 10.0]), 64, otherwise=1) == 1
