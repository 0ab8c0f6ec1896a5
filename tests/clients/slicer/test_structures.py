"""Several structures, sessions, Submit and Next Sample in Slicer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests

from lib.imaging.volume import load_volume


@pytest.mark.parametrize("model", ["biosam2_2d", "biosam2_3d"])
def test_a_second_structure_leaves_the_first_as_it_was(person, volumes, model):
    volume = volumes["oblique_lps"]
    person.open_file(volume.path)
    person.choose(model, "tumour")
    person.click(volume.centre["tumour"])
    first = person.marked("tumour")
    assert first.any()
    person.choose(model, "vessel")
    person.click(volume.centre["vessel"])
    assert person.marked("vessel")[volume.centre["vessel"]]
    np.testing.assert_array_equal(person.marked("tumour"), first)
    assert not (first & person.marked("vessel")).any()


def test_points_of_a_structure_come_back_when_it_is_chosen_again(person, volumes):
    volume = volumes["oblique_lps"]
    person.open_file(volume.path)
    for label, centre in volume.centre.items():
        person.choose("biosam2_2d", label)
        person.click(centre)
    person.choose("biosam2_2d", "tumour")
    assert person.sent_points == [list(volume.centre["tumour"])]


def test_a_file_of_ones_own_is_one_session_and_no_image_of_the_datastore(person, volumes, client, tmp_path):
    volume = volumes["oblique_lps"]
    path = tmp_path / f"mine{volume.path.suffix}"
    path.write_bytes(volume.path.read_bytes())
    person.open_file(path)
    assert "session_id" not in person.sample
    sessions = []
    for label, centre in volume.centre.items():
        person.choose("biosam2_2d", label)
        person.click(centre)
        assert person.marked(label)[centre]
        sessions.append(person.sample["session_id"])
    assert sessions[0] == sessions[1]
    assert client.get_session(sessions[0])["name"] == sessions[0]
    assert "mine" not in client.datastore()["objects"]


def test_submit_stores_the_image_and_its_segments_as_they_are_in_slicer(
    person, volumes, client, taken_out, same_grid, dice, tmp_path
):
    volume = volumes["oblique_lps"]
    path = tmp_path / f"mine{volume.path.suffix}"
    path.write_bytes(volume.path.read_bytes())
    person.open_file(path)
    for label, centre in volume.centre.items():
        person.choose("biosam2_3d", label)
        person.click(centre)
    taken_out.append("mine")
    person.submit()
    assert "saved" in person.desktop.said[-1]

    stored = client.datastore()["objects"]["mine"]["labels"]["final"]["info"]["label_info"]
    assert [entry["name"] for entry in stored] == person.structures == ["structure", "tumour", "vessel"]
    downloaded = client.download_label("mine", "final")
    same_grid(downloaded, path)
    values = load_volume(Path(downloaded)).voxels
    for entry in stored:
        np.testing.assert_array_equal(values == entry["idx"], person.marked(entry["name"]))
    for label, inside in volume.inside.items():
        assert dice(person.marked(label), inside) > 0.8


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same machine", "another machine"])
def test_next_sample_opens_the_image_with_a_segment_for_each_label(person, samples, elsewhere):
    volume = samples["oblique"]
    person.next_sample(volume, elsewhere)
    assert person.sample["id"] == volume.name
    assert not person.sample.get("session")
    np.testing.assert_array_equal(person.voxels, volume.voxels)
    assert person.structures == person.plugin.info["labels"]


def test_a_submitted_sample_is_not_given_out_again_until_its_label_is_gone(person, samples, client, server):
    volume = samples["lps"]
    person.next_sample(volume)
    person.choose("biosam2_2d", "tumour")
    person.click(volume.centre["tumour"])
    person.submit()
    try:
        assert client.datastore()["objects"][volume.name]["labels"]["final"]
        person.make_due(volume.name)
        assert client.next_sample("random", {})["id"] != volume.name
    finally:
        label = {"id": volume.name, "tag": "final"}
        gone = requests.delete(f"{server.url}/datastore/label", params=label, timeout=60)
    gone.raise_for_status()
    person.next_sample(volume)
    assert person.sample["id"] == volume.name
