"""Following structures through the slices: which slices, from what, and at what cost."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.prompts.prompts import Direction
from lib.sam import prior, zoom
from lib.sam import propagate as module
from lib.sam import tracker as tracker_module
from lib.sam.memory import REACH
from lib.sam.moving import Following
from lib.sam.propagate import Cancelled, Target, propagate
from lib.sam.segment import segment, to_logits
from lib.sam.tracker import Tracker
from lib.sam.zoom import View

SHAPE = (80, 60)
COUNT = 14


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """A disc that wanders over a textured ground: uint8 (A, B, K)."""
    rng = np.random.default_rng(3)
    a, b = np.mgrid[: SHAPE[0], : SHAPE[1]]
    slices = [60 + 120 * (np.hypot(a - 30 - k, b - 30) < 12) + rng.normal(0, 12, SHAPE) for k in range(COUNT)]
    return np.clip(np.stack(slices, -1), 0, 255).astype(np.uint8)


@pytest.fixture
def run(model, volume):
    """Propagate through the volume without zoom: {(target, slice): SliceMask}, each found once."""

    def go(*targets, use_zoom=False, **how) -> dict:
        found = {}
        for answer in propagate(
            model, lambda k: volume[:, :, k], COUNT, [*targets], use_zoom=use_zoom, **how
        ):
            key = answer.target, answer.index
            assert key not in found, f"slice {key} came twice"
            assert answer.mask.shape == SHAPE and answer.mask.dtype == np.bool_
            assert 0 <= answer.score <= 1
            found[key] = answer
        return found

    return go


@pytest.fixture
def click(prompts):
    return prompts([(35, 30)], [True])


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k].mask, other[k].mask) for k in one)


def _slices(found: dict, target: int = 0) -> list[int]:
    return sorted(index for number, index in found if number == target)


# --- which slices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_zoom", [True, False])
@pytest.mark.parametrize("prompted", [(5,), (0,), (COUNT - 1,), (3, 4), (2, 7, 11), (11, 2)], ids=str)
def test_every_slice_is_answered_once(run, click, prompted, use_zoom):
    found = run(Target({k: click for k in prompted}, 0, COUNT - 1), use_zoom=use_zoom)
    assert _slices(found) == list(range(COUNT))


def test_slices_outside_a_structures_range_are_left_alone(run, click):
    found = run(Target({5: click}, 3, 8), Target({9: click}, 9, 9))
    assert _slices(found, 0) == [3, 4, 5, 6, 7, 8]
    assert _slices(found, 1) == [9]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (Direction.FORWARD, [4, *range(5, 11)]),
        (Direction.BACKWARD, [*range(1, 8), 8]),
        (Direction.BOTH, list(range(1, 11))),
    ],
)
def test_a_direction_leaves_out_the_slices_behind_the_prompts(run, click, direction, expected):
    assert _slices(run(Target({4: click, 8: click}, 1, 10), direction=direction)) == expected


def test_between_two_prompts_each_reaches_to_the_middle(click):
    target = Target({2: click, 7: click}, 0, 9)
    assert list(module._route(target, Direction.BOTH)) == [
        *[(k, False) for k in (3, 4, 8, 9)],
        *[(k, True) for k in (1, 0, 6, 5)],
    ]


def test_prompts_in_any_order_give_the_same_masks(run, click, prompts):
    other = prompts([(40, 28), (10, 10)], [True, False])
    forth = run(Target({3: click, 8: other}, 0, COUNT - 1))
    assert _same(forth, run(Target({8: other, 3: click}, 0, COUNT - 1)))


@pytest.mark.parametrize(
    ("slices", "first", "last"), [((2,), 3, 9), ((3, 10), 3, 9), ((), 0, 5)], ids=["before", "behind", "none"]
)
def test_prompts_outside_the_range_are_our_error(click, slices, first, last):
    with pytest.raises(ValueError):
        Target({k: click for k in slices}, first, last)


def test_prompts_that_point_at_nothing_are_our_error(prompts):
    with pytest.raises(ValueError, match="no prompt says where"):
        Target({3: prompts([(5, 5)], [False])}, 0, 5)
    with pytest.raises(ValueError, match="without a prompt"):
        Target({3: prompts()}, 0, 5)


# --- progress and cancelling ---------------------------------------------------------------------------


def test_progress_counts_every_slice_of_every_structure(run, click):
    seen = []
    run(
        Target({5: click}, 3, 8),
        Target({0: click, 2: click}, 0, 4),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 11) for n in range(1, 12)]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_cancelling_stops_before_the_next_slice(model, volume, click, after):
    found = []
    with pytest.raises(Cancelled):
        for answer in propagate(
            model,
            lambda k: volume[:, :, k],
            COUNT,
            [Target({5: click}, 0, COUNT - 1)],
            use_zoom=False,
            cancelled=lambda: len(found) >= after,
        ):
            found.append(answer)
    assert len(found) == after
    assert model.encoded <= 2 * (after + 1)  # in both ways


def test_cancelling_leaves_the_model_as_it_was(run, model, click):
    expected = run(Target({5: click}, 4, 6))
    with pytest.raises(Cancelled):
        run(Target({5: click}, 0, COUNT - 1), cancelled=lambda: True)
    assert _same(expected, run(Target({5: click}, 4, 6)))


# --- memory and cache ----------------------------------------------------------------------------------


def test_the_number_of_slices_costs_no_memory(model, click, monkeypatch):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, SHAPE, np.uint8)
    held, trackers = [], []
    real = Following.track

    def track(self, index, backwards):
        answer = real(self, index, backwards)
        held.append(len(self.memory.recent))
        trackers.append(self)
        return answer

    monkeypatch.setattr(Following, "track", track)
    count = 90
    target = Target({10: click}, 0, count - 1)
    found = list(propagate(model, lambda k: np.roll(texture, k), count, [target], use_zoom=False))
    assert len(found) == count
    assert max(held) <= 2 * REACH + 1  # those of the prompted slice and of the way
    outputs = [*trackers[-1].memory.recent.values(), *trackers[-1].memory.conditioning.values()]
    assert len({id(output["maskmem_pos_enc"][0]) for output in outputs}) == 1


def test_a_second_run_encodes_nothing_and_gives_the_same_masks(run, model, click):
    first = run(Target({5: click}, 0, COUNT - 1))
    encoded = model.encoded
    assert encoded == 2 * COUNT  # in both ways
    second = run(Target({5: click}, 0, COUNT - 1))
    assert model.encoded == encoded
    assert _same(first, second)


def test_a_cache_that_holds_nothing_gives_the_same_masks(run, model, click):
    first = run(Target({5: click}, 0, COUNT - 1))
    model.cache.clear()
    model.cache.max_bytes = 0
    assert _same(first, run(Target({5: click}, 0, COUNT - 1)))


def test_structures_do_not_influence_each_other(run, click, prompts):
    one = Target({5: click}, 0, COUNT - 1)
    other = Target({2: prompts(box=(10.0, 10.0, 30.0, 40.0)), 9: prompts([(20, 20)], [True])}, 0, COUNT - 1)
    both = run(one, other)
    alone = run(other)
    assert all(np.array_equal(both[1, k].mask, alone[0, k].mask) for k in range(COUNT))
    assert any(not np.array_equal(both[0, k].mask, both[1, k].mask) for k in range(COUNT))


def test_requests_at_the_same_time_get_what_they_get_one_after_the_other(model, volume, click, prompts):
    box = prompts(box=(20.0, 15.0, 50.0, 45.0))
    jobs = [Target({4: click}, 0, 9), Target({7: box}, 2, COUNT - 1)]

    def follow(target: Target) -> dict:
        steps = propagate(model, lambda k: volume[:, :, k], COUNT, [target], use_zoom=False)
        return {(m.target, m.index): m for m in steps}

    expected = [follow(target) for target in jobs]
    expected_click = segment(model, volume[:, :, 6], click)
    model.cache.clear()
    found: dict = {}
    threads = [
        *[threading.Thread(target=lambda n=n: found.update({n: follow(jobs[n])})) for n in (0, 1)],
        threading.Thread(target=lambda: found.update(click=segment(model, volume[:, :, 6], click))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _same(found[0], expected[0]) and _same(found[1], expected[1])
    np.testing.assert_array_equal(found["click"].mask, expected_click.mask)


# --- prompts and corrections ---------------------------------------------------------------------------


@pytest.mark.parametrize("use_zoom", [True, False])
def test_a_prompted_slice_gets_the_mask_it_gets_by_itself(run, model, volume, prompts, use_zoom):
    for asked in (
        prompts([(35, 30)], [True]),
        prompts([(35, 30), (5, 5)], [True, False]),
        prompts(box=(20.0, 15.0, 50.0, 45.0)),
    ):
        found = run(Target({5: asked}, 5, 5), use_zoom=use_zoom)
        alone = segment(model, volume[:, :, 5], asked, use_zoom)
        np.testing.assert_array_equal(found[0, 5].mask, alone.mask)
        assert found[0, 5].score == alone.score


@pytest.mark.parametrize("use_zoom", [True, False])
def test_a_persons_own_mask_comes_back_as_it_was(run, prompts, use_zoom):
    masks = {}
    for index, shift in ((3, 0), (8, 25)):
        masks[index] = np.zeros(SHAPE, bool)
        masks[index][20 + shift : 26 + shift, 20:24] = True
    found = run(Target({k: prompts(mask=mask) for k, mask in masks.items()}, 0, COUNT - 1), use_zoom=use_zoom)
    for index, mask in masks.items():
        np.testing.assert_array_equal(found[0, index].mask, mask)
        assert found[0, index].score == 1.0


@pytest.mark.parametrize("use_zoom", [True, False])
def test_prompts_of_every_kind_can_be_mixed(run, prompts, use_zoom):
    mask = np.zeros(SHAPE, bool)
    mask[25:40, 20:38] = True
    box = (20.0, 15.0, 50.0, 45.0)
    target = Target(
        {
            1: prompts([(5, 5)], [False]),
            3: prompts(mask=mask),
            5: prompts([(60, 50)], [False], mask=mask),
            7: prompts(box=box, mask=mask),
            9: prompts([(35, 30), (22, 18)], [True, False], box),
            11: prompts([(40, 30)], [True]),
        },
        0,
        COUNT - 1,
    )
    assert _slices(run(target, use_zoom=use_zoom)) == list(range(COUNT))


def test_a_correction_changes_the_slices_beside_it(run, click, prompts):
    before = run(Target({2: click}, 0, COUNT - 1))
    after = run(Target({2: click, 9: prompts([(60, 50), (39, 30)], [True, False])}, 0, COUNT - 1))
    np.testing.assert_array_equal(before[0, 2].mask, after[0, 2].mask)
    assert all(not np.array_equal(before[0, k].mask, after[0, k].mask) for k in (8, 9, 10))


def test_in_a_volume_a_correction_is_made_to_the_mask_that_is_seen_there(run, click, prompts, monkeypatch):
    seen = run(Target({2: click}, 0, COUNT - 1), thickness=2.0)
    wrong = np.argwhere(seen[0, 8].mask)[0]
    corrected = []
    real = tracker_module.segment
    monkeypatch.setattr(tracker_module, "segment", lambda *args: corrected.append(args[2]) or real(*args))
    found = run(Target({2: click, 8: prompts([wrong], [False])}, 0, COUNT - 1), thickness=2.0)
    assert corrected[0].mask is None  # the first click
    np.testing.assert_array_equal(corrected[1].mask, seen[0, 8].mask)
    assert _slices(found) == list(range(COUNT))
    assert not np.array_equal(found[0, 8].mask, seen[0, 8].mask)


def test_in_a_volume_background_clicks_where_nothing_is_seen_ask_nothing(
    run, model, click, prompts, monkeypatch
):
    seen = run(Target({2: click}, 0, COUNT - 1), thickness=2.0)
    real = Tracker.track
    monkeypatch.setattr(
        Tracker,
        "track",
        lambda self, k, back: (np.zeros(SHAPE, bool), 0.0) if k == 8 else real(self, k, back),
    )
    found = run(Target({2: click, 8: prompts([(10, 10)], [False])}, 0, COUNT - 1), thickness=2.0)
    assert seen[0, 8].mask.any() and not found[0, 8].mask.any() and found[0, 8].score == 0.0


def test_background_clicks_alone_can_correct_a_slice(run, click, prompts):
    before = run(Target({2: click}, 0, COUNT - 1))
    wrong = np.argwhere(before[0, 8].mask)[0]
    after = run(Target({2: click, 8: prompts([wrong], [False])}, 0, COUNT - 1))
    assert _slices(after) == list(range(COUNT))
    assert not np.array_equal(before[0, 8].mask, after[0, 8].mask)


def test_background_clicks_bring_no_absent_structure_back(run, model, click, prompts, monkeypatch):
    head = model.network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    monkeypatch.setattr(head, "data", head.data - 20)  # nothing is ever there
    clicked = []
    real = Tracker._interact
    monkeypatch.setattr(
        Tracker, "_interact", lambda *args, **how: clicked.append(args[2]) or real(*args, **how)
    )
    found = run(Target({2: click, 8: prompts([(10, 10)], [False])}, 0, COUNT - 1))
    assert not found[0, 8].mask.any()
    assert found[0, 8].score == 0.0
    assert not clicked


# --- views ---------------------------------------------------------------------------------------------

LARGE = (400, 300)


@pytest.fixture
def tracker(model, prompts):
    """Make the tracker of prompts on a large slice, its prompted slices done."""
    texture = np.random.default_rng(0).integers(0, 256, LARGE, np.uint8)

    def make(on: dict, thickness: float | None = None) -> Tracker:
        made = Tracker(model, lambda k: np.roll(texture, k), 31, on, True, thickness)
        list(made.start(lambda: None))
        return made

    return make


def _block(low, high) -> np.ndarray:
    mask = np.zeros(LARGE, bool)
    mask[low[0] : high[0], low[1] : high[1]] = True
    return mask


def test_a_small_structure_is_followed_in_a_view_with_room_to_grow(tracker, prompts):
    mask = _block((100, 100), (110, 112))
    view = tracker({5: prompts(mask=mask)}).memory.view
    assert not view.is_whole(LARGE)
    assert view.contains(*zoom.extent(mask)) and view.side >= 36


def test_the_view_holds_the_structure_on_all_prompted_slices(tracker, prompts):
    masks = [_block((100, 100), (105, 105)), _block((140, 120), (150, 128))]
    view = tracker({5: prompts(mask=masks[0]), 9: prompts(mask=masks[1])}).memory.view
    assert all(view.contains(*zoom.extent(mask)) for mask in masks)


def test_the_view_holds_the_clicks_of_later_corrections(tracker, prompts):
    far = np.array([300.0, 200.0])
    made = tracker({5: prompts(mask=_block((100, 100), (105, 105))), 9: prompts([far], [True])})
    assert made.memory.view.contains(far, far)


def test_a_background_click_far_beside_the_view_changes_nothing(tracker, prompts):
    mask = prompts(mask=_block((100, 100), (105, 105)))
    made = tracker({5: mask, 9: prompts([(390, 290)], [False])})
    assert 9 in made.memory.conditioning
    assert not made.memory.view.contains(np.array([390, 290]), np.array([390, 290]))


def test_a_structure_that_leaves_the_view_is_followed_in_a_wider_one(tracker, prompts, monkeypatch):
    mask = _block((100, 100), (105, 105))
    made = tracker({5: prompts(mask=mask)})
    monkeypatch.setattr(zoom, "wider_look", lambda *_: None)
    made.track(6, False)
    wider = View(50, 40, 128, 128)
    asked = []

    def once(view, found, size, keep):
        asked.append(keep)
        return wider if len(asked) == 1 else None

    monkeypatch.setattr(zoom, "wider_look", once)
    made.track(7, False)
    made.track(8, False)
    assert made.memory.view == wider
    assert sorted(made.memory.conditioning) == [5, 6]  # the prompted slice, and the one before the move
    assert sorted(made.memory.recent) == [7, 8]
    np.testing.assert_array_equal(made.prompted[5], mask)
    np.testing.assert_array_equal(asked[0], zoom.extent(mask))  # the prompted slice stays in sight


def test_going_back_after_a_move_remembers_the_prompted_slice_only(tracker, prompts, monkeypatch):
    made = tracker({5: prompts(mask=_block((100, 100), (105, 105)))})
    monkeypatch.setattr(zoom, "wider_look", lambda *_: None)
    made.track(6, False)
    asked = []
    monkeypatch.setattr(
        zoom, "wider_look", lambda *_: None if asked else asked.append(1) or View(50, 40, 128, 128)
    )
    made.track(4, True)
    assert sorted(made.memory.conditioning) == [5]


@pytest.mark.parametrize("draws", [True, False])
def test_the_way_back_begins_at_the_prompted_slice_and_knows_nothing_of_the_way_there(
    tracker, model, prompts, monkeypatch, draws
):
    """sam2 takes the other side for the way here; published networks have learnt with that."""
    architecture = replace(model.checkpoint.architecture, draws_prompts=draws)
    model.checkpoint = replace(model.checkpoint, architecture=architecture)
    monkeypatch.setattr(zoom, "wider_look", lambda *_: None)
    made = tracker({5: prompts(mask=_block((100, 100), (140, 130)))})
    made.track(6, False)
    made.track(7, False)
    made.track(4, True)
    assert sorted(made.memory.recent) == ([4] if draws else [4, 6, 7])
    assert sorted(made.memory.conditioning) == [5]


def test_in_a_volume_what_looks_otherwise_far_from_the_prompt_must_be_surer(
    tracker, model, prompts, monkeypatch
):
    mask = _block((100, 100), (112, 112))
    made = tracker({5: prompts(mask=mask)}, thickness=1.0)
    made._embedded = made._embed(5)
    logits = to_logits(mask, made.view, model.size)
    assert made._price_of_strangeness(30, logits) == 0  # the same picture, the same place
    monkeypatch.setattr(tracker_module, "mean_features", lambda *_: -made.appearances[5])
    assert made._price_of_strangeness(6, logits) == 0
    assert made._price_of_strangeness(30, logits) > prior.STRANGENESS_PRICE
    assert made._price_of_strangeness(30, -logits) >= 0
    assert not tracker({5: prompts(mask=mask)}).appearances  # nor in a video


@pytest.mark.parametrize("draws", [True, False])
def test_a_network_that_sees_drawings_is_shown_the_mask_of_the_slice_before_where_it_must_be_now(
    tracker, model, prompts, monkeypatch, draws
):
    given = {}
    real = Tracker._step

    def step(self, embedding, index, *args, **how):
        given[index] = how.get("previous")
        return real(self, embedding, index, *args, **how)

    architecture = replace(model.checkpoint.architecture, draws_prompts=draws)
    model.checkpoint = replace(model.checkpoint, architecture=architecture)
    mask = _block((100, 100), (140, 130))
    made = tracker({5: prompts(mask=mask)})
    monkeypatch.setattr(Tracker, "_step", step)
    monkeypatch.setattr(zoom, "wider_look", lambda *_: None)
    found, _ = made.track(6, False)
    made.track(7, False)
    made.track(4, True)
    if not draws:
        assert set(given.values()) == {None}
        return
    view, size, motion = made.memory.view, made.model.size, prior.motion(mask, found)
    assert motion.any()
    followed = zoom.moved(view, prior.way_from(mask, found) + motion, zoom.shape_of(mask))
    # on the way back from the prompted slice nothing has moved yet
    for index, before, seen in ((6, mask, view), (7, prior.moved(found, motion), followed), (4, mask, view)):
        torch.testing.assert_close(given[index], to_logits(before, seen, size))
