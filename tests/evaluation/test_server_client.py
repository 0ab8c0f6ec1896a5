"""What a simulated person sends, whatever the slice axis; refusals, and a server that is away."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException, MONAILabelError

from lib.evaluation.datasets import Pair
from lib.evaluation.server_client import Case, Client, Refused
from lib.evaluation.study import read_study
from lib.imaging.volume import load_volume

NAMES = {1: "large", 2: "small"}
WITHOUT_LABEL = "Status: 409; Response: no image has a final label yet"


class Answering:
    """Stands in for MONAI Label's client: answers with label maps, or raises what is next in line."""

    def __init__(self, folder, labels, affine, said) -> None:
        self.folder, self.labels, self.affine, self.said = folder, labels, affine, said
        self.asked: list[tuple] = []
        self.line: list[Exception] = []

    def info(self):
        return {"models": {"biosam2_auto": {}}}

    def infer(self, model, image, params, file=None):
        if self.line:
            raise self.line.pop(0)
        self.asked.append((model, image, params, file))
        path = self.folder / f"{len(self.asked)}.nii.gz"
        nib.save(nib.Nifti1Image(self.labels, self.affine), path)
        return str(path), self.said


@pytest.fixture
def both(tmp_path, write_case):
    """A client and a study whose slices are along the first axis."""
    write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", shape=(14, 40, 36), spacing=(4, 1, 1))
    study = read_study(Pair("image", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", NAMES))
    assert study.volume.slice_axis == 0
    client = Client("http://nowhere", "one", tmp_path / "files")
    labels = np.zeros((14, 40, 36), np.uint8)
    labels[3, 10:20, 5:9] = 1
    client._client = Answering(tmp_path, labels, study.volume.affine, {"label_names": {"small": 1}})
    return client, study


class Info:
    """An answer of the server about one image."""

    ok = True

    def __init__(self, key: str | None) -> None:
        self.key = key

    def json(self):
        return {"path": "…"} if self.key is None else {"biosam2": {"key": self.key}}


def refusal(text):
    return MONAILabelClientException(MONAILabelError.SERVER_ERROR, text)


def test_clicks_and_masks_go_out_in_voxels_of_the_image_and_come_back_as_slices(both):
    client, study = both
    case = Case(client, study)
    found = case.on_slice("small", [(3, 12, 6), (3, 1, 2)], [True, False], np.eye(40, 36, dtype=bool))
    assert found.shape == (40, 36) and found[10:20, 5:9].all() and found.sum() == 40
    _, image, params, _ = client._client.asked[0]
    assert image == "image" and params["slice"] == 3 and params["slice_axis"] == 0
    assert params["foreground"] == [[3, 12, 6]] and params["background"] == [[3, 1, 2]]
    assert params["mask"]["shape"] == [40, 36] and params["label"] == "small"

    mask = np.zeros((14, 40, 36), bool)
    mask[3, 0, 0] = True
    found = case.through("small", [], [], mask, (1, 5))
    assert found.shape == (14, 40, 36) and np.flatnonzero(found.any((1, 2))).tolist() == [3]
    _, _, params, _ = client._client.asked[1]
    assert params["slice_range"] == [1, 5] and params["mask"] == {"shape": [14, 40, 36], "rle": [4320, 1]}


def test_pre_labels_come_by_name_and_what_the_server_does_not_know_is_empty(both):
    client, study = both
    found = client.pre_label(study, NAMES)
    assert found["small"].sum() == 40 and not found["large"].any()
    client.segment(study, NAMES)
    assert client._client.asked[1][1:] == (
        "",
        {"result_extension": ".nii.gz"},
        str(study.pair.image),
    )


def test_while_nothing_is_labelled_there_is_no_pre_label(both):
    client, study = both
    client._client.line = [refusal(WITHOUT_LABEL), refusal("Status: 500; Response: oh")]
    assert client.pre_label(study, NAMES) is None
    with pytest.raises(Refused, match="oh") as error:
        client.pre_label(study, NAMES)
    assert error.value.status == 500


def test_a_server_that_is_away_or_busy_is_asked_again_by_the_patient_only(both):
    client, study = both
    client._client.line = [ConnectionRefusedError()]
    with pytest.raises(ConnectionRefusedError):
        client.infer("biosam2_2d", "image", {})
    client.patience = 30
    client._client.line = [ConnectionResetError(), refusal("Status: 503; Response: the line is too long")]
    assert client.infer("biosam2_2d", "image", {})[0].any()
    assert client.seconds < 1  # what was waited for in vain is no answer's time


def test_a_label_map_is_submitted_on_the_images_grid_with_the_names_of_all_structures(both, tmp_path):
    client, study = both
    kept = {}

    def save_label(image, file, tag, params):
        volume = load_volume(file)
        kept.update(image=image, tag=tag, params=params, voxels=volume.voxels, affine=volume.affine)

    client._client.save_label = lambda image, file, tag, params: save_label(
        image, tmp_path / "files" / file, tag, params
    )
    client.submit(study, study.labels.astype(np.uint8), NAMES)
    assert kept["image"] == "image" and kept["tag"] == "final"
    assert kept["params"] == {"label_info": [{"name": "large", "idx": 1}, {"name": "small", "idx": 2}]}
    np.testing.assert_array_equal(kept["voxels"], study.labels)
    np.testing.assert_allclose(kept["affine"], study.volume.affine)


@pytest.mark.parametrize(("keys", "found"), [("aa", {"a"}), ("ab", {"a", "b"}), ([None, "a"], {""})])
def test_scores_are_of_one_kind_or_not(both, monkeypatch, keys, found):
    client, _ = both
    entries = {str(n): {"labels": {}} for n in range(len(keys))} | {"done": {"labels": {"final": {}}}}
    client._client.datastore = lambda: {"objects": entries}
    asked = "lib.evaluation.server_client.requests.get"
    monkeypatch.setattr(asked, lambda url, params, timeout: Info(keys[int(params["image"])]))
    assert client.score_keys() == found
