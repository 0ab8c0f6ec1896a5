"""Catalogue: the tasks of a CVAT, their frames and which of them are finished, asked every few seconds."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lib.datastores.cvat.client import CvatClient, Refused, readable
from lib.datastores.kept import Kept
from lib.errors import NotFound, Unavailable

logger = logging.getLogger(__name__)

DONE = "completed"
MOST_FRAMES = 1_000_000  # of a task
# CVAT did not answer: for so many seconds it is not asked again for what a client merely shows.
SILENT_SECONDS = 30.0
_ID = re.compile(r"task-([1-9][0-9]{0,9})_frame-([0-9]{6,7})")
_STEP = re.compile(r"step\s*=\s*([1-9][0-9]{0,6})")


@dataclass(frozen=True)
class Frame:
    """A picture of a task: its name there, and its size in pixels."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Job:
    """A part of a task that is given to a person.

    Attributes
    ----------
    id : int
    first, last : int
        Frames of the task, the last one included.
    done : bool
        Its state is "completed", in whatever stage: who reviews a job puts it back to "new" for that time.
    updated : str
        Changes with each change of its annotations.
    """

    id: int
    first: int
    last: int
    done: bool
    updated: str


@dataclass(frozen=True)
class Task:
    """A task with pictures; a video is one with a picture for each frame that is annotated.

    Attributes
    ----------
    id : int
    name, created : str
    start, step : int
        Frame `n` of the task is frame `start + n * step` of its source, which exports name it by.
    frames : tuple of Frame or None
        By number; None for those that were deleted.
    jobs : tuple of Job
        Those of annotators: ground truth and replicas are for measuring people.
    """

    id: int
    name: str
    created: str
    start: int
    step: int
    frames: tuple[Frame | None, ...]
    jobs: tuple[Job, ...]

    @cached_property
    def finished(self) -> tuple[int, ...]:
        """The frames whose jobs, all of them, are done."""
        counts = np.zeros((2, len(self.frames)), int)
        for job in self.jobs:
            counts[int(job.done), job.first : job.last + 1] += 1
        done = (counts[1] > 0) & (counts[0] == 0)
        return tuple(int(n) for n in np.flatnonzero(done) if self.frames[n] is not None)

    @property
    def stamp(self) -> str:
        """Changes with the annotations of jobs that are done, with which these are, and with deleted frames.

        Exports have nothing of deleted frames, and no job changes when one is brought back.
        """
        done = [f"{job.id}:{job.updated}" for job in self.jobs if job.done]
        deleted = [f"-{number}" for number, frame in enumerate(self.frames) if frame is None]
        return ";".join([*done, *deleted])


@dataclass(frozen=True)
class Listing:
    """What a CVAT has at a moment: tasks by id."""

    tasks: Mapping[int, Task]

    @cached_property
    def images(self) -> dict[str, tuple[Task, int]]:
        """Task and frame of each image."""
        return {
            image_id(task.id, number): (task, number)
            for task in self.tasks.values()
            for number, frame in enumerate(task.frames)
            if frame is not None
        }

    @cached_property
    def finished(self) -> dict[str, tuple[Task, int]]:
        """Those whose annotations are final."""
        return {image_id(task.id, n): (task, n) for task in self.tasks.values() for n in task.finished}


