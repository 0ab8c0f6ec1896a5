"""What a person can get wrong: each is answered with 4xx and one plain sentence, and does no harm."""

from __future__ import annotations

import json
import tempfile

import nibabel as nib
import numpy as np
import pytest
import requests

GOOD = {"foreground": [[30, 30, 6]]}


def _deep(levels: int) -> str:
    return '{"foreground": ' + "[" * levels + "]" * levels + "}"


# what it is: params (as an object or as the very text), image, words that the sentence must hold
BAD_PARAMS = {
    "a point outside the volume": (
        {"foreground": [[600, 10, 3]]},
        "foreground",
        "[600, 10, 3]",
        "72 x 60 x 12",
    ),
    "a negative point": ({"foreground": [[-3, 10, 3]]}, "foreground", "[-3, 10, 3]"),
    "a background point outside": ({**GOOD, "background": [[1, 1, 12]]}, "background", "[1, 1, 12]"),
    "a literal NaN": ('{"foreground": [[NaN, 10, 3]]}', "foreground", "nan"),
    "NaN as text": ({"foreground": [["NaN", 10, 3]]}, "foreground", "NaN"),
    "a literal infinity": ('{"foreground": [[1, -Infinity, 3]]}', "foreground", "inf"),
    "a number that no float holds": ('{"foreground": [[1, 1e999, 3]]}', "foreground", "inf"),
    "a very long number": ('{"foreground": [[1, ' + "9" * 400 + ", 3]]}", "foreground"),
    "a number beyond Python's digits": ('{"foreground": [[1, ' + "9" * 9000 + ", 3]]}", "params"),
    "null in a point": ({"foreground": [[1, None, 3]]}, "foreground", "None"),
    "two numbers without a slice": ({"foreground": [[30, 30]]}, "foreground", "slice"),
    "no prompt at all": ({}, "foreground", "background", "roi", "boxes", "mask"),
    "empty lists": ({"foreground": [], "background": []}, "foreground"),
    "background points only": ({"background": [[3, 3, 3]]}, "background", "object"),
    "points that are text": ({"foreground": "somewhere"}, "foreground", "somewhere"),
    "points that are an object": ({"foreground": {"x": 1}}, "foreground"),
    "a path as label": ({**GOOD, "label": "/etc/passwd"}, "label", "/etc/passwd"),
    "a path upwards as label": ({**GOOD, "label": "../../x.nii.gz"}, "label", "../../x.nii.gz"),
    "a path as mask": ({"mask": "/etc/passwd"}, "mask"),
    "a label that is a number": ({**GOOD, "label": 7}, "label", "7"),
    "an empty text": ("", "prompt", "foreground"),
    "params that are not JSON": ("{foreground", "params", "JSON"),
    "params that are a list": ("[1, 2]", "params", "[1, 2]"),
    "params that are a list of pairs": ('[["image", "x"]]', "params", "image"),
    "params that are a number": ("5", "params", "5"),
    "params that are null": ("null", "params", "null"),
    "params that are text": ('"foreground"', "params", "foreground"),
    "JSON nested too deeply": (_deep(100_000), "params"),
    "points nested too deeply": (_deep(50), "foreground"),
    "an unknown result_extension": ({**GOOD, "result_extension": ".exe"}, "result_extension", ".exe"),
    "a path as result_extension": ({**GOOD, "result_extension": "/../../x.nrrd"}, "result_extension"),
    "PNG for a volume": ({**GOOD, "result_extension": ".png"}, "result_extension", ".png", "12"),
    "an unknown result_dtype": ({**GOOD, "result_dtype": "complex64"}, "result_dtype", "complex64"),
    "a result_dtype that is a list": ({**GOOD, "result_dtype": [1]}, "result_dtype", "[1]"),
    "an unknown window": ({**GOOD, "window": "sunny"}, "window", "sunny"),
    "a window of no width": ({**GOOD, "window": {"level": 40, "width": 0}}, "window", "0"),
    "a window that is not finite": ('{"foreground": [[30,30,6]], "window": [NaN, 3]}', "window", "nan"),
    "a window of three numbers": ({**GOOD, "window": [1, 2, 3]}, "window", "[1, 2, 3]"),
    "a slice outside the volume": ({**GOOD, "slice": 12}, "slice", "12", "11"),
    "a slice that is text": ({**GOOD, "slice": "top"}, "slice", "top"),
    "half a slice": ({**GOOD, "slice": 1.5}, "slice", "1.5"),
    "a fourth slice_axis": ({**GOOD, "slice_axis": 3}, "slice_axis", "3"),
    "a slice_range outside": ({**GOOD, "slice_range": [0, 12]}, "slice_range", "[0, 12]"),
    "a slice_range the wrong way round": ({**GOOD, "slice_range": [8, 2]}, "slice_range", "[8, 2]"),
    "a slice_range of one number": ({**GOOD, "slice_range": [3]}, "slice_range", "[3]"),
    "an unknown direction": ({**GOOD, "direction": "up"}, "direction", "up"),
    "an roi of five numbers": ({"roi": [1, 9, 1, 9, 3]}, "roi", "[1, 9, 1, 9, 3]"),
    "an roi outside the volume": ({"roi": [90, 99, 1, 9, 3, 4]}, "roi", "90"),
    "an roi with NaN": ('{"roi": [1, NaN, 1, 9, 3, 4]}', "roi", "nan"),
    "an roi without area": ({"roi": [5, 5, 1, 9, 3, 3]}, "roi", "area"),
    "a box of five numbers": ({"boxes": [[1, 2, 3, 4, 5]]}, "boxes[0]", "[1, 2, 3, 4, 5]"),
    "2000 points": ({"foreground": [[30, 30, 6]] * 2000}, "foreground", "2000"),
    "200000 points": ({"foreground": [[30, 30, 6]] * 200_000}, "1024KB"),
    "objects with one label": (
        {"objects": [{"label": "a", **GOOD}, {"label": "a", "foreground": [[9, 9, 6]]}]},
        "label",
        '"a"',
    ),
    "an object without a prompt": ({"objects": [{"label": "a", **GOOD}, {"label": "b"}]}, '"b"', "prompt"),
    "an unknown field in an object": ({"objects": [{"label": "a", "fg": [[9, 9, 6]]}]}, "fg", "objects[0]"),
    "objects that are numbers": ({"objects": [5]}, "objects[0]", "5"),
    "a mask of another shape": ({"mask": {"shape": [2, 2, 2], "rle": [0, 1]}}, "mask", "72 x 60 x 12"),
    "a huge mask": ({"mask": {"shape": [10**6, 10**6, 10**6], "rle": [0, 1]}}, "mask"),
    "runs outside the mask": ({"mask": {"shape": [72, 60, 12], "rle": [51839, 5]}}, "mask", "51839"),
    "a model that is a list": ({**GOOD, "model": ["biosam2_2d"]}, "model"),
    "an image that is a number": ({**GOOD, "image": 5}, "image", "5"),
    "a path as label_tag": ({**GOOD, "save_label": True, "label_tag": "../../x"}, "label_tag", "../../x"),
}


