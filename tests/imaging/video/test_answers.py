"""What becomes of the masks of a video: kept as runs, written frame by frame."""

from __future__ import annotations

import json

import av
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from lib.errors import Cancelled, Unprocessable
from lib.imaging import runs
from lib.imaging.polygons import polygons
from lib.imaging.video import kept as kept_module
from lib.imaging.video.answers import color_of, write_overlay, write_video_json, write_video_labels
from lib.imaging.video.kept import KeptMasks
from lib.imaging.video.labels import LabelFrames, write_label_frames
from lib.imaging.video.open import open_video

from .conftest import FRAMES, SIZE


def blob(seed: int, sigma: float = 2, share: float = 0.8) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(SIZE), sigma)
    return smooth > np.quantile(smooth, share)


def square(x: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[x : x + side, 6 : 6 + side] = True
    return mask


@pytest.fixture
def frames(tmp_path, write_video):
    with open_video(write_video(tmp_path / "a.mp4")) as opened:
        yield opened


@pytest.fixture
def masks():
    """Two squares that overlap; the first one on frames 3 to 8, the second on 5 to 20, 9 without it."""
    with KeptMasks(2, FRAMES, SIZE) as kept:
        for index in range(8, 2, -1):
            kept.put(0, index, square(index), 0.9)
        for index in range(5, 21):
            kept.put(1, index, square(index + 5) if index != 9 else np.zeros(SIZE, bool), 0.5)
        yield kept


def go_on() -> None:
    pass


def test_masks_come_back_as_they_were(masks):
    np.testing.assert_array_equal(masks.mask(0, 4), square(4))
    np.testing.assert_array_equal(runs.decode(masks.encoded(1, 20), SIZE), square(25))
    assert not masks.mask(1, 9).any() and not masks.mask(0, 20).any()


def test_what_was_looked_at_is_told_from_what_was_found(masks):
    assert masks.done[1, 9] and not masks.there[1, 9]
    assert not masks.done[1, 21]


def test_many_masks_go_to_a_file(monkeypatch):
    monkeypatch.setattr(kept_module, "IN_MEMORY", 1000)
    mask = blob(0, 0.5, 0.5)
    with KeptMasks(1, 100, SIZE) as kept:
        for index in range(100):
            kept.put(0, index, mask, 1)
        assert kept._file._rolled
        np.testing.assert_array_equal(kept.mask(0, 45), mask)


def test_a_label_map_has_all_frames_and_no_object_takes_from_one_before(masks, frames):
    path = write_video_labels(masks, frames, ".nii.gz", "uint8", True, go_on)
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    path.unlink()
    assert labels.shape == (*SIZE, FRAMES) and labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[:, :, 6] == 1, square(6))
    np.testing.assert_array_equal(labels[:, :, 6] == 2, square(11) & ~square(6))
    assert not labels[:, :, [0, 1, 2, 9, 21, 29]].any()
    np.testing.assert_array_equal(image.affine, frames.about.affine)


def test_a_label_map_is_read_frame_by_frame(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (7, 5, 9)).astype(np.uint16)
    for name in ("a.nii", "a.nii.gz"):
        with open(tmp_path / name, "wb") as file:
            planes = (labels[:, :, k] for k in range(9))
            write_label_frames(file, planes, (7, 5, 9), np.eye(4), labels.dtype, name.endswith("gz"))
        with LabelFrames(tmp_path / name) as read:
            for _ in range(2):
                np.testing.assert_array_equal(np.stack(list(read), 2), labels)


def test_a_label_map_of_another_program_is_read(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (7, 5, 9)).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "a.nii.gz")
    with LabelFrames(tmp_path / "a.nii.gz") as read:
        np.testing.assert_array_equal(np.stack(list(read), 2), labels)


def test_more_frames_than_nifti_1_can_count(tmp_path):
    count = 32_768
    with open(tmp_path / "a.nii.gz", "wb") as file:
        planes = (np.full((1, 1), k % 200, np.uint8) for k in range(count))
        write_label_frames(file, planes, (1, 1, count), np.eye(4), np.dtype(np.uint8), True)
    assert np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)[0, 0, -1] == (count - 1) % 200


