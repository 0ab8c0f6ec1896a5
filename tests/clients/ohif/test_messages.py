"""Whatever goes wrong, the panel says so in plain words, and the label map stays as it was."""

from __future__ import annotations

import json

import pytest
from clients.ohif.phantoms import LIVER, TUMOUR

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def opened(viewer, hospital):
    series = hospital.series["ct_axial"]
    viewer.open(series)
    viewer.choose("liver")
    return series


FAILURES = {
    "busy": ({"status": 503, "body": ""}, "The server is busy"),
    "in its own words": (
        {"status": 429, "body": json.dumps({"detail": "Three requests are waiting already."})},
        "Three requests are waiting already.",
    ),
    "broken": ({"status": 500, "body": "Internal Server Error"}, "error 500"),
    "signed out": ({"status": 401, "body": ""}, "sign in again"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_an_answer_that_is_an_error_is_explained_and_the_prompt_is_taken_back(viewer, opened, what):
    answer, words = FAILURES[what]
    viewer.tool("inside")
    viewer.page.route("**/infer/**", lambda route: route.fulfill(**answer))
    viewer.click(opened.world(LIVER, 40, 36))
    assert words in viewer.said
    assert not viewer.masks(opened)["liver"].any()
    assert viewer.page.locator(".biosam2-overlay circle").count() == 0


def test_a_server_that_is_gone_is_named_as_such(viewer, opened):
    viewer.tool("inside")
    viewer.page.route("**/infer/**", lambda route: route.abort())
    viewer.click(opened.world(LIVER, 40, 36))
    assert "does not answer" in viewer.said


def test_an_image_that_the_server_does_not_know_is_named(viewer, opened, hospital):
    # the archive may have a study that the server cannot see: another filter, another archive
    unknown = f"{hospital.server.address}/biosam2/grid?image=1.2.3"
    viewer.page.route("**/biosam2/grid**", lambda route: route.continue_(url=unknown))
    viewer.tool("inside")
    assert viewer.said == 'image "1.2.3" is not in the datastore.'


def test_nothing_prompted_nothing_to_submit_and_nothing_to_undo_are_said(viewer, opened):
    for key, words in (
        ("f", "Nothing to propagate"),
        ("Shift+S", "Nothing to submit"),
        ("u", "Nothing to undo"),
    ):
        viewer.key(key)
        viewer.idle()
        assert words in viewer.said


def test_a_click_beside_the_structure_comes_after_one_inside(viewer, opened):
    viewer.tool("outside")
    viewer.click(opened.world(LIVER, 40, 36))
    assert 'Click into "liver" on this slice first' in viewer.said
    assert not viewer.masks(opened)["liver"].any()


def test_leaving_a_case_that_is_not_submitted_takes_asking_twice(viewer, opened):
    viewer.tool("box")
    viewer.drag(opened.world(TUMOUR, 47, 71), opened.world(TUMOUR, 77, 97))
    page = viewer.page.url
    viewer.press("next")
    viewer.idle()
    assert "not submitted" in viewer.said
    assert viewer.page.url == page


def test_keys_work_after_a_structure_was_picked_with_the_mouse(viewer, opened):
    # more than liver and tumour are listed once the server has learned others from submitted labels
    listed = viewer.structures()
    viewer.choose(listed[-1])
    viewer.key("d")
    assert viewer.part("box").get_attribute("aria-pressed") == "true"
    viewer.key("t")
    assert viewer.page.locator(f'#biosam2 input[value="{listed[0]}"]').is_checked()


def test_typing_a_name_triggers_no_shortcut(viewer, opened):
    viewer.part("name").click()
    viewer.page.keyboard.type("aqua duct")
    assert viewer.part("name").input_value() == "aqua duct"
    assert viewer.part("inside").get_attribute("aria-pressed") == "false"
    viewer.key("Enter")
    viewer.key("a")
    viewer.idle()
    assert viewer.part("inside").get_attribute("aria-pressed") == "true"
    assert viewer.page.locator('#biosam2 input[value="aqua duct"]').is_checked()
