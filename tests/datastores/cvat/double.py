"""Cvat: a double of CVAT's server, of the current API and of that of 2.15, with its tasks in memory.

What it answers is checked against the models of `cvat-sdk` (`test_double.py`); exports are written as CVAT's
"CVAT for images 1.1" is, with tracks interpolated, shapes in their z order and frames named by their source.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

NAME, PASSWORD, KEY = "annotator", "secret", "prefix.key"
BEGIN = "2026-01-02T03:04:05.000000Z"
TASK = 0  # where a job's number stands: the task itself
LABELS = {1: {11: "polyp", 12: "tool", 13: "background"}, 2: {21: "cell"}}
SKIPPED = {"storage": "local", "cloud_storage_id": None}


@dataclass
class Picture:
    """A frame: its name, and its pixels as (height, width, 3)."""

    name: str
    pixels: np.ndarray
    format: str = "PNG"
    exif: bytes = b""

    @property
    def content(self) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(self.pixels).save(stream, self.format, exif=self.exif)
        return stream.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as CVAT says them: after the EXIF orientation."""
        height, width = self.pixels.shape[:2]
        return (height, width) if self.exif else (width, height)


@dataclass
class Task:
    """A task of the double; `jobs` are lists of first frame, last frame and state."""

    id: int
    project: int
    pictures: list[Picture]
    jobs: dict[int, list[Any]]
    mode: str = "annotation"
    start: int = 0
    step: int = 1
    deleted: tuple[int, ...] = ()
    shapes: list[dict[str, Any]] = field(default_factory=list)
    tracks: list[dict[str, Any]] = field(default_factory=list)
    updated: dict[int, str] = field(default_factory=dict)
    changes: int = 0

    def change(self, *jobs: int) -> None:
        """Somebody has changed annotations or the state of jobs, of all by default."""
        self.changes += 1
        for job in jobs or self.jobs:
            self.updated[job] = f"2026-01-03T00:00:{self.changes:02d}.000000Z"

    def delete(self, *frames: int) -> None:
        """Somebody has deleted these frames, and brought back all others: only the task is newer."""
        self.changes += 1
        self.deleted, self.updated[TASK] = frames, f"2026-01-03T00:00:{self.changes:02d}.000000Z"

    @property
    def stamp(self) -> str:
        return max([BEGIN, *self.updated.values()])


