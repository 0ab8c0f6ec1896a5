"""A whole CVAT: its datastore, its functions as its own server calls them, and `cvat-cli auto-annotate`.

The environment says which one: BIOSAM2_CVAT_URL, and BIOSAM2_CVAT_USER and BIOSAM2_CVAT_PASSWORD of somebody
who may make projects there; what the tests make is deleted again. That CVAT must look for nuclio here:
CVAT_NUCLIO_HOST=127.0.0.1, CVAT_NUCLIO_INVOKE_METHOD=dashboard and CVAT_NUCLIO_PORT, which is 8070 or what
BIOSAM2_CVAT_NUCLIO_PORT says.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from biosam2_cvat import runs as server_runs
from biosam2_cvat import shapes
from biosam2_cvat.__main__ import specification
from biosam2_cvat.server import Server
from clients.cvat.conftest import LABEL, Movie, agent_file, deployed, model_mask, overlap
from clients.cvat.nuclio_double import CLIENT, Function, Nuclio
from cvat_sdk import Client, make_client, models
from cvat_sdk.masks import decode_mask
from datastores.cvat.conftest import HEIGHT, WIDTH, blob, pixels
from datastores.cvat.double import runs, shape
from datastores.cvat.test_datastore import structure
from PIL import Image
from programs import MonaiLabel

from lib.datastores import kept
from lib.datastores.cvat import client as paging
from lib.datastores.cvat.client import Account, CvatClient
from lib.datastores.cvat.datastore import CvatDatastore
from lib.errors import Conflict, Unavailable
from lib.imaging.volume import load_volume

URL, USER, PASSWORD = (os.environ.get(f"BIOSAM2_CVAT_{name}", "") for name in ("URL", "USER", "PASSWORD"))
PORT = int(os.environ.get("BIOSAM2_CVAT_NUCLIO_PORT") or 8070)
CLOSED = "http://127.0.0.1:9"  # nothing listens there
LABELS = ("polyp", "tool", "background", LABEL)
SECONDS = 120.0  # for what CVAT does in the background

pytestmark = [
    pytest.mark.skipif(not URL, reason="BIOSAM2_CVAT_URL does not name a running CVAT"),
    pytest.mark.usefixtures("clean_environment"),
]


class Site:
    """A project in the CVAT, and calls to its server."""

    def __init__(self, sdk: Client) -> None:
        self.sdk = sdk
        self._session = requests.Session()
        self._session.auth = (USER, PASSWORD)
        names = [models.PatchedLabelRequest(name=name) for name in LABELS]
        self._project = sdk.projects.create(models.ProjectWriteRequest(name="BioSAM-2 tests", labels=names))
        self.project = int(self._project.id)
        self.labels = {label.name: int(label.id) for label in self._project.get_labels()}

    def close(self) -> None:
        self._project.remove()

    def ask(self, method: str, path: str, body: Any = None, expected: int = 200) -> Any:
        answer = self._session.request(method, f"{URL}/api/{path}", json=body, timeout=SECONDS)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def task(self, files: list[Path], job_size: int = 0, **data: Any) -> int:
        """A new task of the project with these files, in their order."""
        spec = models.TaskWriteRequest(
            name=files[0].stem, project_id=self.project, **({"segment_size": job_size} if job_size else {})
        )
        asked = {"image_quality": 70, "sorting_method": "predefined", **data}
        made = self.sdk.tasks.create_from_data(
            spec, [str(file) for file in files], data_params=asked, status_check_period=0.2
        )
        return int(made.id)

    def jobs(self, task: int) -> dict[int, int]:
        """Number of each job by its first frame."""
        return {job.start_frame: job.id for job in self.sdk.tasks.retrieve(task).get_jobs()}

    def draw(self, task: int, *drawn: dict[str, Any], tracks: tuple[dict[str, Any], ...] = ()) -> None:
        """Replace what is drawn on a task."""
        kept = [{key: value for key, value in one.items() if key != "id"} for one in drawn]
        content = {"version": 0, "tags": [], "shapes": kept, "tracks": list(tracks)}
        self.ask("PUT", f"tasks/{task}/annotations/", content)

    def drawn(self, task: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"tasks/{task}/annotations/")["shapes"]
        return found

    def complete(self, task: int, *first: int, state: str = "completed") -> None:
        """Complete the jobs that begin with these frames, all of them by default."""
        for begin, job in self.jobs(task).items():
            if not first or begin in first:
                self.ask("PATCH", f"jobs/{job}", {"state": state})

    def call(self, kind: str, task: int, expected: int = 200, **body: Any) -> Any:
        """A function for one frame, as CVAT's page asks for it."""
        (job,) = self.jobs(task).values()
        asked = {**body, "task": task, "job": job}
        return self.ask("POST", f"lambda/functions/biosam2-{kind}", asked, expected)

    def annotate(self, task: int, **body: Any) -> dict[str, Any]:
        """Automatic annotation of a task by the detector; the request when it has ended."""
        mapping = {LABEL: {"name": LABEL, "attributes": {}}}
        asked = {"function": "biosam2-detector", "task": task, "mapping": mapping, "cleanup": True, **body}
        request: dict[str, Any] = self.ask("POST", "lambda/requests", asked)
        end = time.monotonic() + SECONDS
        while request["status"] not in ("finished", "failed"):
            assert time.monotonic() < end, request
            time.sleep(0.2)
            request = self.ask("GET", f"lambda/requests/{request['id']}")
        return request


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_client(URL, credentials=(USER, PASSWORD)) as sdk:
        made = Site(sdk)
        yield made
        made.close()


