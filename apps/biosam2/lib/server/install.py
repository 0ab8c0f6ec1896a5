"""Our routes and checks on MONAI Label's app."""

from __future__ import annotations

from fastapi import FastAPI
from monailabel.config import settings

from lib.server import (
    activelearning,
    batch,
    errors,
    infer,
    ohif,
    paths,
    pictures,
    progress,
    status,
    threads,
    tracks,
    train,
    versions,
)
from lib.server.queue import LONG_AT_ONCE, WorkQueue


def install(app: FastAPI) -> None:
    """Put everything of this room in front of what MONAI Label has."""
    at_once = settings.MONAI_LABEL_INFER_CONCURRENCY
    app.state.work_queue = WorkQueue(long_at_once=at_once if at_once > 0 else LONG_AT_ONCE)
    app.router.routes[:0] = [
        *infer.router.routes,
        *batch.router.routes,
        *progress.router.routes,
        *pictures.router.routes,
        *tracks.router.routes,
        *ohif.router.routes,
        *activelearning.router.routes,
        *train.router.routes,
        *versions.router.routes,
        *status.router.routes,
        *threads.routes(),
    ]
    errors.install(app)
    paths.install(app)
