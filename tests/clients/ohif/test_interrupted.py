"""What the story needs goes away in the middle of it: the browser, and the PACS."""

from __future__ import annotations

import numpy as np
import pytest
from clients.ohif.browser import SIZE, Ohif, launch
from clients.ohif.stored import assert_label_is_stored, assert_seg_is_archived, labels_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_browser_that_is_closed_ends_the_propagation_and_nothing_is_saved(browser, hospital, pace, until):
    series, server = hospital.series["unlabelled"], hospital.server
    with launch(browser.browser_type) as closing:
        viewer = Ohif(closing.new_page(viewport=SIZE), server.address)
        viewer.click_into_the_liver(series)
        pace.hold(3)
        viewer.key("f")
        viewer.propagated(3)
        (work,) = server.get("/biosam2/work").json()
        assert (work["image"], work["state"]) == (series.uid, "running")
    until(lambda: server.get("/biosam2/work").json() == [])
    ended = server.get(f"/biosam2/work/{work['id']}").json()
    assert ended["state"] == "cancelled"
    assert ended["done"] < ended["total"]
    assert labels_of(server, series) == []
    assert hospital.archive.segs(series.study) == []


def test_a_label_that_the_pacs_could_not_take_is_still_there_and_can_be_submitted_again(viewer, hospital):
    series, archive = hospital.series["interrupted"], hospital.archive
    mask = viewer.click_into_the_liver(series)
    archive.stop()
    try:
        viewer.key("Shift+S")
        viewer.idle()
        assert viewer.said == "the PACS cannot be reached: is it running?"
        np.testing.assert_array_equal(viewer.masks(series)["liver"], mask)
        assert labels_of(hospital.server, series) == []
    finally:
        archive.start()
    assert archive.segs(series.study) == []
    viewer.key("Shift+S")
    viewer.idle()
    assert viewer.said == "Submitted: liver."
    assert_label_is_stored(hospital.server, series, {1: mask})
    assert_seg_is_archived(archive, series, {"liver": mask})
