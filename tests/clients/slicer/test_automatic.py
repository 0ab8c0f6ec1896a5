"""Auto Segmentation in Slicer: the structures of submitted labels, in the segments of their names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient

from lib.imaging.volume import load_volume


@pytest.fixture(autouse=True)
def nothing_labelled(server: Any) -> Iterator[None]:
    """No image of the datastore has a final label, before and after the test."""
    _remove_labels(server.url)
    yield
    _remove_labels(server.url)


def _remove_labels(url: str) -> None:
    for image, about in MONAILabelClient(url).datastore()["objects"].items():
        if "final" in about["labels"]:
            label = {"id": image, "tag": "final"}
            requests.delete(f"{url}/datastore/label", params=label, timeout=60).raise_for_status()


@pytest.fixture
def answered(post: Callable[..., requests.Response], tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """What the server answers over HTTP for an image and the indexes of a label: voxels by structure."""

    def ask(image: str, indexes: dict[str, int]) -> dict[str, np.ndarray]:
        answer = post("biosam2_auto", {"result_extension": ".nii.gz"}, image, output="image")
        (tmp_path / "answer.nii.gz").write_bytes(answer.content)
        values = load_volume(tmp_path / "answer.nii.gz").voxels
        assert set(np.unique(values)) == {0, *indexes.values()}
        return {name: values == index for name, index in indexes.items()}

    return ask


def test_while_nothing_is_labelled_the_servers_sentence_is_shown(person, samples):
    person.next_sample(samples["ras"])
    person.run_automatic()
    assert "No image has a final label yet" in person.desktop.errors.pop()


def test_structures_submitted_for_one_volume_arrive_in_their_segments_on_another(
    person, samples, answered, dice
):
    person.next_sample(samples["ras"])
    for label, centre in samples["ras"].centre.items():
        person.choose("biosam2_3d", label)
        person.click(centre)
    person.submit()

    volume = samples["oblique"]
    person.next_sample(volume)
    person.run_automatic()
    assert person.structures == ["structure", "tumour", "vessel"]
    # Slicer numbers all segments, and the first one of the submitted label was empty
    for label, voxels in answered(volume.name, {"tumour": 2, "vessel": 3}).items():
        np.testing.assert_array_equal(person.marked(label), voxels)
        assert dice(voxels, volume.inside[label]) > 0.5
    assert not person.marked("structure").any()


INDEXES = {"vessel": 4, "tumour": 9}


@pytest.fixture
def gaps(samples: dict[str, Any], client: MONAILabelClient, tmp_path: Path) -> None:
    """A label with `INDEXES` is submitted."""
    volume = samples["ras"]
    label = sum(volume.inside[name] * index for name, index in INDEXES.items()).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, volume.affine), tmp_path / "label.nii.gz")
    listed = [{"name": name, "idx": index} for name, index in INDEXES.items()]
    client.save_label(volume.name, str(tmp_path / "label.nii.gz"), params={"label_info": listed})


def test_next_sample_comes_with_its_structures_where_auto_run_is_on(person, samples, answered, gaps):
    person.want_automatic()
    person.next_sample(samples["lps"])
    assert person.structures == ["structure", "vessel", "tumour"]
    for name, voxels in answered(samples["lps"].name, INDEXES).items():
        np.testing.assert_array_equal(person.marked(name), voxels)


def test_next_sample_comes_with_what_a_batch_has_found(person, samples, answered, gaps, server):
    name, url = samples["lps"].name, f"{server.url}/batch/infer/"
    requests.post(f"{url}biosam2_auto", json={"images": [name]}, timeout=60).raise_for_status()
    try:
        while requests.get(url, timeout=60).json()["status"] == "RUNNING":
            time.sleep(0.1)
        person.next_sample(samples["lps"])
        for structure, voxels in answered(name, INDEXES).items():
            np.testing.assert_array_equal(person.marked(structure), voxels)
    finally:
        label = {"id": name, "tag": "original"}
        requests.delete(f"{server.url}/datastore/label", params=label, timeout=60)
