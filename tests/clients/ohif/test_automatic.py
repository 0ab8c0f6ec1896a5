"""Structures that were labelled in another series are found in this one without prompts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from clients.ohif.phantoms import COUNT, LIVER, Series, dice
from clients.ohif.stored import values_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# the indexes in the submitted label; the panel lists "liver" first and does not know of a "lesion"
INDEXES = {"liver": 3, "lesion": 7}


def _take_labels_back(hospital: Any, until: Callable[[Callable[[], bool]], None]) -> None:
    for uid in {str(seg.SeriesInstanceUID) for seg in hospital.archive.segs()}:
        hospital.archive.delete(uid)
    until(lambda: hospital.server.get("/info/").json()["datastore"]["completed"] == 0)


@pytest.fixture(scope="module")
def labelled(hospital: Any, until: Any) -> Iterator[None]:
    """One series has a final label, with liver and lesion; none has one after the tests of this file."""
    _take_labels_back(hospital, until)
    _submit(hospital.server.address, hospital.series["exemplar"])
    yield
    _take_labels_back(hospital, until)


def _submit(address: str, series: Series) -> None:
    grid = requests.get(f"{address}/biosam2/grid", params={"image": series.uid}, timeout=120).json()
    to_world = np.array(grid["to_world"])
    voxels = np.zeros(grid["shape"], np.uint8)
    place = tuple(np.moveaxis(series.indices(np.linalg.inv(to_world)), -1, 0))
    voxels[place] = series.truth["liver"] * INDEXES["liver"] + series.truth["tumour"] * INDEXES["lesion"]
    label = nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_world)
    listed = [{"name": name, "idx": index} for name, index in INDEXES.items()]
    answer = requests.put(
        f"{address}/datastore/label",
        params={"image": series.uid, "tag": "final"},
        data={"params": json.dumps({"label_info": listed})},
        files={"label": ("label.nii", io.BytesIO(label.to_bytes()))},
        timeout=120,
    )
    answer.raise_for_status()


@pytest.fixture
def answered(hospital: Any, tmp_path: Path) -> Callable[[Series], dict[str, np.ndarray]]:
    """What the server answers over HTTP: each structure's voxels in the order of the series' files."""

    def ask(series: Series) -> dict[str, np.ndarray]:
        answer = requests.post(
            f"{hospital.server.address}/infer/biosam2_auto",
            params={"image": series.uid, "output": "image"},
            data={"params": json.dumps({"result_extension": ".nii"})},
            timeout=300,
        )
        answer.raise_for_status()
        (tmp_path / "answer.nii").write_bytes(answer.content)
        values = values_of(tmp_path / "answer.nii", series)
        return {name: values == index for name, index in INDEXES.items()}

    return ask


def test_while_nothing_is_labelled_the_server_says_what_to_do(viewer, hospital, until):
    _take_labels_back(hospital, until)
    viewer.open(hospital.series["ct_flipped"])
    viewer.press("find")
    viewer.idle()
    assert viewer.said.startswith("No image has a final label yet")


def test_what_is_found_goes_into_segments_by_name_around_what_is_marked_and_is_one_step(
    viewer, labelled, hospital, answered, pace, keep
):
    series = hospital.series["ct_flipped"]
    viewer.open(series)
    viewer.tool("inside")
    viewer.paint(series, [[LIVER, 40, 36]], value=2)  # a person's, and called a tumour
    drawn = viewer.masks(series)

    pace.hold(COUNT)
    viewer.key("g")
    viewer.looked(COUNT)
    keep("finding")
    viewer.key("q")
    viewer.idle()
    assert "cancelled" in viewer.said.lower()
    pace.release()
    assert_same(viewer.masks(series), drawn)

    viewer.key("g")
    viewer.idle()
    assert viewer.said.startswith("Found: liver, lesion.")
    found, answer = viewer.masks(series), answered(series)
    answer["liver"][LIVER, 40, 36] = False
    assert_same(found, {**answer, "tumour": drawn["tumour"]})
    assert dice(found["liver"], series.truth["liver"]) > 0.8
    assert dice(found["lesion"], series.truth["tumour"]) > 0.8
    assert viewer.page.locator('#biosam2 input[value="lesion"]').count() == 1
    keep("found")

    viewer.key("u")
    viewer.idle()
    assert_same(viewer.masks(series), {**drawn, "lesion": np.zeros_like(drawn["liver"])})
    viewer.key("y")
    viewer.idle()
    assert_same(viewer.masks(series), found)

    # corrected by a person, it stays as it is when all are looked for again
    viewer.press("clear")
    viewer.idle()
    viewer.key("g")
    viewer.idle()
    assert viewer.said.startswith("Found: liver. Marked already, and left as it is: lesion.")
    assert_same(viewer.masks(series), found)


def test_the_next_case_opens_with_its_structures_found_for_those_who_want_that(viewer, labelled, hospital):
    series = hospital.series["unlabelled"]
    viewer.open(hospital.series["exemplar"])
    viewer.part("finds").check()
    given = json.dumps({"id": series.uid})
    viewer.page.route("**/activelearning/**", lambda route: route.fulfill(body=given))
    viewer.press("next")
    viewer.page.wait_for_url(lambda url: series.study in url)
    viewer.ready()
    viewer.part("status").filter(has_text="Found: liver, lesion.").wait_for()
    assert dice(viewer.masks(series)["liver"], series.truth["liver"]) > 0.8
    assert viewer.part("finds").is_checked()


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask)
