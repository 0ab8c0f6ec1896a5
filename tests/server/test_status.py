"""What the server tells the status page, and that it does so quickly. No browser here."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clients.status.site import DIGITS, NOW, Site
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.utils.async_tasks import utils as async_tasks
from PIL import Image

from lib.evaluation.worst import Worst
from lib.server import errors
from lib.server.status import labels, rounds, router, routes
from lib.trainers.finetune.progress import only_one

FILES = sorted(path.name for path in routes.CLIENT.iterdir() if path.suffix in routes.TYPES)
MONDAY = datetime(2026, 11, 16, tzinfo=UTC)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """MONAI Label's list of trainings."""
    known: list[dict[str, Any]] = []
    monkeypatch.setitem(async_tasks.background_tasks, "train", known)
    return known


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tasks: list[dict[str, Any]]) -> Callable[[Any], TestClient]:
    """A client of the page's routes on a site."""

    def make(site: Any) -> TestClient:
        app = FastAPI()
        app.include_router(router)
        errors.install(app)
        monkeypatch.setattr(routes, "ready_app", lambda: site)
        return TestClient(app)

    return make


def _task(status: str, begun: datetime, *said: str) -> dict[str, Any]:
    local = begun.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return {"id": "1", "status": status, "start_ts": local, "request": {}, "details": list(said)}


def test_the_page_and_its_files_are_served_and_nothing_else(client, tmp_path):
    asked = client(Site(tmp_path))
    assert asked.get("/biosam2", follow_redirects=False).headers["location"] == "biosam2/"
    page = asked.get("/biosam2")
    assert page.url.path == "/biosam2/"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in FILES:
        answer = asked.get(f"/biosam2/page/{name}")
        assert answer.content == (routes.CLIENT / name).read_bytes()
        assert answer.headers["content-type"].split(";")[0] == routes.TYPES[Path(name).suffix]
    for name in ("index.html", "missing.js", "..%2Fohif%2Fmain.js", "%2Fetc%2Fpasswd"):
        assert asked.get(f"/biosam2/page/{name}").status_code == 404


def test_the_page_loads_nothing_from_elsewhere():
    for path in routes.CLIENT.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, path.name
        assert "innerHTML" not in text, path.name


def test_without_versions_the_base_checkpoint_is_served(client, tmp_path):
    site = Site(tmp_path)
    site.versions = None
    site.slot.get = lambda: type("M", (), {"checkpoint": type("C", (), {"name": "tiny", "version": DIGITS})})
    told = client(site).get("/biosam2/status").json()
    assert told["served"] | {"since": ""} == {
        **{"number": 0, "name": "tiny", "checkpoint": DIGITS, "since": "", "device": "cpu", "base": "tiny"}
    }
    assert told["versions"] == [] and told["worst"] is None and told["retraining"] is None
    assert told["job"]["state"] == "idle" and told["can_train"]
    assert client(site).get("/biosam2/versions/1/pictures/a.png").status_code == 404


def test_versions_are_told_newest_first_with_their_figures(client, tmp_path):
    site = Site(tmp_path)
    site.round(0.6, 0.7, structures={"liver": (0.6, 0.7)})
    site.round(0.7, 0.65, published=False, left_out=[{"image": "a", "reason": "empty"}])
    site.round(0.0, 0.0, published=False, gate=None, reason="The hold-out is too small to decide.")
    told = client(site).get("/biosam2/status").json()
    assert [one["number"] for one in told["versions"]] == [3, 2, 1]
    assert told["served"]["number"] == 1
    assert told["versions"][0]["site"] is None and told["versions"][0]["general"] is None
    assert told["versions"][1]["labels"] == {
        **{"training": 6, "hold_out": 2, "left_out": 1, "structures": {"caudate": 8}}
    }
    assert told["versions"][2]["site"]["structures"]["liver"]["candidate"] == 0.7
    assert told["versions"][2]["general"]["margin"] == 0.02


