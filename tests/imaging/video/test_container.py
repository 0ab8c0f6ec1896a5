"""MP4, AVI, MOV and MKV: every frame is the one that a player shows at that place, however it is come by."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lib.errors import NotFound, Unprocessable
from lib.imaging.video import container
from lib.imaging.video.open import open_video

from .conftest import FRAMES, SIZE, picture

KINDS = {
    "h264 with frames out of order": ("a.mp4", "libx264", {"bf": "3", "g": "10"}),
    "h264 in matroska": ("a.mkv", "libx264", {"bf": "2", "g": "8"}),
    "h264 in avi, which has no time stamps": ("a.avi", "libx264", {"bf": "2", "g": "10"}),
    "mpeg-4 in avi": ("a.avi", "mpeg4", {"g": "12"}),
    "mpeg-4 in mov": ("a.mov", "mpeg4", {"bf": "2", "g": "12"}),
    "open groups of pictures": ("a.mp4", "libx264", {"bf": "3", "g": "8", "x264-params": "open-gop=1"}),
}


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def video(request, tmp_path, write_video) -> Path:
    name, codec, options = request.param
    return write_video(tmp_path / name, codec=codec, **options)


@pytest.mark.parametrize("keep", [1, 10 * SIZE[0] * SIZE[1] * 3], ids=["none kept", "some kept"])
def test_a_frame_is_the_same_from_the_start_from_the_end_and_out_of_the_blue(video, decoded, keep):
    truth = decoded(video)
    jumps = np.random.default_rng(0).integers(0, FRAMES, 20).tolist()
    with open_video(video, keep_bytes=keep) as frames:
        assert frames.shape3 == (*SIZE, FRAMES)
        for index in [*range(FRAMES), *range(FRAMES - 1, -1, -1), *jumps]:
            np.testing.assert_array_equal(frames[index], truth[index], str(index))


def test_frames_show_what_was_written_with_x_first(tmp_path, write_video):
    with open_video(write_video(tmp_path / "a.mp4", crf="1")) as frames:
        difference = np.abs(frames[7].astype(int) - picture(7))
    assert frames.is_rgb and difference.mean() < 3


def test_going_backwards_decodes_no_frame_more_often_than_the_kept_ones_make_needed(
    tmp_path, write_video, monkeypatch
):
    video = write_video(tmp_path / "a.mp4", g="30", bf="0", sc_threshold="0")
    sought = []
    seek = container.Container._seek
    monkeypatch.setattr(container.Container, "_seek", lambda self, key: sought.append(key) or seek(self, key))
    with open_video(video, keep_bytes=10 * SIZE[0] * SIZE[1] * 3) as frames:
        for index in range(FRAMES - 1, -1, -1):
            frames[index]
    assert len(sought) == FRAMES // 10


def test_going_forwards_never_seeks_again(tmp_path, write_video, monkeypatch):
    video = write_video(tmp_path / "a.mp4", g="5")
    sought = []
    seek = container.Container._seek
    monkeypatch.setattr(container.Container, "_seek", lambda self, key: sought.append(key) or seek(self, key))
    with open_video(video, keep_bytes=1) as frames:
        for index in range(FRAMES):
            frames[index]
    assert len(sought) == 1


def test_as_many_frames_are_kept_as_fit(tmp_path, write_video):
    with open_video(write_video(tmp_path / "a.mp4"), keep_bytes=4 * SIZE[0] * SIZE[1] * 3) as frames:
        for index in range(FRAMES):
            frames[index]
        assert list(frames._kept) == [26, 27, 28, 29]


def test_a_gray_video_has_gray_frames(tmp_path, write_video):
    gray = [picture(n)[..., 0] for n in range(5)]
    video = write_video(tmp_path / "a.mkv", gray, codec="ffv1", pixels="gray")
    with open_video(video) as frames:
        assert not frames.is_rgb
        np.testing.assert_array_equal(frames[3], gray[3])


def test_times_are_those_of_the_file(tmp_path, write_video):
    with open_video(write_video(tmp_path / "a.mp4")) as frames:
        assert frames.fps == pytest.approx(25)
        assert frames.times[10] == pytest.approx(0.4)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(Unprocessable, match="'empty.mp4' cannot be read as a video"):
        open_video(tmp_path / "empty.mp4")


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.avi").write_text("this is a text" * 100)
    with pytest.raises(Unprocessable, match="'text.avi' cannot be read as a video"):
        open_video(tmp_path / "text.avi")


def test_a_video_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="'gone.mp4' does not exist"):
        open_video(tmp_path / "gone.mp4")


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        film.mux(stream.encode(sound))
        film.mux(stream.encode())
    with pytest.raises(Unprocessable, match="'sound.mp4' has no video in it"):
        open_video(path)


def test_a_video_that_was_cut_off_at_its_head_is_refused(tmp_path, write_video):
    whole = write_video(tmp_path / "a.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(Unprocessable, match="'cut.mp4' (has no video in it|cannot be read as a video)"):
        open_video(cut)


def test_a_video_that_was_cut_off_at_its_end_has_the_frames_before(tmp_path, write_video, decoded):
    noise = np.random.default_rng(0).integers(0, 255, (20, *SIZE, 3)).astype(np.uint8)
    whole = write_video(tmp_path / "a.mkv", list(noise), g="1", bf="0")
    data = whole.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    truth = decoded(whole)
    with open_video(cut) as frames:
        assert 5 < len(frames) < 15
        np.testing.assert_array_equal(frames[4], truth[4])


def test_a_damaged_frame_is_named(tmp_path, write_video):
    noise = np.random.default_rng(0).integers(0, 255, (10, *SIZE, 3)).astype(np.uint8)
    video = write_video(tmp_path / "a.avi", list(noise), codec="mjpeg", pixels="yuvj420p")
    data = bytearray(video.read_bytes())
    chunks = [n for n in range(len(data) - 4) if data[n : n + 4] == b"00dc"]
    begin = chunks[7] + 8  # after one in the header
    length = int.from_bytes(data[begin - 4 : begin], "little")
    data[begin : begin + length] = bytes(length)
    video.write_bytes(data)
    with open_video(video) as frames:
        assert frames[5].shape == (*SIZE, 3)
        with pytest.raises(Unprocessable, match="'a.avi' is damaged: frame 6 of 10 is unreadable"):
            frames[6]
        assert frames[7].shape == (*SIZE, 3), "and the others are still there"


def test_a_frame_of_another_size_is_named(tmp_path, write_video):
    # two raw H.264 streams, one after the other, are one whose pictures change their size
    small = write_video(tmp_path / "small.h264", [picture(n) for n in range(6)], bf="0")
    large = write_video(tmp_path / "large.h264", [picture(n, (64, 48)) for n in range(6)], bf="0")
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    mixed = tmp_path / "mixed.mkv"
    with av.open(str(both)) as raw, av.open(str(mixed), "w") as film:
        out = film.add_stream_from_template(raw.streams.video[0])
        for n, packet in enumerate(packet for packet in raw.demux(video=0) if packet.size):
            packet.pts = packet.dts = n
            packet.time_base = Fraction(1, 25)
            packet.stream = out
            film.mux(packet)
    with open_video(mixed) as frames:
        assert frames[2].shape == (*SIZE, 3)
        with pytest.raises(Unprocessable, match=r"frame \d+ has 64 x 48 pixels, the frames before 48 x 32"):
            for _ in frames:
                pass


def test_there_is_no_frame_past_the_end(tmp_path, write_video):
    with open_video(write_video(tmp_path / "a.mp4")) as frames:
        for index in (-1, FRAMES):
            with pytest.raises(IndexError):
                frames[index]
