"""Images and labels of a CVAT, of both generations of its API."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.datastores.cvat.client import Account
from lib.datastores.cvat.datastore import CvatDatastore
from lib.errors import NotFound, Unprocessable, UserError
from lib.imaging.volume import load_volume

from .conftest import HEIGHT, WIDTH, blob, pixels
from .double import KEY, LABELS, Cvat, Picture, shape

Connect = Callable[..., CvatDatastore]
FINISHED = [
    *(f"task-1_frame-{n:06d}" for n in (0, 1, 2)),
    *(f"task-2_frame-{n:06d}" for n in (0, 1, 2, 3, 4)),
    "task-7_frame-000000",
]


def label(datastore: CvatDatastore, image: str) -> tuple[np.ndarray, dict[int, str]]:
    """The final label of an image as (W, H), and the names of its values."""
    volume = load_volume(Path(datastore.get_label_uri(image, "final")))
    info = datastore.get_label_info(image, "final")["label_info"]
    return volume.voxels[:, :, 0], {one["idx"]: one["name"] for one in info}


def structure(datastore: CvatDatastore, image: str, name: str) -> np.ndarray:
    """Where a structure is, (H, W)."""
    found, names = label(datastore, image)
    (value,) = [value for value, known in names.items() if known == name]
    return (found == value).T


def test_all_pages_are_listed_and_frames_that_were_deleted_are_not(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    images = datastore.list_images()
    assert len(images) == 5 + 12 - 1 + 1
    assert "task-2_frame-000004" in images and "task-2_frame-000005" not in images
    pages = {asked.split("&")[0] for asked in cvat.asked if asked.startswith("GET /api/jobs")}
    assert pages == {f"GET /api/jobs?page={page}" for page in (1, 2, 3)}


def test_final_is_what_lies_in_completed_jobs_only(cvat: Cvat, connect: Connect):
    # frames 6 and 7 of the video are in a second job, which is new; ground truth is none of an annotator's
    datastore = connect(cvat)
    assert datastore.get_labeled_images() == FINISHED
    assert sorted([*datastore.get_unlabeled_images(), *FINISHED]) == sorted(datastore.list_images())
    assert datastore.status() == {"total": 17, "completed": 9, "label_tags": {}}


def test_a_project_is_chosen_by_name_or_number(cvat: Cvat, connect: Connect):
    assert connect(cvat, "Cells").list_images() == ["task-7_frame-000000"]
    assert connect(cvat, "2").list_images() == ["task-7_frame-000000"]
    assert connect(cvat, "Empty").list_images() == []
    with pytest.raises(NotFound, match='CVAT has no project "Cell"'):
        connect(cvat, "Cell").list_images()


def test_a_frame_is_what_was_uploaded(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    path = Path(datastore.get_image_uri("task-1_frame-000001"))
    assert path.read_bytes() == cvat.tasks[1].pictures[1].content
    assert np.array_equal(load_volume(path).voxels[:, :, 0], pixels(1).swapaxes(0, 1))
    jpeg = Path(datastore.get_image_uri("task-1_frame-000002"))
    assert (jpeg.name, jpeg.read_bytes()) == ("task-1_frame-000002.jpg", cvat.tasks[1].pictures[2].content)
    assert datastore.get_image("task-2_frame-000003").read() == cvat.tasks[2].pictures[3].content


def test_a_frame_is_downloaded_once(cvat: Cvat, connect: Connect):
    connect(cvat).get_image_uri("task-1_frame-000001")
    connect(cvat).get_image_uri("task-1_frame-000001")
    assert sum("type=frame" in asked for asked in cvat.asked) == 1


def test_masks_are_exact(cvat: Cvat, connect: Connect):
    expected = blob()
    expected[8:11, 16:19] = False  # the label "background" uncovers
    assert np.array_equal(structure(connect(cvat), "task-1_frame-000001", "polyp"), expected)


def test_polygons_and_ellipses_lie_where_they_were_drawn_in_their_order(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    polyp = np.zeros((HEIGHT, WIDTH), bool)
    polyp[4:16, 4:20] = True
    assert np.array_equal(structure(datastore, "task-1_frame-000000", "polyp"), polyp)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turned = np.radians(30)
    along = (x - 20) * np.cos(turned) + (y - 15) * np.sin(turned)
    across = -(x - 20) * np.sin(turned) + (y - 15) * np.cos(turned)
    tool = (along / 10) ** 2 + (across / 6) ** 2 <= 1
    assert np.array_equal(structure(datastore, "task-1_frame-000000", "tool"), tool & ~polyp)


def test_a_track_is_interpolated_and_ends_where_it_is_outside(cvat: Cvat, connect: Connect):
    # frame 2 of the task is frame 8 of the video, of which every second one from the fourth on is taken
    datastore = connect(cvat)
    expected = np.zeros((24, 32), bool)
    expected[3:11, 5:13] = True
    assert np.array_equal(structure(datastore, "task-2_frame-000001", "polyp"), expected)
    with pytest.raises(Unprocessable, match="on frame 3 of task 2 of CVAT nothing is drawn that is a mask"):
        datastore.get_label_uri("task-2_frame-000003", "final")


def test_boxes_are_no_masks(cvat: Cvat, connect: Connect):
    with pytest.raises(Unprocessable, match="nothing is drawn that is a mask \\(only 1 of kind box\\)"):
        connect(cvat).get_label_uri("task-1_frame-000002", "final")


def test_what_is_not_finished_has_no_final_label(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    assert datastore.get_label_uri("task-1_frame-000003", "final") == ""
    assert datastore.get_labels_by_image_id("task-1_frame-000003") == {}
    assert datastore.get_labels_by_image_id("task-1_frame-000001") == {"final": "task-1_frame-000001"}


def test_values_are_in_the_order_of_the_labels_and_never_change(cvat: Cvat, connect: Connect, monkeypatch):
    datastore = connect(cvat)
    assert label(datastore, "task-7_frame-000000")[1] == {3: "cell"}
    assert label(datastore, "task-1_frame-000000")[1] == {1: "polyp", 2: "tool"}
    colors = {
        one["name"]: one["color"] for one in datastore.get_label_info(FINISHED[0], "final")["label_info"]
    }
    assert colors["polyp"] == [11, 128, 64]
    # a label is deleted and another one comes: the others keep their values
    monkeypatch.setitem(LABELS, 1, {12: "tool", 14: "stent"})
    triangle = [1, 1, 9, 1, 9, 9]
    cvat.tasks[1].shapes = [shape("polygon", 0, 14, triangle), shape("polygon", 1, 12, triangle)]
    cvat.tasks[1].change()
    again = connect(cvat)
    assert label(again, "task-1_frame-000000")[1] == {4: "stent"}
    assert label(again, "task-1_frame-000001")[1] == {2: "tool"}


def test_a_change_in_cvat_is_noticed_and_only_what_has_changed_is_new(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    before = datastore.final_labels()
    assert list(before) == [
        image for image in FINISHED if image not in ("task-1_frame-000002", FINISHED[6], FINISHED[7])
    ]
    exports = sum("format=" in asked for asked in cvat.asked)
    datastore.refresh()
    assert datastore.final_labels() == before
    assert sum("format=" in asked for asked in cvat.asked) == exports

    cvat.tasks[1].shapes[2] = shape("polygon", 1, 12, [1, 1, 9, 1, 9, 9, 1, 9])
    cvat.tasks[1].change(1)
    datastore.refresh()
    after = datastore.final_labels()
    assert {image for image in before if before[image] != after[image]} == {"task-1_frame-000001"}
    assert structure(datastore, "task-1_frame-000001", "tool").sum() == 64


def test_a_job_that_is_opened_again_takes_its_labels_back(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    assert datastore.get_label_uri("task-1_frame-000001", "final")
    cvat.tasks[1].jobs[1][2] = "new"
    cvat.tasks[1].change(1)
    datastore.refresh()
    assert not any(image.startswith("task-1") for image in datastore.final_labels())
    assert datastore.get_label_uri("task-1_frame-000001", "final") == ""


def test_a_deleted_frame_that_is_brought_back_has_its_label_again(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    before = datastore.final_labels()
    cvat.tasks[1].delete(1)
    datastore.refresh()
    assert set(before) - set(datastore.final_labels()) == {"task-1_frame-000001"}
    # an export that was made in between has nothing of it
    cvat.tasks[1].change(1)
    datastore.refresh()
    datastore.final_labels()
    cvat.tasks[1].delete()
    datastore.refresh()
    assert datastore.final_labels() == before
    assert structure(datastore, "task-1_frame-000001", "polyp").any()


def test_work_in_a_job_that_is_not_finished_asks_for_no_export(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    datastore.final_labels()
    exports = sum("format=" in asked for asked in cvat.asked)
    cvat.tasks[1].change(2)
    datastore.refresh()
    datastore.final_labels()
    assert sum("format=" in asked for asked in cvat.asked) == exports


def test_a_restart_exports_nothing_again(cvat: Cvat, connect: Connect):
    before = connect(cvat).final_labels()
    exports = sum("format=" in asked for asked in cvat.asked)
    assert connect(cvat).final_labels() == before
    assert sum("format=" in asked for asked in cvat.asked) == exports


def test_a_database_that_begins_anew_brings_other_images(current: Cvat, connect: Connect, monkeypatch):
    first = Path(connect(current).get_image_uri("task-1_frame-000000")).read_bytes()
    current.tasks[1].pictures[0] = Picture("other.png", pixels(99))
    datastore = connect(current)
    datastore.list_images()
    assert Path(datastore.get_image_uri("task-1_frame-000000")).read_bytes() != first


def test_an_api_key_is_taken_as_well_as_a_password(cvat: Cvat, connect: Connect):
    assert len(connect(cvat, account=Account(key=KEY)).list_images()) == 17


def test_a_session_that_has_expired_is_begun_anew(cvat: Cvat, connect: Connect):
    datastore = connect(cvat)
    datastore.list_images()
    cvat.sessions.clear()
    datastore.refresh()
    assert len(datastore.list_images()) == 17


def test_the_subject_is_the_patient_or_else_the_task(current: Cvat, connect: Connect):
    datastore = connect(current)
    patients = {}
    for number in range(5):
        image = f"task-1_frame-{number:06d}"
        datastore.get_image_uri(image)
        patients[number] = datastore.get_image_info(image)["patient"]
    assert patients == {0: "sub-01", 1: "sub-02", 2: "task-1", 3: "task-1", 4: "task-1"}


def test_no_name_of_cvat_s_becomes_a_path(current: Cvat, connect: Connect, tmp_path: Path):
    datastore = connect(current)
    datastore.get_image_uri("task-1_frame-000002")  # ../../etc/c.jpg
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.parts[0] == "cache" for path in files)
    assert not any("etc" in str(path) for path in files)
    for image in (
        "../../etc/passwd",
        "task-1_frame-1",
        "task-01_frame-000001",
        "task-1_frame-000001/..",
        "",
        None,
    ):
        assert not datastore.has(image)
        assert datastore.get_image_uri(image) == ""
        assert datastore.get_label_uri(image, "final") == ""
    with pytest.raises(UserError, match="the tag"):
        datastore.get_label_uri("task-1_frame-000001", "../../etc")


def test_an_image_that_was_turned_by_its_exif_is_as_cvat_shows_it(current: Cvat, connect: Connect):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Picture("turned.jpg", pixels(5), "JPEG", exif.tobytes())
    current.tasks[7].pictures[0] = picture
    current.tasks[7].shapes = [shape("polygon", 0, 21, [0, 0, 5, 0, 5, 3, 0, 3])]
    datastore = connect(current)
    found = load_volume(Path(datastore.get_image_uri("task-7_frame-000000"))).voxels
    with Image.open(io.BytesIO(picture.content)) as stored:
        upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert found.shape[:2] == (HEIGHT, WIDTH)
    assert np.array_equal(found[:, :, 0], upright.swapaxes(0, 1))
    assert structure(datastore, "task-7_frame-000000", "cell").shape == (WIDTH, HEIGHT)


def test_formats_that_no_client_shows_become_png(current: Cvat, connect: Connect):
    current.tasks[7].pictures[0] = Picture("cell.bmp", pixels(6), "BMP")
    path = Path(connect(current).get_image_uri("task-7_frame-000000"))
    assert path.suffix == ".png"
    assert np.array_equal(load_volume(path).voxels[:, :, 0], pixels(6).swapaxes(0, 1))


@pytest.mark.parametrize("kind", [">u2", "<i4", "<f4"])
def test_deep_grey_stays_grey(current: Cvat, connect: Connect, kind: str):
    deep = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 40 + 7
    current.tasks[7].pictures[0] = Picture("cell.tif", deep.astype(kind), "TIFF")
    found = load_volume(Path(connect(current).get_image_uri("task-7_frame-000000"))).voxels.squeeze().T
    share = (deep - 7) / (deep.max() - 7)  # numbers with a comma become those of 16 bit, from least to most
    expected = np.round(share * 65535) if kind == "<f4" else deep
    assert found.dtype == np.uint16
    assert np.array_equal(found, expected)


def test_images_that_were_not_used_for_long_make_room(current: Cvat, connect: Connect, monkeypatch):
    from lib.datastores.cvat import files

    monkeypatch.setattr(files, "IN_USE_SECONDS", -1.0)
    datastore = connect(current)
    datastore._files._image_bytes = 3 * len(current.tasks[1].pictures[0].content)
    for number in (0, 1, 3, 4):
        datastore.get_image_uri(f"task-1_frame-{number:06d}")
    datastore.update_image_info("task-1_frame-000004", {"score": 1})
    kept = sorted(path.name for path in Path(datastore._files.folder, "images").glob("*.png"))
    assert kept == ["task-1_frame-000003.png", "task-1_frame-000004.png"]
    assert Path(datastore.get_image_uri("task-1_frame-000000")).exists()


def test_the_training_list_and_the_archive_have_what_can_be_learnt_from(cvat: Cvat, connect: Connect):
    datastore = connect(cvat, "Endoscopy")
    listed = datastore.datalist()
    assert [Path(case["image"]).stem for case in listed] == list(datastore.final_labels())
    assert all(Path(case["image"]).stem == Path(case["label"]).stem for case in listed)
    archive = Path(datastore.get_dataset_archive(2))
    assert archive.exists()
    archive.unlink()


def test_the_table_of_what_is_here_can_be_sent(current: Cvat, connect: Connect):
    datastore = connect(current)
    datastore.get_label_uri("task-1_frame-000001", "final")
    table = json.loads(json.dumps(datastore.json()))
    assert list(table["objects"]) == ["task-1_frame-000001"]
    assert list(table["objects"]["task-1_frame-000001"]["labels"]) == ["final"]
