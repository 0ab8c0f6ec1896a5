"""An object in a video: lost where it is hidden, found again where it comes back, at a bounded cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.sam import zoom
from lib.sam.memory import REACH
from lib.sam.moving import Following, tracker_of
from lib.sam.tracker import Tracker

SHAPE, COUNT = (96, 80), 30
HIDDEN = range(8, 12)
RADIUS = 9


def _middle(k: int) -> tuple[int, int]:
    """It goes on for as long as it is seen and comes back elsewhere."""
    return (24 + k, 40) if k < HIDDEN.stop else (70, 24)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    a, b = np.mgrid[: SHAPE[0], : SHAPE[1]]
    masks = [np.hypot(a - _middle(k)[0], b - _middle(k)[1]) < RADIUS for k in range(COUNT)]
    return np.stack([mask & (k not in HIDDEN) for k, mask in enumerate(masks)])


@pytest.fixture(scope="module")
def frames(truth) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (np.where(truth, 190, 60) + rng.normal(0, 10, truth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def seeing(model, frames, monkeypatch):
    """A network that sees what is bright, in the view in which it looks and near the mask beside it."""

    def step(self, embedding, index, points=None, mask=None, previous=None, **how):
        output = real(self, embedding, index, points, mask, previous, **how)
        if previous is None or points is not None:
            return output
        shown = torch.from_numpy((frames[index] > 125)[self.view.window].T.astype(np.float32))[None, None]
        shown = torch.nn.functional.interpolate(shown, output["pred_masks"].shape[-2:])
        near = torch.nn.functional.max_pool2d(previous, 5, 1, 2) > 0
        seen = (shown > 0.5) & near
        logits = torch.where(seen, 10.0, -10.0) if seen.any() else torch.full_like(shown, -1024.0)
        presence = 5.0 if seen.any() else -5.0
        return output | {"pred_masks": logits, "presence": presence, "score": 0.9 * bool(seen.any())}

    real = Tracker._step
    monkeypatch.setattr(Tracker, "_step", step)
    return model


def _follow(tracker: Tracker) -> np.ndarray:
    masks = [mask for _, mask, _ in tracker.start(lambda: None)]
    return np.stack(masks + [tracker.track(index, False)[0] for index in range(1, COUNT)])


def test_what_is_hidden_is_lost_and_found_again_where_it_comes_back(seeing, frames, truth, prompts):
    masks = _follow(tracker_of(seeing, frames.__getitem__, COUNT, {0: prompts(mask=truth[0])}))
    assert not masks[HIDDEN.start : HIDDEN.stop].any()
    for k in (*range(1, HIDDEN.start), *range(HIDDEN.stop + 2, COUNT)):
        both = (masks[k] & truth[k]).sum() / (masks[k] | truth[k]).sum()
        assert both > 0.6, k


def test_the_number_of_frames_costs_no_memory_and_asks_for_no_frame_long_past(seeing, frames, truth, prompts):
    asked: list[set] = [set()]

    def planes(index: int) -> np.ndarray:
        asked[-1].add(index)
        return frames[index]

    tracker = tracker_of(seeing, planes, COUNT, {0: prompts(mask=truth[0])})
    list(tracker.start(lambda: None))
    for index in range(1, COUNT):
        asked.append(set())
        tracker.track(index, False)
        assert asked[-1] <= {0, index - 1, index}
    assert len(tracker.memory.recent) <= 2 * REACH + 1


def test_from_a_prompted_frame_the_other_way_begins_anew(seeing, frames, truth, prompts):
    def both(turned: bool) -> np.ndarray:
        tracker = tracker_of(seeing, frames.__getitem__, COUNT, {4: prompts(mask=truth[4])})
        list(tracker.start(lambda: None))
        if turned:
            for index in range(5, 16):
                tracker.track(index, False)
            tracker.memory.recent.clear()  # those within reach count for the other way too
        return np.stack([tracker.track(index, True)[0] for index in range(3, -1, -1)])

    np.testing.assert_array_equal(both(False), both(True))


def test_published_networks_and_volumes_are_followed_as_before(model, frames, truth, prompts):
    asked = {0: prompts(mask=truth[0])}
    assert type(tracker_of(model, frames.__getitem__, COUNT, asked)) is Following
    assert type(tracker_of(model, frames.__getitem__, COUNT, asked, thickness=2.0)) is Tracker
    model.checkpoint = replace(
        model.checkpoint, architecture=replace(model.checkpoint.architecture, draws_prompts=False)
    )
    assert type(tracker_of(model, frames.__getitem__, COUNT, asked)) is Tracker


def test_without_zoom_it_looks_at_whole_pictures_only(seeing, frames, truth, prompts):
    tracker = tracker_of(seeing, frames.__getitem__, COUNT, {0: prompts(mask=truth[0])}, use_zoom=False)
    list(tracker.start(lambda: None))
    for index in range(1, 14):
        tracker.track(index, False)
        assert tracker.view == zoom.whole(SHAPE)