class Catalogue:
    """The tasks of a CVAT, shared by every request.

    Parameters
    ----------
    client : CvatClient
    project : str
        Name or number of the only project whose tasks are listed; "" lists all that the account may see.

    Every method but `known` raises `Unavailable` when CVAT does not answer, and `NotFound` when there is no
    such project.
    """

    def __init__(self, client: CvatClient, project: str = "") -> None:
        self._client = client
        self._project = project.strip()
        self._listing = Kept(self._list)
        self._frames: dict[tuple[int, str], tuple[int, int, tuple[Frame | None, ...]]] = {}
        self._silent: tuple[float, Unavailable] | None = None

    def listing(self) -> Listing:
        """What CVAT has, as of some seconds ago at most."""
        return self._listing.get()

    def known(self) -> Listing | None:
        """The listing if it is fresh; CVAT is not asked."""
        return self._listing.peek()

    def changed(self) -> None:
        """Ask again the next time."""
        self._listing.drop()

    def counts(self) -> tuple[int, int]:
        """How many images there are, and how many of them are finished, for a client's display."""
        if self._silent is not None and time.monotonic() < self._silent[0]:
            raise self._silent[1]
        try:
            listing = self.listing()
        except Unavailable as error:
            self._silent = (time.monotonic() + SILENT_SECONDS, error)
            raise
        self._silent = None
        return len(listing.images), len(listing.finished)

    def labels(self) -> list[dict[str, Any]]:
        """CVAT's labels, oldest first: of every project and task that is listed, and perhaps others."""
        client, what = self._client, "the list of labels"
        projects = self._project_ids()
        if projects is None:
            return client.pages("/api/labels", what)
        found = {}
        for project in projects:
            found.update(
                {label["id"]: label for label in client.pages("/api/labels", what, project_id=project)}
            )
        return [found[number] for number in sorted(found)]

    def _project_ids(self) -> list[int] | None:
        """The chosen project, and others of the same name; None for all projects and tasks without one."""
        if not self._project:
            return None
        projects = self._client.pages("/api/projects", "the list of projects")
        with readable("the list of projects"):
            found = [int(p["id"]) for p in projects if str(p["name"]).strip() == self._project]
            if not found and self._project.isdecimal():
                found = [int(p["id"]) for p in projects if int(p["id"]) == int(self._project)]
        if not found:
            raise NotFound(f'CVAT has no project "{self._project[:80]}" that this account may see.')
        return found

    def _list(self) -> Listing:
        projects = self._project_ids()
        tasks, jobs = [], []
        for only in [{}] if projects is None else [{"project_id": project} for project in projects]:
            tasks += self._client.pages("/api/tasks", "the list of tasks", **only)
            jobs += self._client.pages("/api/jobs", "the list of jobs", **only)
        of_task = defaultdict(list)
        with readable("the list of jobs"):
            for job in jobs:
                if job.get("type", "annotation") == "annotation":
                    of_task[int(job["task_id"])].append(_job(job))
        found = {}
        for task in tasks:
            with readable("the list of tasks"):
                number, key = int(task["id"]), (int(task["id"]), str(task["updated_date"]))
                media, dimension = task.get("media_type") or "image", task.get("dimension") or "2d"
                empty = not task.get("size") or task.get("data") is None
            if empty or dimension != "2d" or media not in ("image", "video"):
                continue
            try:
                start, step, frames = self._frames.get(key) or self._ask_frames(number)
            except NotFound:
                continue  # deleted at this moment
            except (_TooMany, Refused) as error:  # it must not hide the rest
                logger.warning("task %d of CVAT is left out: %s", number, error)
                continue
            self._frames[key] = start, step, frames
            about = str(task.get("name", "")), str(task.get("created_date", ""))
            found[number] = Task(number, *about, start, step, frames, tuple(of_task[number]))
        listed = {(int(task["id"]), str(task["updated_date"])) for task in tasks}
        self._frames = {key: value for key, value in self._frames.items() if key in listed}
        return Listing(found)

    def _ask_frames(self, task: int) -> tuple[int, int, tuple[Frame | None, ...]]:
        what = f"the frames of task {task}"
        about = self._client.json(f"/api/tasks/{task}/data/meta", what)
        with readable(what):
            size, start = int(about["size"]), int(about.get("start_frame") or 0)
            step = _STEP.search(str(about.get("frame_filter") or ""))
            if not 0 <= size <= MOST_FRAMES:
                raise _TooMany(f"it has {size} frames.")
            frames: list[Frame | None] = [
                Frame(str(one.get("name") or ""), int(one["width"]), int(one["height"]))
                for one in about["frames"] or ()
            ]
            if len(frames) == 1:
                frames *= size  # a video says it once
            if len(frames) != size:
                raise ValueError(f"{len(frames)} frames of {size}")
            for number in about.get("deleted_frames") or ():
                frames[int(number)] = None
        return start, int(step[1]) if step else 1, tuple(frames)


class _TooMany(Exception):
    """A task that is larger than anything that could be trained on."""


def image_id(task: int, number: int) -> str:
    """The id here of a frame of a task: it is a file name, and says nothing that CVAT's users wrote."""
    return f"task-{task}_frame-{number:06d}"


def parse_image(image: object) -> tuple[int, int] | None:
    """Task and frame of an image's id; None if it is no such id, and so may be anything, a path too."""
    found = _ID.fullmatch(image) if isinstance(image, str) else None
    if found is None or image_id(int(found[1]), int(found[2])) != image:
        return None
    return int(found[1]), int(found[2])


def _job(job: Mapping[str, Any]) -> Job:
    first, last = int(job["start_frame"]), int(job["stop_frame"])
    return Job(int(job["id"]), max(0, first), last, job.get("state") == DONE, str(job["updated_date"]))