@pytest.fixture
def refused(server):
    """Fails unless an answer is 4xx with one plain sentence that holds the words, and no path."""

    def check(answer: requests.Response, *words: str) -> str:
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
        body = answer.json()
        assert list(body) == ["detail"]
        sentence = body["detail"]
        assert isinstance(sentence, str) and sentence.strip() and "\n" not in sentence
        assert len(sentence) < 400
        for word in words:
            assert word in sentence
        for path in (
            str(server.folder),
            str(server.log.parent),
            "site-packages",
            "Traceback",
            "apps/biosam2",
        ):
            assert path not in sentence
        assert f"{tempfile.gettempdir()}/" not in sentence
        return sentence

    return check


@pytest.fixture(autouse=True)
def the_next_good_request_is_answered(request, post):
    """Whatever a test sent, the server goes on."""
    yield
    answer = post("biosam2_2d", GOOD, "axial", output="json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["label_names"] == {"object": 1}


@pytest.mark.parametrize("what", BAD_PARAMS)
@pytest.mark.parametrize("model", ["biosam2_2d", "biosam2_3d"])
def test_a_bad_field_is_named_with_its_value(post, refused, model, what):
    params, *words = BAD_PARAMS[what]
    refused(post(model, params, "axial"), *words)


def test_a_slice_that_no_prompt_is_on_is_refused(post, refused):
    refused(post("biosam2_2d", {**GOOD, "slice": 2}, "axial"), "slice", "2")


def test_an_unknown_model_is_not_found(post, refused):
    answer = post("deepedit", GOOD, "axial")
    refused(answer, "model", "deepedit", "biosam2_2d", "biosam2_3d")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "image",
    ["no_such_image", "/etc/passwd", "../axial", "../../../etc/passwd", "axial.nii.gz", ".", "a/b", "%00"],
)
def test_an_unknown_image_or_a_path_is_not_found(post, refused, image):
    answer = post("biosam2_2d", GOOD, image)
    refused(answer, "image", image)
    assert answer.status_code == 404


def test_the_path_of_an_image_is_not_its_id(post, server):
    answer = post("biosam2_2d", GOOD, str(server.folder / "axial.nii.gz"))
    assert answer.status_code == 404


def test_another_file_in_the_temporary_folder_is_no_image(post, refused, studies):
    with tempfile.NamedTemporaryFile(prefix="private-", suffix=".nii.gz") as file:
        file.write(studies["axial"].path.read_bytes())
        file.flush()
        assert post("biosam2_2d", GOOD, file.name).status_code == 404
        assert post("biosam2_2d", {**GOOD, "label": file.name}, "axial").status_code == 400


def test_no_image_no_file_and_no_session_is_a_mistake_of_the_request(post, refused):
    refused(post("biosam2_2d", GOOD), "image", "file", "session_id")


