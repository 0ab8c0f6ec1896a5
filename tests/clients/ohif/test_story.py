"""The whole story on every series: from the first click to the label in the archive and the next case."""

from __future__ import annotations

import numpy as np
import pytest
from clients.ohif.phantoms import KINDS, LIVER, TUMOUR, assert_in_place, only
from clients.ohif.stored import assert_label_is_stored, assert_seg_is_archived

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("name", KINDS)
def test_an_annotator_segments_two_structures_submits_them_and_gets_the_next_case(
    viewer, hospital, keep, name
):
    series = hospital.series[name]
    truth = series.truth
    viewer.open(series)

    # a click, and the mask is on the slice
    viewer.choose("liver")
    viewer.key("a")
    viewer.click(series.world(LIVER, 40, 36))
    clicked = viewer.masks(series)["liver"]
    assert_in_place(clicked, only(truth["liver"], LIVER), 0.9)
    keep(f"{name}_click")

    # taken back, and done again
    viewer.key("u")
    viewer.idle()
    assert not viewer.masks(series)["liver"].any()
    viewer.key("y")
    viewer.idle()
    np.testing.assert_array_equal(viewer.masks(series)["liver"], clicked)

    # through all slices
    viewer.key("f")
    viewer.idle()
    liver = viewer.masks(series)["liver"]
    assert_in_place(liver, truth["liver"], 0.85)

    # a second structure, typed, by a box; the first stays as it is
    viewer.add("lesion")
    viewer.key("d")
    viewer.drag(series.world(TUMOUR, 47, 71), series.world(TUMOUR, 77, 97))
    masks = viewer.masks(series)
    assert_in_place(masks["lesion"], only(truth["tumour"], TUMOUR), 0.9)
    np.testing.assert_array_equal(masks["liver"], liver)
    viewer.key("f")
    viewer.idle()
    keep(f"{name}_propagated")

    # corrected on another slice: only that slice changes, and then the rest follows
    viewer.tool("inside")
    before = viewer.masks(series)["lesion"]
    viewer.click(series.world(TUMOUR + 1, 62, 84))
    after = viewer.masks(series)["lesion"]
    np.testing.assert_array_equal(np.delete(after, TUMOUR + 1, 0), np.delete(before, TUMOUR + 1, 0))
    viewer.press("propagate")
    viewer.idle()
    masks = viewer.masks(series)
    assert_in_place(masks["lesion"], truth["tumour"], 0.85)
    np.testing.assert_array_equal(masks["liver"], liver)

    # submitted
    viewer.key("Shift+S")
    viewer.idle()
    assert viewer.said == "Submitted: liver, lesion."
    keep(f"{name}_submitted")
    assert_label_is_stored(hospital.server, series, {1: masks["liver"], 3: masks["lesion"]})
    assert_seg_is_archived(hospital.archive, series, {"liver": masks["liver"], "lesion": masks["lesion"]})

    # the next case
    page = viewer.page.url
    viewer.press("next")
    viewer.page.wait_for_url(lambda url: url != page)
    viewer.ready()
    others = {other.study for other in hospital.series.values() if other.study != series.study}
    assert any(study in viewer.page.url for study in others)
    assert viewer.masks(series) == {}
    assert viewer.page.locator('#biosam2 input[value="lesion"]').count() == 1  # typed once, for all cases
    keep(f"{name}_next")
    # the person goes home: the case is kept for nobody
    (opened,) = (other for other in hospital.series.values() if other.study in viewer.page.url)
    viewer.give_back(opened)