class Cvat:
    """The server.

    Attributes
    ----------
    current : bool
        Whether it has the current API, and not that of 2.15.
    tasks : dict of Task
    fault : str
        ``""``, or what goes wrong from now on: ``"error"`` (500), ``"slow"``, ``"cut"`` (files break off),
        ``"closed"`` (no answer); of exports ``"expired"`` (they are forgotten), ``"failed"``, ``"endless"``.
    export : bytes or None
        What is sent in place of a proper export.
    asked : list of str
        The requests, as `GET /path`.
    most : int
        Items of a page, whatever is asked for.
    waits : int
        How often an export is looked at before it is there.
    """

    def __init__(self, current: bool = True) -> None:
        self.current, self.fault, self.export = current, "", None
        self.tasks: dict[int, Task] = {}
        self.asked: list[str] = []
        self.most, self.waits, self.delay = 2, 1, 3.0
        self.sessions: set[str] = set()
        self.requests: dict[str, list[int]] = {}
        self.connections: list[socket.socket] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer waits 40 ms

            def setup(self) -> None:
                super().setup()
                double.connections.append(self.connection)

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                double.answer(self, "GET")

            def do_POST(self) -> None:
                double.answer(self, "POST")

            def do_PATCH(self) -> None:
                double.answer(self, "PATCH")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # Answering

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        path = parts.path.rstrip("/")
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.asked.append(f"{method} {handler.path}")
        if self.fault == "closed":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if self.fault == "slow":
            time.sleep(self.delay)
        content_type = "application/json"
        cookies: list[str] = []
        if self.fault == "error":
            code, content = 500, b"Internal Server Error"
        elif (method, path) == ("GET", "/api/server/about"):
            code, content = 200, self.about()
        elif (method, path) == ("POST", "/api/auth/login"):
            code, content, cookies = self.login(json.loads(body))
        elif not self.knows(handler, method):
            code, content = 401, {"detail": "Authentication credentials were not provided."}
        else:
            code, content = self.route(method, path, query, body)
        if isinstance(content, bytes):
            content_type = "application/octet-stream"
        else:
            content = json.dumps(content).encode()
        handler.send_response(code)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(content)))
        for cookie in cookies:
            handler.send_header("Set-Cookie", f"{cookie}; Path=/")
        handler.end_headers()
        if self.fault == "cut" and content_type != "application/json":
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(content)

    def about(self) -> dict[str, Any]:
        version = "2.80.0" if self.current else "2.15.0"
        extra = {"logo_url": "", "subtitle": ""} if self.current else {}
        return {"name": "CVAT", "description": "", "version": version, **extra}

    def login(self, names: dict[str, str]) -> tuple[int, dict[str, Any], list[str]]:
        if (names.get("username"), names.get("password")) != (NAME, PASSWORD):
            return 400, {"non_field_errors": ["Unable to log in with provided credentials."]}, []
        session = f"session{len(self.asked)}"
        self.sessions.add(session)
        return 200, {"key": "token"}, [f"sessionid={session}", f"csrftoken=csrf-{session}"]

    def knows(self, handler: BaseHTTPRequestHandler, method: str) -> bool:
        scheme = "Bearer" if self.current else "Token"
        given = handler.headers.get("Authorization", "")
        if given == f"{scheme} {KEY}":
            return True
        if given == f"Basic {base64.b64encode(f'{NAME}:{PASSWORD}'.encode()).decode()}":
            return True
        found = re.search(r"sessionid=(\w+)", handler.headers.get("Cookie", ""))
        if not found or found[1] not in self.sessions:
            return False
        return method == "GET" or handler.headers.get("X-CSRFToken") == f"csrf-{found[1]}"

    def route(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        task = re.fullmatch(r"/api/tasks/(\d+)(/.*)?", path)
        lists = {
            "projects": self.projects,
            "tasks": self.listed_tasks,
            "jobs": self.jobs,
            "labels": self.labels,
        }
        name = path.removeprefix("/api/")
        if method == "GET" and name in lists:
            return 200, self.page(list(lists[name](query)), query, name)
        if (method, path) == ("GET", "/api/users/self"):
            return 200, {"url": "", "id": 1, "username": NAME, "first_name": "", "last_name": ""}
        if method == "GET" and path.startswith("/api/requests/") and self.current:
            return self.request(unquote(path.removeprefix("/api/requests/")))
        if task and int(task[1]) in self.tasks:
            return self.of_task(self.tasks[int(task[1])], method, task[2] or "", query, body)
        return 404, {"detail": "Not found."}

    def of_task(
        self, task: Task, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        if (method, path) == ("GET", ""):
            return 200, self.task(task)
        if (method, path) == ("GET", "/data/meta"):
            return 200, self.meta(task)
        if (method, path) == ("GET", "/data"):
            number = int(query["number"])
            if (
                query.get("type") != "frame"
                or query.get("quality") != "original"
                or number >= len(task.pictures)
            ):
                return 400, {"detail": "no such data"}
            return 200, task.pictures[number].content
        if (method, path) == ("POST", "/dataset/export") and self.current:
            assert query["format"] == "CVAT for images 1.1" and query["save_images"] in ("false", "False")
            about = "user_id=1&format=CVAT_for_images_1~1&subresource=annotations"
            request = f"action=export&target=task&target_id={task.id}&{about}"
            if self.requests.get(request, [0, 0])[1] > 0:
                self.requests[request][1] -= 1  # time goes by
                return 409, {"rq_id": request}
            self.requests[request] = [task.id, self.waits]  # one that has ended is forgotten
            return 202, {"rq_id": request}
        if (method, path) == ("GET", "/dataset/download") and self.current:
            request = self.requests.pop(query["rq_id"], None)
            return (200, self.exported(task)) if request else (400, b"Unknown export request id")
        if (method, path) == ("GET", "/annotations") and "format" in query:
            return self.by_action(task, query)
        if (method, path) == ("GET", "/annotations"):
            return 200, self.annotations(task)
        if (method, path) == ("PATCH", "/annotations"):
            assert query["action"] == "create"
            made = json.loads(body)["shapes"]
            task.shapes += made
            task.change()
            return 200, {**self.annotations(task), "shapes": made}
        return 404, {"detail": "Not found."}

    def request(self, request: str) -> tuple[int, Any]:
        if request not in self.requests or self.fault == "expired":
            self.requests.pop(request, None)
            return 404, {"detail": "Not found."}
        task, waits = self.requests[request]
        self.requests[request][1] -= 1
        state = "finished" if waits <= 0 and self.fault != "endless" else "started"
        state = "failed" if self.fault == "failed" else state
        # a server behind a proxy knows itself by another name
        place = f"http://cvat_server:8080/api/tasks/{task}/dataset/download?rq_id={quote(request, safe='')}"
        found = {
            "status": state,
            "message": "the exporter broke" if state == "failed" else "",
            "id": request,
            "operation": {
                "type": "export:annotations",
                "target": "task",
                "project_id": None,
                "task_id": task,
                "job_id": None,
                "format": "CVAT for images 1.1",
                "function_id": None,
            },
            "progress": None,
            "created_date": BEGIN,
            "started_date": BEGIN,
            "finished_date": None,
            "expiry_date": None,
            "owner": {"id": 1, "username": NAME},
            "result_url": place if state == "finished" else None,
            "result_id": None,
        }
        if state == "failed":
            del self.requests[request]
        return 200, found

    def by_action(self, task: Task, query: dict[str, str]) -> tuple[int, Any]:
        if self.current:
            return 410, {"detail": "This endpoint is no longer supported."}
        assert query["format"] == "CVAT for images 1.1"
        key = f"task {task.id}"
        if query.get("action") != "download":
            if self.fault == "failed":
                return 500, b"Traceback: the exporter broke"
            _, waits = self.requests.setdefault(key, [task.id, self.waits])
            self.requests[key][1] -= 1
            return (201 if waits <= 0 and self.fault != "endless" else 202), b""
        if key not in self.requests or self.fault == "expired":
            return 202, b""
        del self.requests[key]
        return 200, self.exported(task)

    # Lists

    def page(self, items: list[dict[str, Any]], query: dict[str, str], name: str) -> dict[str, Any]:
        size = min(self.most, int(query.get("page_size", 10)))
        page = int(query.get("page", 1))
        end = page * size
        following = f"http://cvat_server:8080/api/{name}?page={page + 1}" if end < len(items) else None
        before = f"http://cvat_server:8080/api/{name}?page={page - 1}" if page > 1 else None
        shown = items[end - size : end]
        return {"count": len(items), "next": following, "previous": before, "results": shown}

    def projects(self, _: dict[str, str]) -> Iterator[dict[str, Any]]:
        for id, name in ((1, "Endoscopy"), (2, "Cells"), (3, "Empty")):
            yield {
                "url": f"{self.url}/api/projects/{id}",
                "id": id,
                "name": name,
                "owner": None,
                "assignee": None,
                "guide_id": None,
                "bug_tracker": "",
                "task_subsets": [],
                "created_date": BEGIN,
                "updated_date": BEGIN,
                "status": "annotation",
                "dimension": "2d",
                "organization": None,
                "target_storage": None,
                "source_storage": None,
                "tasks": {"count": 1, "url": f"{self.url}/api/tasks?project_id={id}"},
                "labels": {"url": f"{self.url}/api/labels?project_id={id}"},
            }

    def listed_tasks(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        for task in self.tasks.values():
            if query.get("project_id") in (None, str(task.project)):
                yield self.task(task)

    def task(self, task: Task) -> dict[str, Any]:
        newer = {"media_type": "video" if task.mode == "interpolation" else "image", "validation_mode": None}
        return {
            "url": f"{self.url}/api/tasks/{task.id}",
            "id": task.id,
            "name": f"task {task.id}",
            "project_id": task.project,
            "mode": task.mode,
            "owner": None,
            "assignee": None,
            "bug_tracker": "",
            "created_date": BEGIN,
            "updated_date": task.stamp,
            "overlap": 0,
            "segment_size": 0,
            "status": "annotation",
            "data_chunk_size": 72,
            "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset",
            "guide_id": None,
            "size": len(task.pictures),
            "image_quality": 70,
            "data": task.id,
            "dimension": "2d",
            "subset": "",
            "organization": None,
            "target_storage": None,
            "source_storage": None,
            "jobs": {"count": len(task.jobs), "completed": 0, "validation": 0, "url": f"{self.url}/api/jobs"},
            "labels": {"url": f"{self.url}/api/labels?task_id={task.id}"},
            **(newer if self.current else {}),
        }

    def jobs(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        for task in self.tasks.values():
            if query.get("project_id") not in (None, str(task.project)):
                continue
            for id, (first, last, state, *kind) in task.jobs.items():
                yield {
                    "url": f"{self.url}/api/jobs/{id}",
                    "id": id,
                    "task_id": task.id,
                    "project_id": task.project,
                    "assignee": None,
                    "guide_id": None,
                    "dimension": "2d",
                    "bug_tracker": "",
                    "status": "annotation",
                    "stage": "annotation",
                    "state": state,
                    "mode": task.mode,
                    "frame_count": last - first + 1,
                    "start_frame": first,
                    "stop_frame": last,
                    "data_chunk_size": 72,
                    "data_compressed_chunk_type": "imageset",
                    "created_date": BEGIN,
                    "updated_date": task.updated.get(id, BEGIN),
                    "type": kind[0] if kind else "annotation",
                    "organization": None,
                    "target_storage": None,
                    "source_storage": None,
                    "issues": {"count": 0, "url": f"{self.url}/api/issues"},
                    "labels": {"url": f"{self.url}/api/labels?job_id={id}"},
                }

    def labels(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        only = query.get("project_id")
        if "task_id" in query:
            only = str(self.tasks[int(query["task_id"])].project)
        for project, labels in LABELS.items():
            for id, name in labels.items() if only in (None, str(project)) else ():
                yield {
                    "id": id,
                    "name": name,
                    "color": f"#{id:02x}8040",
                    "attributes": [],
                    "type": "any",
                    "sublabels": [],
                    "project_id": project,
                    "has_parent": False,
                }

    def meta(self, task: Task) -> dict[str, Any]:
        listed = task.pictures[:1] if task.mode == "interpolation" else task.pictures
        frames = [
            {"width": p.size[0], "height": p.size[1], "name": p.name, "related_files": 0} for p in listed
        ]
        return {
            "chunks_updated_date": BEGIN,
            "chunk_size": 72,
            "size": len(task.pictures),
            "image_quality": 70,
            "start_frame": task.start,
            "stop_frame": task.start + task.step * (len(task.pictures) - 1),
            "frame_filter": f"step={task.step}" if task.step > 1 else "",
            "frames": frames,
            "deleted_frames": list(task.deleted),
            "included_frames": None,
            **(SKIPPED if self.current else {}),
        }

    def annotations(self, task: Task) -> dict[str, Any]:
        return {"version": task.changes, "tags": [], "shapes": task.shapes, "tracks": task.tracks}

    # Exports

    def exported(self, task: Task) -> bytes:
        if self.export is not None:
            return self.export
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("annotations.xml", self.xml(task))
        return stream.getvalue()

    def xml(self, task: Task) -> str:
        names = LABELS[task.project]
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
        lines += [
            f"  <meta><task><id>{task.id}</id><labels><label><name>x</name></label></labels></task></meta>"
        ]
        for number, picture in enumerate(task.pictures):
            if number in task.deleted:
                continue
            width, height = picture.size
            about = {"id": task.start + number * task.step, "name": picture.name}
            lines.append(f"  <image {_attributes({**about, 'width': width, 'height': height})}>")
            shapes = [shape for shape in task.shapes if shape["frame"] == number]
            shapes += [one for track in task.tracks if (one := interpolated(track, number))]
            for shape in sorted(shapes, key=lambda shape: shape["z_order"]):
                kind = {"rectangle": "box"}.get(shape["type"], shape["type"])
                lines.append(f"    <{kind} {_attributes(_written(shape, names))}>")
                lines.append(f'      <attribute name="a">1</attribute>\n    </{kind}>')
            lines.append("  </image>")
        return "\n".join([*lines, "</annotations>", ""])


def interpolated(track: dict[str, Any], number: int) -> dict[str, Any] | None:
    """The shape of a track on a frame, between its key frames; None where it is outside."""
    keys = track["shapes"]
    before = [key for key in keys if key["frame"] <= number]
    after = [key for key in keys if key["frame"] > number]
    if not before or before[-1]["outside"]:
        return None
    last = before[-1]
    points = np.array(last["points"], float)
    if after and len(after[0]["points"]) == len(points) and last["type"] != "mask":
        share = (number - last["frame"]) / (after[0]["frame"] - last["frame"])
        points += share * (np.array(after[0]["points"]) - points)
    return {**last, "label_id": track["label_id"], "frame": number, "points": points.tolist()}


def _attributes(given: dict[str, Any]) -> str:
    return " ".join(f"{key}={quoteattr(str(value))}" for key, value in given.items())


def _written(shape: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    points = shape["points"]
    about = {"label": names[shape["label_id"]], "source": "manual", "occluded": 0}
    if shape["type"] == "mask":
        *runs, left, top, right, bottom = (int(point) for point in points)
        box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
        about |= {"rle": str(runs)[1:-1], **box}
    elif shape["type"] == "ellipse":
        cx, cy, right, top = points
        numbers = {"cx": cx, "cy": cy, "rx": right - cx, "ry": cy - top}
        about |= {key: f"{value:.2f}" for key, value in numbers.items()}
        about |= {"rotation": f"{shape['rotation']:.2f}"} if shape["rotation"] else {}
    elif shape["type"] == "rectangle":
        about |= {key: f"{v:.2f}" for key, v in zip(("xtl", "ytl", "xbr", "ybr"), points, strict=True)}
    else:
        pairs = zip(points[::2], points[1::2], strict=True)
        about |= {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in pairs)}
    return {**about, "z_order": shape["z_order"]}


def shape(kind: str, frame: int, label: int, points: list[float], z: int = 0, **more: Any) -> dict[str, Any]:
    """A shape as CVAT's JSON has it."""
    return {
        "type": kind,
        "frame": frame,
        "label_id": label,
        "points": [float(point) for point in points],
        "occluded": False,
        "outside": False,
        "z_order": z,
        "rotation": 0.0,
        "id": None,
        "group": 0,
        "source": "manual",
        "attributes": [],
        **more,
    }


def runs(mask: np.ndarray) -> list[float]:
    """A mask (height, width) as CVAT's points: runs over its box, row by row, and the box."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    found, value = [0.0], False
    for pixel in mask[top : bottom + 1, left : right + 1].ravel():
        if pixel != value:
            found.append(0.0)
            value = not value
        found[-1] += 1
    return [*found, float(left), float(top), float(right), float(bottom)]