@pytest.fixture
def connect(site: Site, tmp_path: Path) -> Callable[..., CvatDatastore]:
    """A datastore on the project, its cache in the test's folder."""

    def make(account: Account | None = None, url: str = URL) -> CvatDatastore:
        client = CvatClient(url, account or Account(USER, PASSWORD))
        return CvatDatastore(client, tmp_path / "cache", str(site.project))

    return make


def image(task: int, frame: int) -> str:
    return f"task-{task}_frame-{frame:06d}"


def saved(folder: Path, **pictures: np.ndarray) -> list[Path]:
    files = [folder / f"{name}.png" for name in pictures]
    for file, picture in zip(files, pictures.values(), strict=True):
        Image.fromarray(picture).save(file)
    return files


def tracked(label: int, *keys: dict[str, Any]) -> dict[str, Any]:
    """A track of shapes at its key frames."""
    left_out = ("label_id", "group", "source", "id")
    about = {"label_id": label, "frame": keys[0]["frame"], "group": 0, "source": "manual", "attributes": []}
    return {**about, "shapes": [{k: v for k, v in key.items() if k not in left_out} for key in keys]}


# images and labels


def test_every_page_of_a_list_is_read(site, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "PAGE", 2)
    tasks = [site.task(saved(tmp_path, **{f"page_{n}": pixels(n)})) for n in range(5)]
    assert {image(task, 0) for task in tasks} <= set(connect().list_images())


def test_frames_are_what_was_uploaded(site, connect, tmp_path):
    grey = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH)).astype(np.uint16)
    files = saved(tmp_path, colour=pixels(1), grey=grey)
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "deep.tif")
    task, datastore = site.task([*files, tmp_path / "deep.tif"]), connect()
    for frame, expected in enumerate((pixels(1), grey, grey)):
        found = load_volume(Path(datastore.get_image_uri(image(task, frame)))).voxels[:, :, 0]
        assert np.array_equal(found, expected.swapaxes(0, 1))


def test_masks_polygons_and_ellipses_are_the_pixels_that_were_drawn(site, connect, tmp_path):
    task = site.task(saved(tmp_path, a=pixels(1), b=pixels(2), c=pixels(3)), job_size=2)
    polyp, tool, background, _ = site.labels.values()
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[8:11, 16:19] = True
    site.draw(
        task,
        shape("polygon", 0, polyp, [4, 4, 20, 4, 20, 16, 4, 16], z=2),
        shape("ellipse", 0, tool, [20, 15, 30, 9], rotation=30.0),
        shape("mask", 1, polyp, runs(blob())),
        shape("mask", 1, background, runs(hole), z=1),
        shape("mask", 2, polyp, runs(blob())),
    )
    site.complete(task, 0)
    datastore = connect()
    assert np.array_equal(structure(datastore, image(task, 1), "polyp"), blob() & ~hole)
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[4:16, 4:20] = True
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turn = np.radians(30)
    along, across = (x - 20) * np.cos(turn) + (y - 15) * np.sin(turn), (y - 15) * np.cos(turn)
    ellipse = (along / 10) ** 2 + ((across - (x - 20) * np.sin(turn)) / 6) ** 2 <= 1
    assert np.array_equal(structure(datastore, image(task, 0), "polyp"), square)
    assert np.array_equal(structure(datastore, image(task, 0), "tool"), ellipse & ~square)
    # the other job goes on
    assert datastore.get_label_uri(image(task, 2), "final") == ""
    site.complete(task, 0, state="in progress")
    datastore.refresh()
    assert image(task, 1) not in datastore.final_labels()