@pytest.mark.parametrize("session", ["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "../..", "/etc", "."])
def test_an_unknown_session_is_not_found_even_beside_an_image(post, refused, session):
    for image in (None, "axial"):
        answer = post("biosam2_2d", GOOD, image, session_id=session)
        refused(answer, "session_id", session)
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("image", "words"),
    [("truncated", ("truncated", "NIfTI")), ("series_4d", ("(20, 20, 5, 3)", "3D"))],
)
def test_an_unreadable_file_of_the_datastore_is_named(post, refused, image, words):
    for model in ("biosam2_2d", "biosam2_3d"):
        refused(post(model, GOOD, image), f"image '{image}.nii.gz'", *words)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "scan.png", "scan.dcm", "scan", "scan.xyz"])
def test_an_uploaded_file_that_is_no_image_is_refused(post, refused, name):
    refused(post("biosam2_2d", GOOD, files={"file": (name, b"this is no image at all")}), "image")


def test_an_empty_uploaded_file_is_refused(post, refused):
    refused(post("biosam2_2d", GOOD, files={"file": ("scan.nii.gz", b"")}), "image")


def test_an_uploaded_label_that_is_no_image_is_refused(post, refused):
    refused(post("biosam2_2d", GOOD, "axial", files={"label": ("label.nrrd", b"nothing")}), "NRRD")


def test_an_uploaded_label_on_another_grid_is_refused(post, refused, studies, tmp_path):
    moved = nib.load(studies["axial"].path).affine.copy()
    moved[0, 3] += 5
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((72, 60, 12), np.uint8), moved), path)
    answer = post("biosam2_3d", {}, "axial", files={"label": ("label.nii.gz", path.read_bytes())})
    refused(answer, "mask", "grid")


def test_a_kind_of_output_that_does_not_exist_is_refused(post, refused):
    refused(post("biosam2_2d", GOOD, "axial", output="movie"), "output", "movie")


def test_dicom_seg_from_a_folder_of_files_is_refused(post, refused):
    refused(post("biosam2_2d", GOOD, "axial", output="dicom_seg"), "output", "dicom_seg")


def test_other_requests_of_the_server_answer_mistakes_the_same_way(server, refused):
    label = {"label": ("label.nii.gz", b"x")}
    put = f"{server.url}/datastore/label"
    refused(requests.put(put, params={"image": "nobody"}, files=label, timeout=30), "nobody")
    refused(
        requests.put(put, params={"image": "axial"}, files=label, data={"params": "{"}, timeout=30), "params"
    )
    refused(requests.put(put, params={"image": "axial"}, timeout=30), "label")
    refused(requests.put(f"{server.url}/session/", timeout=30), "files")
    refused(requests.get(f"{server.url}/session/nobody", timeout=30), "nobody")
    refused(requests.post(f"{server.url}/activelearning/magic", timeout=30), "magic")
    refused(requests.get(f"{server.url}/datastore/label", params={"label": "a", "tag": "b"}, timeout=30))
    refused(requests.get(f"{server.url}/datastore/image", params={"image": "nobody"}, timeout=30))


@pytest.mark.parametrize("name", ["../../outside", "..", "a/b", "a\\b", "/etc/passwd"])
def test_a_name_cannot_lead_out_of_the_studies_folder(server, refused, name):
    label = {"label": ("label.nii.gz", b"x")}
    image = {"file": ("image.nii.gz", b"x")}
    url = f"{server.url}/datastore"
    refused(
        requests.put(f"{url}/label", params={"image": "axial", "tag": name}, files=label, timeout=30), "tag"
    )
    refused(requests.put(f"{url}/", params={"image": name}, files=image, timeout=30), "image")
    refused(requests.get(f"{url}/label", params={"label": name, "tag": "final"}, timeout=30), "label")
    refused(requests.delete(f"{url}/", params={"id": name}, timeout=30), "id")
    assert not list(server.folder.parent.rglob("outside*"))


def test_a_device_that_is_not_served_is_named(post, refused):
    refused(post("biosam2_2d", {**GOOD, "device": "cuda:7"}, "axial"), "device", "cuda:7", "cpu")


def test_a_file_that_was_deleted_since_is_not_found(post, refused, server, studies):
    path = server.folder / "photo_gray.png"
    content = path.read_bytes()
    # the datastore learns of the loss in its own time; until then the id is still listed
    path.unlink()
    try:
        answer = post("biosam2_2d", {"foreground": [[62, 55]]}, "photo_gray")
        refused(answer, "photo_gray")
        assert answer.status_code == 404
    finally:
        path.write_bytes(content)


def test_the_answer_to_a_refused_request_is_json_that_any_client_reads(post):
    answer = post("biosam2_2d", '{"foreground": [[NaN, 10, 3]]}', "axial")
    assert answer.headers["content-type"] == "application/json"
    json.loads(answer.text, parse_constant=pytest.fail)