@pytest.mark.parametrize(
    "about",
    [
        {"gate": {"site": {"candidate": math.nan, "structures": "none"}, "general": 3}},
        {"gate": [], "labels": {"image": 3}, "reason": None, "state": 7},
        {"labels": [3, {"structures": 5, "use": []}], "seconds": "long", "created": 20261122},
    ],
)
def test_a_version_with_odd_contents_is_told_all_the_same(client, tmp_path, about):
    site = Site(tmp_path)
    version = site.round(0.6, 0.7)
    file = version.path / "version.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | about))
    told = client(site).get("/biosam2/status")
    assert told.status_code == 200
    assert told.json()["versions"][0]["number"] == 1


def test_a_version_that_was_pruned_says_so_at_the_next_look(client, tmp_path):
    site = Site(tmp_path)
    for dice in (0.6, 0.7, 0.8):
        site.round(dice, dice + 0.1)
    asked = client(site)
    assert not any(one["pruned"] for one in asked.get("/biosam2/status").json()["versions"])
    assert site.versions.prune(1) == [1]
    assert [one["pruned"] for one in asked.get("/biosam2/status").json()["versions"]] == [False, False, True]


def test_labels_are_counted_by_week_and_structure():
    days = [0, 3, 6, 7, -1, -700 * 7]
    entries = {
        f"case{n}": {
            "labels": {
                "final": {
                    "info": {
                        "ts": int((MONDAY + timedelta(days=day)).timestamp()),
                        "label_info": [
                            {"name": "liver"},
                            {"name": "liver"},
                            *([{"name": "kidney"}] * (n < 2)),
                        ],
                    }
                }
            }
        }
        for n, day in enumerate(days)
    }
    entries["none"] = {"labels": {"original": {"info": {}}}}
    entries["unnamed"] = {"labels": {"final": {"info": {"ts": MONDAY.timestamp(), "label_info": "liver"}}}}
    entries["dateless"] = {"labels": {"final": {"info": {"ts": "noon", "label_info": [{"name": 3}]}}}}
    told = labels._count({"objects": entries}, MONDAY.date())
    assert told["images"] == 9 and told["labelled"] == 8
    assert len(told["weeks"]) == labels.MOST_WEEKS and told["weeks"][-1] == "2026-11-16"
    assert told["labels"][-2:] == [1, 5]  # one of next week counts now: clocks may be wrong
    assert told["earlier"] == 2
    counts = {one["name"]: (one["count"], one["weeks"][-1]) for one in told["structures"]}
    assert counts == {"liver": (6, 4), "kidney": (2, 2), labels.UNNAMED: (2, 1)}


def test_structures_beyond_the_most_frequent_are_counted_together():
    named = [{"name": f"n{n}"} for n in range(labels.MOST_STRUCTURES + 7)]
    info = {"ts": MONDAY.timestamp(), "label_info": named}
    told = labels._count({"objects": {"a": {"labels": {"final": {"info": info}}}}}, MONDAY.date())
    assert len(told["structures"]) == labels.MOST_STRUCTURES + 1
    assert told["structures"][-1] == {"name": None, "count": 7, "weeks": [7]}


def test_a_new_label_counts_at_the_next_look(client, tmp_path):
    site = Site(tmp_path, [("one", NOW, ["liver"]), ("two", None, ())])
    asked = client(site)
    assert asked.get("/biosam2/status").json()["labels"]["labelled"] == 1
    file = tmp_path / "label.nii.gz"
    file.touch()
    site.datastore().save_label("two", str(file), "final", {"label_info": [{"name": "spleen"}]})
    told = asked.get("/biosam2/status").json()["labels"]
    assert told["labelled"] == 2
    assert {one["name"] for one in told["structures"]} == {"liver", "spleen"}


def test_another_kind_of_datastore_tells_nothing_of_its_labels(client, tmp_path):
    site = Site(tmp_path)
    site._datastore = object()
    assert client(site).get("/biosam2/status").json()["labels"] is None


