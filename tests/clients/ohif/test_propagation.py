"""Propagation: through a chosen range, watched, and cancelled."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clients.ohif.phantoms import COUNT, LIVER, assert_in_place, dice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


HALF = COUNT // 2


@pytest.fixture
def clicked(viewer, hospital):
    """An open series with one click in the liver; the series, and the voxels before propagation."""
    series = hospital.series["ct_axial"]
    return series, viewer.click_into_the_liver(series)


def test_a_range_of_slices_is_all_that_a_ranged_propagation_changes(viewer, clicked):
    series, before = clicked
    viewer.part("slice").filter(has_text=f"Slice {LIVER + 1} of {COUNT}").wait_for()
    viewer.press("firstHere")
    viewer.part("last").fill(str(LIVER + 3))
    assert viewer.part("first").input_value() == str(LIVER + 1)
    viewer.press("propagateRange")
    viewer.idle()
    after = viewer.masks(series)["liver"]
    inside = slice(LIVER, LIVER + 3)
    assert dice(after[inside], series.truth["liver"][inside]) > 0.9
    assert not np.delete(after, range(LIVER, LIVER + 3), axis=0).any()
    np.testing.assert_array_equal(after[LIVER], before[LIVER])


def test_a_range_without_a_prompt_or_outside_the_volume_is_explained(viewer, clicked):
    series, before = clicked
    for first, last, words in ((7, 8, "no click or box on slices 7 to 8"), (3, 99, f"slices 1 to {COUNT}")):
        viewer.part("first").fill(str(first))
        viewer.part("last").fill(str(last))
        viewer.press("propagateRange")
        viewer.idle()
        assert words in viewer.said
    np.testing.assert_array_equal(viewer.masks(series)["liver"], before)


@pytest.fixture
def halfway(viewer, clicked, pace, hospital):
    """A propagation that waits halfway; what the server says of it, asked again at each call."""
    pace.hold(HALF)
    viewer.key("f")
    viewer.propagated(HALF)
    (work,) = hospital.server.get("/biosam2/work").json()
    assert (work["state"], work["done"], work["total"]) == ("running", HALF, COUNT)
    return lambda: hospital.server.get(f"/biosam2/work/{work['id']}").json()


def test_a_cancelled_propagation_changes_nothing_and_can_be_done_again(viewer, clicked, halfway, pace):
    series, before = clicked
    viewer.key("q")
    viewer.idle()
    assert "cancelled" in viewer.said.lower()
    np.testing.assert_array_equal(viewer.masks(series)["liver"], before)
    pace.release()
    viewer.key("f")
    viewer.idle()
    assert_in_place(viewer.masks(series)["liver"], series.truth["liver"], 0.85)


def test_the_work_that_was_cancelled_has_ended_on_the_server(viewer, halfway):
    viewer.press("cancel")
    viewer.idle()
    work = halfway()
    assert work["state"] == "cancelled"
    assert work["done"] < work["total"]


def test_work_that_the_server_cannot_be_told_to_end_ends_all_the_same(viewer, halfway, until):
    gone = {"status": 404, "body": ""}
    viewer.page.route(
        "**/biosam2/work/*",
        lambda route: route.fulfill(**gone) if route.request.method == "DELETE" else route.continue_(),
    )
    viewer.press("cancel")
    viewer.idle()
    assert "cancelled" in viewer.said.lower()
    until(lambda: halfway()["state"] == "cancelled")


def test_the_bar_shows_what_the_server_tells(viewer, clicked, keep):
    answer = json.dumps({"id": "ohif-1", "state": "running", "done": 3, "total": 8, "seconds": 1.5})
    viewer.page.route("**/biosam2/work/**", lambda route: route.fulfill(body=answer))
    viewer.page.route("**/infer/**", lambda route: None)  # an answer that does not come
    viewer.key("f")
    bar = viewer.page.locator("#biosam2 progress[value]")
    bar.wait_for()
    assert (bar.get_attribute("value"), bar.get_attribute("max")) == ("3", "8")
    assert viewer.page.locator("#biosam2 .what").inner_text() == "Propagating: 3 of 8"
    keep("progress")


def test_the_bar_counts_the_slices_that_are_done(viewer, clicked, pace):
    bar = viewer.page.locator("#biosam2 progress")
    bar.evaluate(
        """bar => {
            window.counted = [];
            const note = () => bar.hasAttribute("value") && window.counted.push([bar.value, bar.max]);
            new MutationObserver(note).observe(bar, { attributes: true });
        }"""
    )
    steps = (1, HALF, COUNT - 1)
    pace.hold(steps[0])
    viewer.key("f")
    for done, following in zip(steps, (*steps[1:], None), strict=True):
        viewer.propagated(done)
        assert (bar.get_attribute("value"), bar.get_attribute("max")) == (str(done), str(COUNT))
        pace.hold(following) if following else pace.release()
    viewer.idle()
    counted = viewer.page.evaluate("window.counted")
    assert counted == sorted(counted)
    assert {done for done, _ in counted} >= set(steps)
    assert all(1 <= done <= total == COUNT for done, total in counted)


def test_other_actions_wait_for_the_propagation_in_words(viewer, halfway):
    viewer.key("u")
    assert "still running" in viewer.said
    viewer.key("q")
    viewer.idle()
