"""MONAI Label's own panel works as before beside ours."""

from __future__ import annotations

import numpy as np
import pytest
from clients.ohif.browser import on_series
from clients.ohif.phantoms import LIVER, assert_in_place, only

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SET_UP = """() => {
    const { segmentationService } = window.services;
    return segmentationService.getSegmentation('1') && segmentationService.getLabelmapVolume('1') !== null;
}"""
STOCK = """() => {
    const volume = window.services.segmentationService.getLabelmapVolume('1');
    const voxels = volume.voxelManager.getCompleteScalarDataArray();
    return { origin: [...volume.origin], spacing: [...volume.spacing], direction: [...volume.direction],
             shape: [...volume.dimensions],
             voxels: btoa(Array.from(voxels, (x) => String.fromCharCode(x)).join('')) };
}"""


def test_point_prompts_of_the_stock_panel_segment_the_clicked_slice(viewer, hospital, keep):
    series = hospital.series["ct_axial"]
    viewer.open(series, "monai-label")
    page = viewer.page
    page.locator("#monailabelServerURL").fill(f"{hospital.server.address}/")
    page.locator(".settingsTable button.actionButton").click()
    page.locator(".tab-label", has_text="Point Prompts").click()
    tab = page.locator(".tab", has=page.locator(".tab-label", has_text="Point Prompts"))
    page.wait_for_function(SET_UP)
    page.wait_for_timeout(1500)  # a second later it gives the structures their colours
    tab.locator("select").select_option("biosam2_2d")
    tab.locator("tr.clickable-row", has_text="liver").click()
    viewer.click(series.world(LIVER, 40, 36), "mpr-axial")
    page.wait_for_function("() => cornerstoneTools.annotation.state.getAllAnnotations().length === 1")
    with page.expect_response("**/infer/biosam2_2d**") as answer:
        tab.locator("button.actionButton").first.click()
    assert answer.value.ok
    page.wait_for_function(f"() => /[^A=]/.test(({STOCK})().voxels)", polling=300)  # base64 of not only zeros
    keep("stock_panel")
    found = on_series(page.evaluate(STOCK), series)
    assert_in_place(found == _the_value(found), only(series.truth["liver"], LIVER), 0.9)


def _the_value(found: np.ndarray) -> int:
    (value,) = set(np.unique(found)) - {0}
    return int(value)
