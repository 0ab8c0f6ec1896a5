"""A double of CVAT: the endpoints that `cvat-sdk` and `cvat-cli` 2.80 call for functions and their agents.

What it answers is read by the SDK's own models, which refuse what a CVAT would not say. It has tasks with
their frames and labels, functions and their queues, and no more.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from programs import free_port

VERSION = "2.80.0"
TOKEN = "a-personal-access-token"
CHUNK = 2  # frames
CREATED = "2026-01-02T03:04:05Z"


@dataclass
class Task:
    """A task of pictures.

    Attributes
    ----------
    frames : list of bytes
        PNG files.
    size : (W, H)
    labels : dict
        From their names to CVAT's ids.
    """

    frames: list[bytes]
    size: tuple[int, int]
    labels: dict[str, int]
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Asked:
    """An annotation request in a function's queue, and what became of it.

    `then` makes of its result what the person's browser asks next.
    """

    function: int
    category: str
    params: dict[str, Any]
    then: Callable[[dict[str, Any]], None] | None = None
    agent: str | None = None
    result: dict[str, Any] | None = None
    error: str | None = None


class Cvat:
    """The double; it serves in a thread of this process while its `with` lasts.

    Attributes
    ----------
    address : str
    tasks, functions : dict
        By id.
    requests : list of Asked
        What a person has asked of functions, in that order.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.functions: dict[int, dict[str, Any]] = {}
        self.requests: list[Asked] = []
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=port, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def ask(
        self,
        function: int,
        params: dict[str, Any],
        category: str = "interactive",
        then: Callable[[dict[str, Any]], None] | None = None,
    ) -> Asked:
        """As a person does in the browser: puts a request into a function's queue."""
        asked = Asked(function, category, params, then)
        self.requests.append(asked)
        return asked

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def signed_in(request: Request, call_next: Any) -> Response:
            known = request.headers.get("authorization") == f"Bearer {TOKEN}"
            if request.url.path != "/api/server/about" and not known:
                return Response('{"detail": "Unauthorized"}', 401, media_type="application/json")
            return await call_next(request)

        self._add_tasks(app)
        self._add_functions(app)
        return app

    def _add_tasks(self, app: FastAPI) -> None:
        @app.get("/api/server/about")
        def about() -> dict[str, str]:
            return {"name": "CVAT", "description": "", "version": VERSION, "logo_url": "", "subtitle": ""}

        @app.get("/api/tasks/{number}")
        def task(number: int) -> dict[str, Any]:
            found = _get(self.tasks, number)
            summary = {"url": f"{self.address}/api/labels?task_id={number}"}
            jobs = {"count": 1, "completed": 0, "validation": 0, "url": f"{self.address}/api/jobs"}
            return {
                "id": number,
                "name": f"task {number}",
                "jobs": jobs,
                "labels": summary,
                "url": f"{self.address}/api/tasks/{number}",
                "size": len(found.frames),
                "mode": "annotation",
                "created_date": CREATED,
                "updated_date": CREATED,
                "dimension": "2d",
                "status": "annotation",
                "data_chunk_size": CHUNK,
                "data_original_chunk_type": "imageset",
                "organization": None,
                "data_compressed_chunk_type": "imageset",
                "project_id": None,
                "data": number,
            }

        @app.get("/api/labels")
        def labels(task_id: int, page: int = 1) -> dict[str, Any]:
            names = _get(self.tasks, task_id).labels
            results = [
                {
                    "id": key,
                    "name": name,
                    "color": "#c06060",
                    "attributes": [],
                    "type": "any",
                    "sublabels": [],
                    "task_id": task_id,
                    "parent_id": None,
                    "has_parent": False,
                }
                for name, key in names.items()
            ]
            return {"count": len(results), "next": None, "previous": None, "results": results}

        @app.get("/api/tasks/{number}/data/meta")
        def meta(number: int) -> dict[str, Any]:
            found = _get(self.tasks, number)
            width, height = found.size
            frames = [
                {"name": f"frame_{at}.png", "width": width, "height": height, "related_files": 0}
                for at in range(len(found.frames))
            ]
            return {
                "chunk_size": CHUNK,
                "size": len(frames),
                "image_quality": 70,
                "frames": frames,
                "start_frame": 0,
                "stop_frame": len(frames) - 1,
                "frame_filter": "",
                "deleted_frames": [],
                "chunks_updated_date": CREATED,
                "included_frames": None,
                "chapters": None,
            }

        @app.get("/api/tasks/{number}/data")
        @app.get("/api/tasks/{number}/data/")
        def data(number: int, type: str, quality: str, request: Request) -> Response:
            assert quality == "original"
            frames, at = _get(self.tasks, number).frames, int(request.query_params["number"])
            if type == "frame":
                return Response(frames[at], media_type="image/png")
            chunk = io.BytesIO()
            with zipfile.ZipFile(chunk, "w") as archive:
                for place, frame in enumerate(frames[at * CHUNK : (at + 1) * CHUNK]):
                    archive.writestr(f"{place:06}.png", frame)
            return Response(chunk.getvalue(), media_type="application/zip")

        @app.put("/api/tasks/{number}/annotations")
        @app.patch("/api/tasks/{number}/annotations")
        @app.put("/api/tasks/{number}/annotations/")
        @app.patch("/api/tasks/{number}/annotations/")
        async def annotate(number: int, request: Request) -> dict[str, Any]:
            body = await request.json()
            _get(self.tasks, number).annotations.append(body)
            return {"version": 1, "tags": [], "shapes": [], "tracks": []}

    def _add_functions(self, app: FastAPI) -> None:
        queue = "/api/functions/queues/function:{function}/requests"

        @app.post("/api/functions", status_code=201)
        async def create(request: Request) -> dict[str, Any]:
            given = await request.json()
            key = len(self.functions) + 1
            for label in given.get("labels_v2", []):
                label.setdefault("type", "any")
            self.functions[key] = {**_defaults(given["kind"]), **given, "id": key}
            return self.functions[key]

        @app.get("/api/functions/{function}")
        def function(function: int) -> dict[str, Any]:
            return _get(self.functions, function)

        @app.post(f"{queue}/acquire")
        async def acquire(function: int, request: Request) -> dict[str, Any]:
            agent = await request.json()
            for key, asked in enumerate(self.requests):
                waiting = asked.agent is None and asked.function == function
                if waiting and asked.category == agent["request_category"]:
                    asked.agent = agent["agent_id"]
                    return {"ar_assignment": {"ar_id": str(key), "ar_params": asked.params}}
            return {"ar_assignment": None}

        @app.post(f"{queue}/{{key}}/complete")
        async def complete(function: int, key: int, request: Request) -> dict[str, Any]:
            asked = self.requests[key]
            asked.result = await self._of_its_agent(key, request)
            if asked.then:
                asked.then(asked.result)
            return {}

        @app.post(f"{queue}/{{key}}/fail")
        async def fail(function: int, key: int, request: Request) -> dict[str, Any]:
            self.requests[key].error = (await self._of_its_agent(key, request))["exc_info"]
            return {}

        @app.post(f"{queue}/{{key}}/update")
        async def update(function: int, key: int, request: Request) -> dict[str, Any]:
            await self._of_its_agent(key, request)
            return {}

    async def _of_its_agent(self, key: int, request: Request) -> dict[str, Any]:
        body = json.loads(await request.body())
        if body.pop("agent_id") != self.requests[key].agent:
            raise HTTPException(403, "this request was given to another agent")
        return body


def _defaults(kind: str) -> dict[str, Any]:
    """What CVAT says of a function where its maker says nothing."""
    if kind != "interactor":
        return {}
    return {"min_neg_points": -1, "startswith_box": False, "startswith_box_optional": False}


def _get(kept: dict[int, Any], key: int) -> Any:
    if key not in kept:
        raise HTTPException(404, "Not found.")
    return kept[key]
