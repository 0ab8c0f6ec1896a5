"""Multi-frame DICOM: each frame, read by itself, is what the whole file has there."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from lib.errors import Unprocessable
from lib.imaging.readers.dicom_note import DicomNote
from lib.imaging.video import dicom
from lib.imaging.video.open import is_multi_frame, is_over_time, open_video
from lib.imaging.volume import load_volume
from lib.imaging.window import choose_window, to_uint8


def noise(*shape: int, dtype: str = "u1", most: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, shape).astype(dtype)


def same_as_the_whole_file(path) -> None:
    volume = load_volume(path)
    window = choose_window(volume)
    with open_video(path) as frames:
        assert frames.kind == "dicom" and frames.shape3 == volume.shape3 and frames.is_rgb == volume.is_rgb
        for k in reversed(range(len(frames))):
            np.testing.assert_array_equal(frames.raw(k), volume.plane(k))
            np.testing.assert_array_equal(frames[k], to_uint8(volume.plane(k), window))


@pytest.mark.parametrize(
    "name", ["SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm", "rtdose.dcm", "rtdose_rle.dcm"]
)
def test_files_of_pydicom(pydicom_files, name):
    same_as_the_whole_file(pydicom_files / name)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_color_that_is_not_compressed(write_cine, photometric):
    same_as_the_whole_file(write_cine(noise(5, 12, 16, 3), photometric))


def test_color_by_plane(write_cine):
    planes = noise(5, 12, 16, 3).transpose(0, 3, 1, 2).copy()
    path = write_cine(planes, "RGB", shape=(12, 16), PlanarConfiguration=1)
    same_as_the_whole_file(path)
    with open_video(path) as frames:
        np.testing.assert_array_equal(frames[3], planes[3].transpose(2, 1, 0))


def test_a_palette_becomes_colors(write_cine):
    tables = {
        f"{color}PaletteColorLookupTable{what}": value
        for n, color in enumerate(("Red", "Green", "Blue"))
        for what, value in (
            ("Descriptor", [256, 0, 16]),
            ("Data", (np.roll(np.arange(256), 70 * n).astype("<u2") * 257).tobytes()),
        )
    }
    pixels = noise(4, 12, 16)
    with open_video(write_cine(pixels, "PALETTE COLOR", **tables)) as frames:
        assert frames.is_rgb and frames[2].dtype == np.uint8
        shown = frames[2].astype(int)
    for n in range(3):
        np.testing.assert_array_equal(shown[..., n], np.roll(np.arange(256), 70 * n)[pixels[2].T])


@pytest.mark.parametrize(
    ("name", "pieces"),
    [("SC_rgb_jpeg_dcmtk.dcm", 1), ("SC_rgb_jpeg_dcmtk.dcm", 3), ("SC_rgb_small_odd_jpeg.dcm", 1)],
)
def test_jpeg_in_one_piece_a_frame_or_several(write_cine, encoded_frames, name, pieces):
    header, frame = encoded_frames(name)
    path = write_cine(
        [frame] * 4, header.PhotometricInterpretation, JPEGBaseline8Bit, shape=(header.Rows, header.Columns)
    )
    if pieces > 1:
        cine = pydicom.dcmread(path)
        cine.PixelData = pydicom.encaps.encapsulate([frame] * 4, pieces, has_bot=False)
        cine.save_as(path)
    same_as_the_whole_file(path)


def test_rle_without_a_table_of_frames(write_cine, encoded_frames):
    header, frame = encoded_frames("SC_rgb_rle.dcm")
    path = write_cine(
        [frame] * 3, "RGB", RLELossless, shape=(header.Rows, header.Columns), PlanarConfiguration=1
    )
    cine = pydicom.dcmread(path)
    cine.PixelData = pydicom.encaps.encapsulate([frame] * 3, has_bot=False)
    cine.save_as(path)
    same_as_the_whole_file(path)


def test_gray_is_shown_in_the_window_of_its_tags(write_cine):
    pixels = noise(3, 12, 16, dtype="<u2", most=4096)
    with open_video(write_cine(pixels, WindowCenter=1000, WindowWidth=500)) as frames:
        expected = np.clip((pixels[1].T.astype(float) - 750) * 255 / 500, 0, 255)
        assert np.abs(frames[1] - expected).max() <= 0.51


def test_without_a_window_it_is_chosen_from_frames_all_over_the_video(write_cine):
    pixels = noise(40, 12, 16, dtype="<u2", most=100)
    pixels[20:] += 1000
    with open_video(write_cine(pixels)) as frames:
        assert frames.window.low < 100 and frames.window.high > 1000
        assert frames[0].max() < frames[30].min()


def test_an_asked_window_is_the_one(write_cine):
    with open_video(write_cine(noise(3, 12, 16)), {"level": 100, "width": 50}) as frames:
        assert (frames.window.low, frames.window.high) == (75, 125)


def test_only_the_frame_that_is_looked_at_is_read(write_cine, monkeypatch):
    path = write_cine(noise(50, 12, 16, 3), "RGB")
    read = []
    real = dicom._read
    monkeypatch.setattr(
        dicom, "_read", lambda file, pieces: read.append(sum(n for _, n in pieces)) or real(file, pieces)
    )
    with open_video(path) as frames:
        frames[40]
    assert sum(read) == 3 * 12 * 16 * 3, "the first frame, twice, and the one asked for"


@pytest.mark.parametrize(
    ("tags", "fps"),
    [
        ({"FrameTime": 40}, 25),
        ({"CineRate": 30}, 30),
        ({"FrameTimeVector": [0, 100, 100, 100]}, 10),
        ({"FrameTime": 0}, 25),
    ],
)
def test_times_come_from_the_tags(write_cine, tags, fps):
    with open_video(write_cine(noise(4, 12, 16), **tags)) as frames:
        assert frames.fps == pytest.approx(fps)


def test_a_file_that_says_it_has_more_frames_is_refused(write_cine):
    path = write_cine(noise(4, 12, 16), NumberOfFrames=9)
    with pytest.raises(Unprocessable, match="says it has 9 frames but holds 4"):
        open_video(path)


def test_a_truncated_file_is_refused(write_cine, encoded_frames):
    header, frame = encoded_frames("SC_rgb_jpeg_dcmtk.dcm")
    path = write_cine([frame] * 4, "YBR_FULL", JPEGBaseline8Bit, shape=(header.Rows, header.Columns))
    path.write_bytes(path.read_bytes()[: -len(frame) - 20])
    with pytest.raises(Unprocessable, match="'cine.dcm'"):
        open_video(path)


def test_a_frame_that_cannot_be_decoded_is_refused_and_the_others_are_not(write_cine, encoded_frames):
    header, frame = encoded_frames("SC_rgb_jpeg_dcmtk.dcm")
    broken = b"\xff\xd8" + bytes(len(frame) - 2)
    shape = (header.Rows, header.Columns)
    path = write_cine([frame, broken, frame], "YBR_FULL", JPEGBaseline8Bit, shape=shape)
    with open_video(path) as frames:
        with pytest.raises(Unprocessable, match="'cine.dcm' cannot be read as a DICOM video"):
            frames[1]
        np.testing.assert_array_equal(frames[2], frames[0])


def test_the_frames_of_an_image_made_of_a_cine_come_from_the_cine(write_cine, tmp_path, save_nifti):
    cine = write_cine(noise(4, 12, 16, 3), "RGB")
    (tmp_path / "1.2.3").mkdir()
    cine.rename(tmp_path / "1.2.3" / "0.dcm")
    image = save_nifti(tmp_path / "1.2.3.nii.gz", np.zeros((16, 12, 4), np.uint8))
    DicomNote("US", None, 2, (), 1).write(image)
    with open_video(image) as frames:
        assert frames.kind == "dicom" and frames.is_rgb and frames.volume is None


def test_a_volume_is_a_video_of_its_slices(tmp_path, save_nifti):
    voxels = noise(16, 12, 6, dtype="i2", most=1000)
    image = save_nifti(tmp_path / "image.nii.gz", voxels)
    with open_video(image) as frames:
        assert frames.kind == "volume" and frames.shape3 == (16, 12, 6)
        np.testing.assert_array_equal(frames.raw(4), voxels[:, :, 4])


def test_what_follows_in_time_is_told_from_what_lies_in_space(
    write_cine, pydicom_files, tmp_path, save_nifti
):
    assert is_over_time(write_cine(noise(4, 12, 16)))
    assert not is_over_time(write_cine(noise(4, 12, 16), name="ct.dcm", Modality="CT"))
    assert not is_over_time(pydicom_files / "CT_small.dcm")
    assert not is_over_time(save_nifti(tmp_path / "image.nii.gz", np.zeros((4, 4, 4), np.uint8)))


def test_a_segmentation_is_no_image_of_several_frames(write_cine, pydicom_files):
    assert is_multi_frame(write_cine(noise(4, 12, 16)))
    assert not is_multi_frame(write_cine(noise(4, 12, 16), name="seg.dcm", Modality="SEG"))
    assert not is_multi_frame(pydicom_files / "CT_small.dcm")
    assert not is_multi_frame(pydicom_files / "README.txt")