def test_a_video_s_tracks_lie_on_their_frames_and_a_frame_that_is_brought_back_has_its_own(
    site, connect, tmp_path
):
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(20):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * n, np.uint8), "rgb24")
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    task = site.task([file], start_frame=4, frame_step=3)
    corners = np.array([2, 2, 10, 2, 10, 10, 2, 10])
    keys = [shape("polygon", frame, 0, (corners + 3 * frame).tolist()) for frame in (0, 2, 4)]
    keys[-1]["outside"] = True
    site.draw(task, tracks=(tracked(site.labels["polyp"], *keys),))
    (job,) = site.jobs(task).values()
    site.ask("PATCH", f"jobs/{job}/data/meta", {"deleted_frames": [1]})
    site.complete(task)
    datastore = connect()

    def labelled() -> list[str]:
        datastore.refresh()
        return [name for name in datastore.final_labels() if name.startswith(f"task-{task}_")]

    assert labelled() == [image(task, frame) for frame in (0, 2, 3)]
    level = load_volume(Path(datastore.get_image_uri(image(task, 2)))).voxels.mean()
    assert abs(level - 10 * (4 + 2 * 3)) < 3
    site.ask("PATCH", f"jobs/{job}/data/meta", {"deleted_frames": []})
    assert labelled() == [image(task, frame) for frame in range(4)]
    for frame in (0, 1, 2):
        expected = np.zeros((48, 64), bool)
        expected[2 + 3 * frame : 10 + 3 * frame, 2 + 3 * frame : 10 + 3 * frame] = True
        assert np.array_equal(structure(datastore, image(task, frame), "polyp"), expected)


def test_a_label_that_is_submitted_comes_back_from_cvat_and_replaces_nothing(site, connect, tmp_path):
    (file,) = files = saved(tmp_path, submitted=pixels(4))
    task, datastore = site.task(files), connect()
    labels = np.where(blob(), 2, 0).astype(np.uint8)
    labels[:16, :18] = 5
    Image.fromarray(labels).save(file)
    info = {"label_info": [{"name": "tool", "idx": 5}, {"name": "polyp", "idx": 2}]}
    datastore.save_label(image(task, 0), str(file), "final", info)
    with pytest.raises(Conflict):
        datastore.save_label(image(task, 0), str(file), "final", info)
    site.complete(task)
    datastore.refresh()
    assert np.array_equal(structure(datastore, image(task, 0), "polyp"), labels == 2)
    assert np.array_equal(structure(datastore, image(task, 0), "tool"), labels == 5)


def test_who_is_not_let_in_and_a_cvat_that_is_not_there_are_told_plainly(connect):
    with pytest.raises(Unavailable, match="the name or the password is wrong"):
        connect(Account(USER, f"not {PASSWORD}")).list_images()
    with pytest.raises(Unavailable, match="CVAT does not take the API key"):
        connect(Account(key="wrong")).list_images()
    with pytest.raises(Unavailable, match="CVAT cannot be reached"):
        connect(url=CLOSED).list_images()


# functions


@pytest.fixture(scope="module")
def nuclio(biosam2: str) -> Iterator[Nuclio]:
    """Where the CVAT looks for it; the detector's structures are in its `function.yaml`."""
    with deployed(PORT, BIOSAM2_SERVER=biosam2) as gateway:
        detector = gateway.functions["biosam2-detector"].configuration
        detector["metadata"]["annotations"]["spec"] = specification(Server(biosam2).labels())
        yield gateway
        gateway.shutdown()