def test_of_a_large_site_the_newest_versions_are_told_and_the_table_read_once(client, tmp_path, monkeypatch):
    names = [f"structure {n}" for n in range(12)]
    many = [(f"case{n}", NOW - timedelta(days=n % 700), names[: 1 + n % 12]) for n in range(1000)]
    site = Site(tmp_path, many)
    first = site.round(0.5, 0.6, structures=dict.fromkeys(names, (0.5, 0.6)))
    site.hold_out(first, {(f"case{n}", names[n % 12]): 0.5 + n / 300 for n in range(120)})
    for number in range(2, 260):
        folder = site.versions.folder / f"v{number}"
        folder.mkdir()
        (folder / "version.json").write_text(json.dumps(first.about | {"number": number}))
    reads, json_of = [], site.datastore().json
    monkeypatch.setattr(site.datastore(), "json", lambda: reads.append(1) or json_of())
    asked = client(site)
    assert len(asked.get("/biosam2/status").json()["versions"]) == rounds.MOST_VERSIONS
    answer = asked.get("/biosam2/status")
    assert answer.json()["left_out"] == 259 - rounds.MOST_VERSIONS
    assert answer.json()["labels"]["labelled"] == 1000
    assert reads == [1]


# Trainings


def test_a_training_that_runs_is_told_with_the_time_that_is_left(client, tmp_path, tasks):
    site = Site(tmp_path)
    begun = datetime.now(UTC) - timedelta(seconds=60)
    tasks.append(_task("RUNNING", begun))
    site.progress(state="running", step=200, steps=800, loss=math.nan, started=begun.isoformat(), pid=1)
    job = client(site).get("/biosam2/status").json()["job"]
    assert (job["state"], job["step"], job["steps"], job["loss"]) == ("running", 200, 800, None)
    assert job["cancellable"]
    assert job["seconds_left"] == pytest.approx(180, abs=6)


def test_the_time_left_of_a_resumed_training_is_that_of_the_steps_seen(client, tmp_path, tasks):
    site = Site(tmp_path)
    begun = datetime.now(UTC) - timedelta(seconds=120)
    tasks.append(_task("RUNNING", begun))
    asked = client(site)
    for step, after in ((5000, 10), (5100, 110)):
        updated = (begun + timedelta(seconds=after)).isoformat()
        site.progress(
            state="running", run="resumed", step=step, steps=6100, started=begun.isoformat(), updated=updated
        )
        job = asked.get("/biosam2/status").json()["job"]
    assert job["seconds_left"] == pytest.approx(1000, abs=1)


@pytest.mark.parametrize(
    "status, told, state",
    [
        ("SUBMITTED", None, "waiting"),
        ("RUNNING", None, "starting"),
        ("RUNNING", "evaluating", "evaluating"),
        ("RUNNING", "done", "done"),
        ("DONE", "done", "done"),
        ("STOPPED", "running", "cancelled"),
        ("ERROR", "running", "failed"),
        ("ERROR", None, "failed"),
        ("STOPPED", None, "cancelled"),
        ("ERROR", "failed", "failed"),
    ],
)
def test_what_monai_label_knows_and_what_the_training_says_are_one_state(
    client, tmp_path, tasks, status, told, state
):
    site = Site(tmp_path)
    # what an earlier training has left behind
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    site.progress(state="running", step=3, steps=9, updated=old)
    tasks.append(_task(status, datetime.now(UTC) - timedelta(minutes=1), "lib.errors.UserError: no labels."))
    if told:
        site.progress(state=told, step=7, steps=9)
    job = client(site).get("/biosam2/status").json()["job"]
    assert job["state"] == state
    assert job["step"] == (7 if told else None)
    if state == "failed":
        assert job["message"] == "lib.errors.UserError: no labels."


