"""`biosam2_video`: what a video's prompts are answered with, and what cannot be asked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lib.errors import Cancelled, NotFound, UserError
from lib.imaging import runs
from lib.infers import video_task as module
from lib.infers.slice_task import SliceTask
from lib.infers.video_task import VideoTask
from lib.prompts.prompts import Direction
from lib.sam.model import ModelSlot
from lib.sam.propagate import SliceMask
from lib.settings import Settings
from lib.work import Work, working_on

SIZE, FRAMES = (40, 32), 9
TWO = [
    {"label": "tool", "boxes": [[4, 4, 3, 20, 20, 3]]},
    {"label": "polyp", "boxes": [[12, 12, 5, 30, 30, 5]]},
]


@pytest.fixture(scope="session")
def task(slot: ModelSlot) -> VideoTask:
    return VideoTask(slot, Settings())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Noise, other noise in every test."""
    rng = np.random.default_rng(abs(hash(str(tmp_path))) % 2**32)
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(FRAMES):
            pixels = rng.integers(0, 255, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
    return path


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of the network: a box stays where it is on all frames but the last; keeps what was asked."""
    asked: list[Any] = []

    def propagate(model, planes, count, targets, direction, use_zoom, progress, cancelled, thickness=None):
        asked.append((targets, direction, thickness))
        for number, target in enumerate(targets):
            (index, prompts), *_ = target.prompts.items()
            for n in [index, *range(index + 1, target.last + 1), *range(index - 1, target.first - 1, -1)]:
                if cancelled():
                    raise Cancelled()
                mask = np.zeros(planes(n).shape[:2], bool)
                if prompts.box is not None and n != FRAMES - 1:
                    a0, b0, a1, b1 = (int(x) for x in prompts.box)
                    mask[a0 : a1 + 1, b0 : b1 + 1] = True
                elif prompts.mask is not None:
                    mask = prompts.mask
                yield SliceMask(number, n, mask, 0.9 if mask.any() else 0.0)
                progress(1, 1)

    monkeypatch.setattr(module, "propagate", propagate)
    return asked


@pytest.fixture
def ask(task: VideoTask, video: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    def run(**fields: object) -> tuple[Path, dict[str, Any]]:
        file, params = task({"image": str(video), **fields})
        return Path(str(file)), params

    return run


def test_objects_are_followed_in_time_and_never_overwrite_each_other(ask, given):
    file, params = ask(objects=TWO)
    labels = np.asarray(nib.load(file).dataobj)
    file.unlink()
    assert labels.shape == (*SIZE, FRAMES) and file.name.endswith(".nii.gz")
    expected = np.zeros(SIZE, np.uint8)
    expected[12:31, 12:31] = 2
    expected[4:21, 4:21] = 1
    for index in range(FRAMES - 1):
        np.testing.assert_array_equal(labels[:, :, index], expected)
    assert not labels[:, :, -1].any()
    assert params["label_names"] == {"tool": 1, "polyp": 2}
    assert params["absent"] == {"tool": [[8, 8]], "polyp": [[8, 8]]}
    assert params["score"] == {"tool": 0.9, "polyp": 0.9}
    assert (params["frames"], params["size"], params["fps"]) == (FRAMES, [40, 32], 20)
    assert given[0][2] is None, "time says nothing about size"


def test_runs_and_polygons_are_json_with_all_that_is_told_beside_them(ask, given):
    for form, key in (("runs", "masks"), ("polygons", "polygons")):
        file, params = ask(objects=TWO, result_format=form)
        found = json.loads(file.read_text())
        file.unlink()
        assert file.suffix == ".json" and found["label_names"] == params["label_names"]
        assert found["checkpoint"] == params["checkpoint"]
        assert list(found["objects"][1][key]) == [str(n) for n in range(FRAMES - 1)]
    box = {"size": [40, 32], "bbox": [12, 12, 19, 19], "counts": [0, 361]}
    file, _ = ask(objects=TWO, result_format="runs")
    assert json.loads(file.read_text())["objects"][1]["masks"]["2"] == box
    file.unlink()


def test_an_overlay_shows_the_range_that_was_asked_for(ask, given):
    file, _ = ask(objects=TWO, result_format="overlay", slice_range=[2, 6])
    with av.open(str(file)) as film:
        assert len(list(film.decode(video=0))) == 5
    file.unlink()


def test_range_and_direction_are_passed_on(ask, given):
    file, _ = ask(boxes=TWO[0]["boxes"], slice_range=[1, 6], direction="forward")
    file.unlink()
    ((target,), direction, _) = given[0]
    assert (target.first, target.last, direction) == (1, 6, Direction.FORWARD)


def test_masks_come_back_in_as_they_were_given_out(ask, given):
    file, _ = ask(objects=TWO, result_format="runs")
    found = json.loads(file.read_text())["objects"][0]["masks"]
    file.unlink()
    file, _ = ask(objects=[{"label": "tool", "mask": {"frames": {"2": found["2"], "4": found["4"]}}}])
    file.unlink()
    (target,) = given[1][0]
    assert list(target.prompts) == [2, 4]
    np.testing.assert_array_equal(target.prompts[4].mask, runs.decode(found["4"], SIZE))


def test_a_mask_of_one_frame_needs_no_more_than_the_frame(ask, given):
    mask = np.zeros(SIZE, int)
    mask[5:9, 6:9] = 1
    for sent in (mask.tolist(), runs.encode(mask > 0)):
        file, _ = ask(mask=sent, slice=3)
        file.unlink()
        (target,) = given[-1][0]
        np.testing.assert_array_equal(target.prompts[3].mask, mask > 0)


def test_runs_of_the_whole_video_are_a_mask(ask, given):
    voxels = np.zeros((*SIZE, FRAMES), bool)
    voxels[3:9, 4:8, 2:4] = True
    flat = np.flatnonzero(voxels)
    file, _ = ask(mask={"shape": [*SIZE, FRAMES], "rle": [x for n in flat for x in (int(n), 1)]})
    file.unlink()
    (target,) = given[0][0]
    assert list(target.prompts) == [2, 3]
    np.testing.assert_array_equal(target.prompts[3].mask, voxels[:, :, 3])


def test_an_uploaded_label_map_is_a_mask(ask, given, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    voxels = np.zeros((*SIZE, FRAMES), np.uint8)
    voxels[3:9, 4:8, 5] = 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "tmpabcdefgh.nii.gz")
    file, _ = ask(label=str(tmp_path / "tmpabcdefgh.nii.gz"))
    file.unlink()
    (target,) = given[0][0]
    assert list(target.prompts) == [5]
    nib.save(nib.Nifti1Image(voxels[:, :, :4], np.eye(4)), tmp_path / "tmpabcdefgh.nii.gz")
    with pytest.raises(UserError, match="send it on the video's"):
        ask(label=str(tmp_path / "tmpabcdefgh.nii.gz"))


def test_the_network_follows_a_video_and_finds_it_encoded_the_next_time(ask):
    file, params = ask(foreground=[[20, 16, 4]], slice_range=[3, 6])
    first = file.read_bytes()
    file.unlink()
    assert not params["cached"] and params["score"].keys() == {"object"}
    file, params = ask(foreground=[[20, 16, 4]], slice_range=[3, 6])
    assert params["cached"] and file.read_bytes() == first
    file.unlink()


def test_a_volume_whose_slices_follow_in_time_is_answered_on_its_own_grid(task, given, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 900, (*SIZE, FRAMES)).astype(np.int16)
    affine = np.diag([0.5, -0.5, 2, 1])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "cine.nii.gz")
    request = {"image": str(tmp_path / "cine.nii.gz"), "objects": TWO, "result_extension": ".nrrd"}
    file, _ = task(request)
    Path(str(file)).unlink()
    assert str(file).endswith(".nrrd")
    file, _ = task({**request, "result_extension": ".nii"})
    image = nib.load(file)
    np.testing.assert_array_equal(image.affine, affine)
    assert np.asarray(image.dataobj)[15, 15, 4] == 1
    Path(str(file)).unlink()


def test_a_click_on_a_frame_is_answered_with_the_mask_of_that_frame(slot, video):
    file, params = SliceTask(slot, Settings())({"image": str(video), "foreground": [[20, 16, 7]]})
    with Image.open(str(file)) as picture:
        assert picture.size == SIZE
    Path(str(file)).unlink()
    assert params["slice"] == 7


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"foreground": [[5, 5, FRAMES]]}, r"point \[5, 5, 9\] is outside"),
        ({"foreground": [[5, 5, -1]]}, r"point \[5, 5, -1\] is outside"),
        ({}, "No prompt was given"),
        ({"foreground": [[5, 5]]}, "has no slice"),
        ({"foreground": [[5, 5, 1]], "slice_range": [0, 99]}, r"slice_range \[0, 99\]"),
        ({"foreground": [[5, 5, 1]], "result_format": "gif"}, "labels, runs, polygons, overlay, not gif"),
        ({"foreground": [[5, 5, 1]], "result_format": "runs", "result_extension": ".nrrd"}, "not .nrrd"),
        ({"foreground": [[5, 5, 1]], "result_extension": ".mp4"}, "one of .nii.gz, .nii, not .mp4"),
        (
            {"foreground": [[5, 5, 1]], "result_format": "runs", "save_label": True},
            "save_label keeps label maps",
        ),
        ({"foreground": [[5, 5, 1]], "device": "cuda:7"}, 'device "cuda:7" is not served'),
        ({"mask": {"frames": {"99": {}}}}, "frames has '99'"),
        ({"mask": {"frames": {"1": {"size": [1, 1]}}}}, r"mask.frames\[1\]"),
        ({"mask": {"shape": [40, 32, 9], "rle": [0, 99999999]}}, "outside its 11520 voxels"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence_before_the_network_runs(ask, given, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        ask(**fields)
    assert not given


def test_prompts_on_too_many_frames_are_refused(ask, given, monkeypatch):
    monkeypatch.setattr(module, "MOST_PROMPTED", 3)
    with pytest.raises(UserError, match='"object" has prompts on 4 frames, more than 3'):
        ask(foreground=[[5, 5, n] for n in range(4)])


def test_a_broken_video_is_refused(task, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 1000)
    with pytest.raises(UserError, match="'broken.mp4' cannot be read as a video"):
        task({"image": str(tmp_path / "broken.mp4"), "foreground": [[5, 5, 0]]})
    with pytest.raises(NotFound):
        task({"image": str(tmp_path / "gone.mp4"), "foreground": [[5, 5, 0]]})


@pytest.mark.parametrize("form", ["labels", "runs", "overlay"])
def test_a_cancelled_request_leaves_no_file_behind(ask, given, form, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    work = Work("x", "biosam2_video", "video", "", True)
    monkeypatch.setattr(module, "_told", lambda *_: work.cancel() or {})  # after the frames, before the file
    with working_on(work), pytest.raises(Cancelled):
        ask(objects=TWO, result_format=form)
    assert not list((tmp_path / "temporary").iterdir())


def test_it_is_of_a_type_that_no_viewer_lists_and_says_how_it_can_answer(task):
    info = task.info()
    assert info["type"] == "others" and info["dimension"] == 3
    assert info["result_formats"] == ["labels", "runs", "polygons", "overlay"]
