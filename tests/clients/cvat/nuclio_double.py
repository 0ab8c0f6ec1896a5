"""A stand-in for the nuclio dashboard: our handlers under the real `nuclio-sdk`, behind its HTTP calls."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nuclio_sdk
import yaml
from nuclio_sdk.json_encoder import Encoder
from programs import APP

CLIENT = APP / "clients" / "cvat"


class Function:
    """A function as nuclio runs it: its `function.yaml`, `init_context` once, `handler` for each event."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.configuration = yaml.safe_load((folder / "function.yaml").read_text())
        module, _, name = self.configuration["spec"]["handler"].partition(":")
        given = {one["name"]: one["value"] for one in self.configuration["spec"]["env"]}
        if str(CLIENT) not in sys.path:
            sys.path.insert(0, str(CLIENT))  # /opt/nuclio, where nuclio puts what `--path` names
        module = importlib.import_module(module)
        self._handler = getattr(module, name)
        self._context = nuclio_sdk.Context(logger=nuclio_sdk.Logger("INFO"))
        with patch.dict(os.environ, {**given, "PYTHONPATH": "", **environment}):
            module.init_context(self._context)

    @property
    def name(self) -> str:
        return self.configuration["metadata"]["name"]

    def described(self) -> dict[str, Any]:
        return {**self.configuration, "status": {"state": "ready", "httpPort": 0}}

    def call(self, body: bytes, content_type: str) -> dict[str, Any]:
        """What nuclio makes of the handler's answer: `status_code`, `body`, `content_type`."""
        sent = {
            "body": body,
            "content_type": content_type,
            "trigger": {"kind": "http", "name": "http"},
            "fields": {},
            "headers": {},
            "id": "1",
            "method": "POST",
            "path": "/",
            "size": len(body),
            "timestamp": 0,
            "url": "",
            "shard_id": 0,
            "num_shards": 1,
            "type": "",
            "type_version": "",
            "version": "",
        }
        event = nuclio_sdk.Event.deserialize(sent, kind=nuclio_sdk.EventDeserializerKinds.msgpack)
        answer = self._handler(self._context, event)
        return nuclio_sdk.Response.from_entrypoint_output(Encoder().encode, answer)


class Nuclio(ThreadingHTTPServer):
    """`GET /api/functions[/{name}]` and `POST /api/function_invocations`, as CVAT calls them."""

    def __init__(self, *functions: Function, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.functions = {function.name: function for function in functions}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Nuclio

    def do_GET(self) -> None:
        functions = {name: function.described() for name, function in self.server.functions.items()}
        path = self.path.removeprefix("/api/functions").strip("/")
        self._answer(200, json.dumps(functions[path] if path else functions), "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        function = self.server.functions[self.headers["x-nuclio-function-name"]]
        answer = function.call(body, self.headers["Content-Type"])
        self._answer(answer["status_code"], answer["body"], answer["content_type"])

    def _answer(self, status: int, body: str, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass
