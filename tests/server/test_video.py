"""Videos over HTTP: listed, followed, watched, cancelled, and answered in the form that was asked for."""

from __future__ import annotations

import gzip
import io
import json
import threading
import zipfile
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
import requests
from PIL import Image
from requests_toolbelt.multipart.decoder import MultipartDecoder

from lib.errors import Cancelled
from lib.infers import video_task
from lib.sam.propagate import SliceMask

SIZE, FRAMES = (40, 32), 5
SECONDS = 120
BOX = {"boxes": [[4, 4, 2, 20, 20, 2]]}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(FRAMES):
            pixels = rng.integers(0, 255, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture
def put(instance, address):
    """Sends files into the datastore, which forgets them after the test."""
    sent = []

    def send(name: str, data: bytes) -> str:
        id = name.split(".")[0]
        answer = requests.put(
            f"{address}/datastore/image", params={"image": id}, files={"file": (name, data)}, timeout=SECONDS
        )
        assert answer.status_code == 200, answer.text
        sent.append(id)
        return id

    yield send
    for id in sent:
        instance.datastore().remove_image(id)
        instance.datastore().refresh()


@pytest.fixture
def video(put, film) -> str:
    return put("film.mp4", film.read_bytes())


@pytest.fixture
def infer(address):
    def send(image: str, output: str | None = None, model: str = "biosam2_video", **fields: object):
        query = {"image": image, **({"output": output} if output else {})}
        form = {"params": json.dumps(fields)}
        return requests.post(f"{address}/infer/{model}", params=query, data=form, timeout=SECONDS)

    return send


@pytest.fixture
def boxes(monkeypatch):
    """In place of the network: boxes stay where they are, a frame at a time when the test says so."""
    allowed = threading.Semaphore(0)

    def propagate(model, planes, count, targets, direction, zoom, progress, cancelled, thickness=None):
        for number, target in enumerate(targets):
            (prompts,) = target.prompts.values()
            for index in range(target.first, target.last + 1):
                while not allowed.acquire(timeout=0.01):
                    if cancelled():
                        raise Cancelled()
                mask = np.zeros(planes(index).shape[:2], bool)
                a0, b0, a1, b1 = (int(x) for x in prompts.box)
                mask[a0 : a1 + 1, b0 : b1 + 1] = True
                yield SliceMask(number, index, mask, 0.9)
                progress(index + 1, count)

    monkeypatch.setattr(video_task, "propagate", propagate)
    return allowed


def test_a_video_is_listed_and_its_model_under_a_type_of_its_own(video, get):
    assert video in get("/datastore/", output="all").json()["objects"]
    models = get("/info/").json()["models"]
    assert models["biosam2_video"]["type"] == "others"
    assert [name for name, one in models.items() if one["type"] == "deepgrow"] == ["biosam2_2d", "biosam2_3d"]


def test_no_viewer_of_volumes_is_given_a_video_as_its_next_case(video, address, instance):
    instance.next_case.pool.sync()
    found = []
    for n in range(4):
        asked = {"client_id": f"viewer{n}"}
        answer = requests.post(f"{address}/activelearning/random", json=asked, timeout=SECONDS)
        found.append(answer.json().get("id"))
    for image in filter(None, found):
        instance.next_case.claims.end(image)
    assert any(found) and video not in found


def test_the_network_answers_with_a_labelled_multi_frame_file(video, infer):
    answer = infer(video, "image", **BOX)
    assert answer.status_code == 200, answer.text
    image = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    assert image.shape == (*SIZE, FRAMES)


def test_params_and_file_come_together_unless_one_is_asked_for(video, infer, boxes):
    boxes.release(FRAMES)
    answer = infer(video, **BOX)
    params, file = MultipartDecoder.from_response(answer).parts
    assert json.loads(params.text)["frames"] == FRAMES
    assert file.content[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("output", ["json", "image"])
def test_runs_are_json_whichever_way_they_are_asked_for(video, infer, boxes, output):
    boxes.release(FRAMES)
    answer = infer(video, output, result_format="runs", **BOX)
    assert answer.headers["content-type"].startswith("application/json")
    found = answer.json()
    assert found["label_names"] == {"object": 1} and found["frames"] == FRAMES
    assert found["objects"][0]["masks"]["3"] == {"size": [40, 32], "bbox": [4, 4, 17, 17], "counts": [0, 289]}


def test_json_of_a_label_map_is_what_is_told_beside_it(video, infer, boxes):
    boxes.release(FRAMES)
    found = infer(video, "json", **BOX).json()
    assert found["label_names"] == {"object": 1} and "objects" not in found


def test_an_overlay_is_a_film(video, infer, boxes):
    boxes.release(FRAMES)
    answer = infer(video, "image", result_format="overlay", **BOX)
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content)) as out:
        assert len(list(out.decode(video=0))) == FRAMES


def test_progress_is_told_by_frames_and_a_cancelled_one_stops(video, ask, get, cancel, boxes, until):
    future = ask("biosam2_video", image=video, request_id="film", foreground=[], **BOX)
    boxes.release(2)
    until(lambda: get("/biosam2/work/film").json().get("done") == 2)
    assert get("/biosam2/work/film").json()["total"] == FRAMES
    assert cancel("film").status_code == 200
    answer = future.result(SECONDS)
    assert (answer.status_code, answer.json()["detail"]) == (409, "The request was cancelled.")
    assert get("/biosam2/work/film").json()["state"] == "cancelled"


def test_a_click_on_a_frame_is_answered_by_the_slice_model(video, infer):
    answer = infer(video, "image", "biosam2_2d", foreground=[[20, 16, 3]])
    assert Image.open(io.BytesIO(answer.content)).size == SIZE


def test_a_film_can_be_sent_with_the_request(film, address, boxes):
    boxes.release(FRAMES)
    answer = requests.post(
        f"{address}/infer/biosam2_video",
        params={"output": "json"},
        data={"params": json.dumps({**BOX, "result_format": "polygons"})},
        files={"file": ("my film.mp4", film.read_bytes())},
        timeout=SECONDS,
    )
    assert len(answer.json()["objects"][0]["polygons"]) == FRAMES


def archive(*sizes: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as out:
        for n, size in enumerate(sizes):
            picture = io.BytesIO()
            Image.new("RGB", size).save(picture, "PNG")
            out.writestr(f"{n}.png", picture.getvalue())
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("bad.mp4", b"", "image 'bad.mp4' cannot be read as a video"),
        ("bad.avi", b"RIFF" + bytes(500), "image 'bad.avi' cannot be read as a video"),
        ("bad.frames.zip", archive(), "video 'bad.frames.zip' has no frames"),
        ("bad.frames.zip", archive(SIZE, SIZE, (64, 32)), "changes its size: frame 2 (2.png) has 64 x 32"),
    ],
    ids=["empty", "broken", "without frames", "of several sizes"],
)
def test_a_bad_video_is_a_422_and_a_sentence(put, infer, name, data, sentence):
    answer = infer(put(name, data), **BOX)
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]


def test_a_prompt_on_a_frame_past_the_end_is_a_400_and_the_next_request_is_answered(video, infer, boxes):
    answer = infer(video, foreground=[[5, 5, FRAMES]])
    assert answer.status_code == 400
    assert "[5, 5, 5] is outside" in answer.json()["detail"]
    boxes.release(FRAMES)
    assert infer(video, **BOX).status_code == 200