def test_a_training_of_another_program_is_told_while_it_holds_its_lock(client, tmp_path):
    site = Site(tmp_path)
    site.progress(state="running", step=1, steps=2)
    asked = client(site)
    with only_one(site.versions.folder / "runs"):
        job = asked.get("/biosam2/status").json()["job"]
        assert job["state"] == "running" and not job["cancellable"]
    assert asked.get("/biosam2/status").json()["job"]["state"] == "interrupted"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 3, "step": "x", "updated": 5}', '{"pid": -1}'])
def test_a_damaged_progress_file_is_as_if_there_were_none(client, tmp_path, text):
    site = Site(tmp_path)
    (site.versions.folder / "runs" / "progress.json").write_text(text)
    assert client(site).get("/biosam2/status").json()["job"]["state"] == "idle"


# Pictures


def test_the_worst_cases_come_first_and_each_has_its_picture(client, tmp_path):
    site = Site(tmp_path)
    version = site.round(0.6, 0.7)
    site.hold_out(version, {("b", "liver"): 0.7, ("a", "liver"): 0.2, ("c", "spleen"): 0.5})
    asked = client(site)
    worst = asked.get("/biosam2/status").json()["worst"]
    assert worst["number"] == 1
    assert [(one["image"], one["dice"]) for one in worst["cases"]] == [("a", 0.2), ("c", 0.5), ("b", 0.7)]
    for case in worst["cases"]:
        answer = asked.get(f"/biosam2/versions/1/pictures/{case['picture']}")
        assert answer.headers["content-type"] == "image/png"
        assert min(Image.open(io.BytesIO(answer.content)).size) > 100


def test_a_picture_that_is_a_file_is_sent_as_it_is(client, tmp_path):
    site = Site(tmp_path)
    version = site.round(0.6, 0.7)
    (row,) = site.hold_out(version, {("a", "liver"): 0.2})
    drawn = Worst(version.path / "holdout").path(row).with_suffix(".png")
    drawn.write_bytes(b"a picture")
    assert client(site).get(f"/biosam2/versions/1/pictures/{drawn.name}").content == b"a picture"


def test_only_pictures_of_the_version_are_sent(client, tmp_path):
    site = Site(tmp_path)
    version = site.round(0.6, 0.7)
    (row,) = site.hold_out(version, {("a", "liver"): 0.2})
    kept = Worst(version.path / "holdout").path(row)
    (kept.parent / "other.npz").write_bytes(b"damaged")
    asked = client(site)
    good = kept.with_suffix(".png").name
    names = [
        "other.png",
        kept.name,
        "..%2Fresults.csv",
        "%2Fetc%2Fpasswd",
        "..%2Fworst%2F" + good,
        ".png",
        "a%0Ab.png",
    ]
    for name in names:
        assert asked.get(f"/biosam2/versions/1/pictures/{name}").status_code == 404, name
    for number in ("7", "0", "-1"):
        assert asked.get(f"/biosam2/versions/{number}/pictures/{good}").status_code == 404
    for damaged in (kept.read_bytes()[:200], b"damaged", b""):
        kept.write_bytes(damaged)
        answer = asked.get(f"/biosam2/versions/1/pictures/{good}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == f'"{good}" is not a picture of version 1.'


def test_results_that_are_cut_off_or_of_another_checkpoint_are_left_out(client, tmp_path):
    site = Site(tmp_path)
    version = site.round(0.6, 0.7)
    site.hold_out(version, {("a", "liver"): 0.2, ("b", "liver"): 0.9})
    table = version.path / "holdout" / "results.csv"
    lines = table.read_text().splitlines()
    other = lines[1].replace(version.about["checkpoint"], "ffffffffffff").replace("0.2", "0.1")
    table.write_text("\n".join([*lines, other, lines[2][:20]]))
    cases = client(site).get("/biosam2/status").json()["worst"]["cases"]
    assert [case["dice"] for case in cases] == [0.2, 0.9]
