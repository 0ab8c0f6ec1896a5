"""How both sides are measured: the clock, the memory, and the process they run in."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from plan import Plan

PROGRESS = "  - "
INTERVAL = 0.01  # s between two looks at the process's memory


def say(text: str) -> None:
    """A progress line; the mark tells it from what libraries print."""
    print(f"{PROGRESS}{text}", flush=True)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned; on CUDA up to the end of its kernels."""
    begin = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def ask(task: Any, request: dict) -> tuple[float, dict[str, Any]]:
    """Seconds until a task has answered a request, and its params; the answer's file is removed."""
    seconds, (file, params) = timed(lambda: task(dict(request)))
    Path(file).unlink()
    return seconds, params


class Counter:
    """Counts the calls of a function that is put in place of another."""

    def __init__(self, function: Callable) -> None:
        self.function, self.count = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.function(*args, **kwargs)


class PeakMemory:
    """The most memory that the process held inside a `with`, above what it held at its beginning.

    Attributes
    ----------
    resident
        Bytes of resident set size, looked at every `INTERVAL`.
    on_gpu
        Bytes that torch had allocated on CUDA; 0 without it.
    """

    def __enter__(self) -> PeakMemory:
        _hand_back_freed_memory()
        self._process = psutil.Process()
        self._before = self._peak = self._process.memory_info().rss
        self._before_on_gpu = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before_on_gpu = torch.cuda.memory_allocated()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.resident = self._peak - self._before
        self.on_gpu = 0
        if torch.cuda.is_available():
            self.on_gpu = torch.cuda.max_memory_allocated() - self._before_on_gpu

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self._peak = max(self._peak, self._process.memory_info().rss)


def _hand_back_freed_memory() -> None:
    """Return to the system what loading has freed; the work that follows would go unseen in its place."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def clicks(
    plan: Plan, new_task: Callable[[], Any], encodes: Callable[[Any], Callable[[], int]]
) -> dict[str, Any]:
    """The clicks of the plan, the same for both sides.

    Parameters
    ----------
    new_task
        Makes the infer task; that and its first request are the cold start.
    encodes
        For a task that has answered once: a function that counts the pictures encoded so far.

    Returns
    -------
    dict
        `cold`, lists `first` and `repeated` in seconds, `params` of the last answer, and how many
        pictures were encoded in all first and all repeated clicks.
    """
    warm_up, *fresh = plan.click_slices()
    begin = time.perf_counter()
    task = new_task()
    ask(task, plan.request("clicks.nii.gz", [plan.point(0, warm_up)]))
    cold = time.perf_counter() - begin
    say(f"cold start and first request: {cold:.2f} s")
    ask(task, plan.request("clicks.nii.gz", [plan.point(0, warm_up), plan.point(1, warm_up)]))
    encoded = encodes(task)
    first, repeated, counts = [], [], {"first": 0, "repeated": 0}
    params: dict[str, Any] = {}
    for k in fresh:
        before = encoded()
        first.append(ask(task, plan.request("clicks.nii.gz", [plan.point(0, k)]))[0])
        between = encoded()
        for number in range(1, plan.repeats + 1):
            request = plan.request("clicks.nii.gz", [plan.point(0, k), plan.point(number, k)])
            seconds, params = ask(task, request)
            repeated.append(seconds)
        counts["first"] += between - before
        counts["repeated"] += encoded() - between
        say(f"slice {k}: first click {first[-1]:.3f} s, repeated click {repeated[-1]:.3f} s")
    return {
        "cold": cold,
        "first": first,
        "repeated": repeated,
        "encodes": counts,
        "params": params,
        "task": task,
    }


def propagations(
    plan: Plan,
    task: Any,
    visited: Callable[[Any], set[int]],
    encodes: Callable[[Any], Callable[[], int]],
) -> dict[str, Any]:
    """A propagation and one more after a correction, the same for both sides.

    Parameters
    ----------
    visited
        For a task that has answered once: a set that the task's slices are added to as they are done.
    encodes
        As for `clicks`.
    """
    ask(task, plan.request("warmup.nii.gz", [plan.point(0, 1)]))
    slices, encoded = visited(task), encodes(task)
    results: dict[str, Any] = {}
    with PeakMemory() as memory:
        for name, points in zip(("first", "second"), plan.propagation_prompts(), strict=True):
            slices.clear()
            before = encoded()
            seconds, _ = ask(task, plan.request("propagation.nii.gz", points))
            results[name] = {"seconds": seconds, "slices": len(slices), "encodes": encoded() - before}
            say(f"{name} propagation: {len(slices)} of {plan.slices} slices in {seconds:.1f} s")
    return {**results, "memory": memory.resident, "memory_on_gpu": memory.on_gpu}


def main(sections: dict[str, Callable[[Plan], dict[str, Any]]]) -> None:
    """Do one section of a side in this process: `SIDE.py SECTION PLAN.json RESULT.json`."""
    section, plan_file, result_file = sys.argv[1:]
    plan = Plan.load(plan_file)
    torch.set_num_threads(plan.threads)
    Path(result_file).write_text(json.dumps(sections[section](plan)))