@pytest.fixture(scope="module")
def task(site: Site, nuclio: Nuclio, movie: Movie, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The movie's frames."""
    folder = tmp_path_factory.mktemp("movie")
    files = [folder / f"frame_{n}.png" for n in range(len(movie.frames))]
    for file, frame in zip(files, movie.frames, strict=True):
        file.write_bytes(frame)
    return site.task(files)


def bitmap(movie: Movie, points: list[float]) -> np.ndarray:
    return decode_mask(points, image_width=movie.size[0], image_height=movie.size[1])


def detected(biosam2: str, frame: bytes) -> np.ndarray:
    """What the server finds when it is asked directly."""
    sent = requests.post(f"{biosam2}/biosam2/pictures", files={"image": frame}, timeout=60).json()
    answer = requests.post(f"{biosam2}/biosam2/pictures/{sent['picture']}/detect", json={}, timeout=60)
    (found,) = answer.json()["found"]
    return server_runs.decode(found["mask"])


def test_cvat_lists_the_three_functions(site, task):
    found = {one["id"]: one for one in site.ask("GET", "lambda/functions")}
    kinds = ("detector", "interactor", "tracker")
    assert {kind: found[f"biosam2-{kind}"]["kind"] for kind in kinds} == {kind: kind for kind in kinds}
    assert [label["name"] for label in found["biosam2-detector"]["labels_v2"]] == [LABEL]
    interactor = found["biosam2-interactor"]
    assert (interactor["min_pos_points"], interactor["startswith_box_optional"]) == (0, True)
    assert found["biosam2-tracker"]["supported_shape_types"] == ["mask", "polygon", "rectangle"]


@pytest.mark.parametrize(
    ("clicks", "prompts"),
    [
        ({"pos_points": [[45.5, 62.5]]}, {"foreground": [[45, 62]]}),
        ({"obj_bbox": [[105, 61], [135, 99]]}, {"box": [104.5, 60.5, 134.5, 98.5]}),
        (
            {"pos_points": [[45.5, 62.5]], "neg_points": [[90.5, 20.5]]},
            {"foreground": [[45, 62]], "background": [[90, 20]]},
        ),
    ],
)
def test_a_click_or_a_box_gives_the_mask_that_the_model_made(site, task, biosam2, movie, clicks, prompts):
    asked = {"frame": 0, "pos_points": [], "neg_points": [], "obj_bbox": [], **clicks}
    answer = site.call("interactor", task, **asked)
    expected = model_mask(biosam2, movie.frames[0], **prompts)
    assert np.array_equal(np.array(answer["mask"]) == 1, expected) and expected.any()


def test_a_tiff_has_its_mask_as_well(site, nuclio, biosam2, movie, tmp_path):
    with Image.open(io.BytesIO(movie.frames[0])) as frame:
        frame.save(tmp_path / "frame.tif")
    clicks = {"pos_points": [[45.5, 62.5]], "neg_points": [], "obj_bbox": []}
    answer = site.call("interactor", site.task([tmp_path / "frame.tif"]), frame=0, **clicks)
    expected = model_mask(biosam2, movie.frames[0], foreground=[[45, 62]])
    assert np.array_equal(np.array(answer["mask"]) == 1, expected)


def test_automatic_annotation_leaves_the_masks_that_the_server_found(site, task, biosam2, movie):
    assert site.annotate(task)["status"] == "finished"
    found = site.drawn(task)
    assert [(one["frame"], one["type"], one["label_id"]) for one in found] == [
        (frame, "mask", site.labels[LABEL]) for frame in range(len(movie.frames))
    ]
    for one, frame in zip(found, movie.frames, strict=True):
        assert np.array_equal(bitmap(movie, one["points"]), detected(biosam2, frame))


def test_automatic_annotation_converts_masks_to_polygons(site, task):
    assert site.annotate(task, conv_mask_to_poly=True)["status"] == "finished"
    assert {one["type"] for one in site.drawn(task)} == {"polygon"}


def test_objects_are_followed_by_the_states_that_cvat_has_signed(site, task, movie):
    begun = [
        {"type": "rectangle", "points": shapes.rectangle(movie.right[0])},
        shapes.shape("mask", movie.left[0]),
        shapes.shape("polygon", movie.right[0]),
    ]
    answer = site.call("tracker", task, type="init_tracking", frame=0, shapes=begun)
    for frame in range(1, len(movie.frames)):
        answer = site.call("tracker", task, type="track", frame=frame, states=answer["states"])
        box, mask, polygon = answer["shapes"]
        assert [one["type"] for one in (box, mask, polygon)] == ["rectangle", "mask", "polygon"]
        assert np.allclose(box["points"], shapes.rectangle(movie.right[frame]), atol=3)
        assert overlap(bitmap(movie, mask["points"]), movie.left[frame]) > 0.8


def test_auto_annotate_leaves_the_masks_that_the_server_found(site, task, biosam2, movie, tmp_path):
    server = [sys.executable, "-m", "cvat_cli", "--server-host", URL, "--auth", f"{USER}:{PASSWORD}"]
    what = ["task", "auto-annotate", str(task), "--clear-existing", "--allow-unmatched-labels"]
    function = ["--function-file", str(agent_file("detection")), "-p", f"server=str:{biosam2}"]
    ran = subprocess.run([*server, *what, *function], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = site.drawn(task)
    assert [(one["frame"], one["type"]) for one in found] == [(n, "mask") for n in range(len(movie.frames))]
    for one, frame in zip(found, movie.frames, strict=True):
        assert np.array_equal(bitmap(movie, one["points"]), detected(biosam2, frame))


# what goes wrong


def test_an_unreachable_server_is_a_503_in_cvat(site, task, nuclio, monkeypatch):
    for kind in ("interactor", "detector"):
        broken = Function(CLIENT / "nuclio" / kind, {"BIOSAM2_SERVER": CLOSED})
        broken.configuration = nuclio.functions[broken.name].configuration
        monkeypatch.setitem(nuclio.functions, broken.name, broken)
    asked = {"frame": 0, "pos_points": [[45.5, 62.5]], "neg_points": [], "obj_bbox": []}
    assert "503 Server Error" in site.call("interactor", task, 503, **asked)
    request = site.annotate(task)
    assert request["status"] == "failed" and "503 Server Error" in request["exc_info"]


def test_a_state_that_has_expired_is_a_410_in_cvat(site, task, movie, biosam2):
    begun = [shapes.shape("mask", movie.left[0])]
    states = site.call("tracker", task, type="init_tracking", frame=0, shapes=begun)["states"]
    track = json.loads(states[0].rsplit(":", 2)[0])["track"]
    requests.delete(f"{biosam2}/biosam2/tracks/{track}", timeout=30).raise_for_status()
    said = site.call("tracker", task, 410, type="track", frame=1, states=states)
    assert "410 Client Error" in said


# what is drawn in CVAT is what the server learns


def test_what_is_completed_in_cvat_is_trained_on_and_found_on_its_other_frames(
    site, task, nuclio, movie, tmp_path, monkeypatch
):
    settings = {
        "MONAI_LABEL_DATASTORE": "cvat",
        "MONAI_LABEL_DATASTORE_USERNAME": USER,
        "MONAI_LABEL_DATASTORE_PASSWORD": PASSWORD,
        "MONAI_LABEL_DATASTORE_PROJECT": str(site.project),
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(tmp_path / "cache"),
    }
    with MonaiLabel(URL, tmp_path, {"versions": tmp_path / "versions"}, settings) as server:
        detector = Function(CLIENT / "nuclio" / "detector", {"BIOSAM2_SERVER": server.address})
        detector.configuration = nuclio.functions[detector.name].configuration
        monkeypatch.setitem(nuclio.functions, detector.name, detector)
        site.draw(task, shape("mask", 0, site.labels[LABEL], runs(movie.left[0])))
        site.complete(task)
        end = time.monotonic() + 2 * kept.AT_MOST
        while image(task, 0) not in server.get("/datastore/", output="train").text:
            assert time.monotonic() < end
            time.sleep(1)
        (found,) = site.call("detector", task, frame=1)["shapes"]
    assert found["label_id"] == site.labels[LABEL]
    assert overlap(bitmap(movie, found["points"]), movie.left[1]) > 0.8