def test_a_truncated_label_map_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 9), np.uint8), np.eye(4)), tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(data[:-3000])
    with pytest.raises(Unprocessable, match="'a.nii' is truncated"):
        LabelFrames(tmp_path / "a.nii")


def test_runs_are_json_by_object_and_frame(masks):
    path = write_video_json(masks, ["liver", "tool"], "runs", {"frames": FRAMES}, go_on)
    found = json.loads(path.read_text())
    path.unlink()
    assert found["frames"] == FRAMES and found["format"] == "runs"
    liver, tool = found["objects"]
    assert (liver["label"], tool["index"]) == ("liver", 2)
    assert list(liver["masks"]) == [str(n) for n in range(3, 9)]
    np.testing.assert_array_equal(runs.decode(liver["masks"]["5"], SIZE), square(5))
    assert tool["scores"]["9"] == 0.5 and "9" not in tool["masks"]


def test_polygons_are_json_by_object_and_frame(masks):
    path = write_video_json(masks, ["liver", "tool"], "polygons", {}, go_on)
    found = json.loads(path.read_text())["objects"][0]["polygons"]["5"]
    path.unlink()
    (one,) = found
    drawn = polygon2mask(SIZE, np.array(one["outer"]))
    np.testing.assert_array_equal(drawn, square(5))
    assert one["holes"] == []


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_polygons_hold_the_centres_of_exactly_the_pixels_of_the_mask(seed):
    mask = blob(seed, sigma=seed / 3, share=0.3 + 0.08 * seed)
    drawn = np.zeros(SIZE, bool)
    for one in polygons(mask):
        part = polygon2mask(SIZE, np.array(one["outer"]))
        for hole in one["holes"]:
            part &= ~polygon2mask(SIZE, np.array(hole))
        drawn |= part
    np.testing.assert_array_equal(drawn, mask)


def test_corners_lie_between_pixels():
    (one,) = polygons(square(5))
    xs, ys = np.array(one["outer"]).T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (4.5, 14.5, 5.5, 15.5)


def test_an_overlay_is_a_film_of_the_frames_that_were_looked_at(masks, frames):
    path = write_overlay(masks, frames, 3, 20, go_on)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name in ("h264", "mpeg4") and stream.average_rate == 25
        shown = [frame.to_ndarray(format="rgb24").swapaxes(0, 1).astype(int) for frame in film.decode(stream)]
    path.unlink()
    assert len(shown) == 18 and shown[0].shape == (*SIZE, 3)
    # frame 9: without either; frame 20: the second object only, tinted in its color
    difference = [np.abs(shown[n - 3] - frames[n]).max(2) for n in (9, 20)]
    assert difference[0].mean() < 6
    assert difference[1][square(25)].mean() > 3 * max(
        1, difference[1][~ndimage.binary_dilation(square(25))].mean()
    )


def test_an_odd_size_is_filled_up(tmp_path, write_video):
    odd = [np.full((45, 31, 3), 90, np.uint8)] * 3
    with (
        open_video(write_video(tmp_path / "a.mkv", odd, codec="ffv1", pixels="bgr0")) as opened,
        KeptMasks(1, 3, (45, 31)) as kept,
    ):
        path = write_overlay(kept, opened, 0, 2, go_on)
    with av.open(str(path)) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (46, 32)
    path.unlink()


def test_objects_have_colors_of_their_own():
    colors = np.array([color_of(n) for n in range(12)])
    apart = np.abs(colors[:, None] - colors[None]).max(2) + 255 * np.eye(12)
    assert apart.min() > 30


@pytest.mark.parametrize("write", ["labels", "json", "overlay"])
def test_a_writing_that_is_stopped_leaves_no_file(masks, frames, write, tmp_path, monkeypatch):
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Cancelled()

    with pytest.raises(Cancelled):
        if write == "labels":
            write_video_labels(masks, frames, ".nii.gz", "uint8", True, stop)
        elif write == "json":
            write_video_json(masks, ["a", "b"], "runs", {}, stop)
        else:
            write_overlay(masks, frames, 3, 20, stop)
    assert not list((tmp_path / "temporary").iterdir())
