"""BioSAM-2 against MONAI Label's own SAM 2 task: the same weights, volumes, requests and process settings.

    .venv/bin/python tests/benchmarks/benchmark.py [--help]

Every section of a side runs in a process of its own, one after the other; the table comes at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
APP = HERE.parents[1] / "apps" / "biosam2"
sys.path[:0] = [str(APP), str(HERE.parent)]

import material  # noqa: E402
import over_http  # noqa: E402
import torch  # noqa: E402
import while_it_works  # noqa: E402
from measures import PROGRESS  # noqa: E402
from plan import Plan  # noqa: E402
from report import rows, table  # noqa: E402

SECTIONS = ("clicks", "propagation", "memory", "http", "busy")


def main() -> None:
    options = _options()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="biosam2-benchmark-") as folder:
        plan = _plan(options, folder)
        environment = _environment(plan)
        print(f"preparing volumes and weights in {folder}", flush=True)
        weights = _prepare(plan, options)
        results: dict[str, dict[str, Any]] = {}
        for side, section in _jobs(plan, options.only):
            name = f"{side} {section}"
            print(name, flush=True)
            work = plan.path(f"{side}-{section}")
            work.mkdir()
            log = work / "server.log"
            try:
                if section == "http":
                    results[name] = over_http.measure(plan, environment, work)
                elif section == "busy":
                    results[name] = while_it_works.measure(plan, environment, work, side)
                else:
                    results[name] = _run(plan, side, section, environment, log)
            except RuntimeError as error:
                sys.exit(f"{log.read_text()[-4000:]}\n{name} failed: {error}")
        print(f"\n{_setting(plan, weights)}\n\n{table(rows(plan, results))}\n")
    print(f"done in {(time.perf_counter() - begin) / 60:.1f} minutes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, choices=(256, 512, 1024), default=1024)
    parser.add_argument("--slices", type=int, default=24, help="slices to propagate through")
    parser.add_argument("--side", type=int, default=512, help="voxels of a slice along each of its axes")
    parser.add_argument("--depth", type=int, default=100, help="slices of the volume that is clicked on")
    parser.add_argument("--memory-slices", type=int, default=600, help="slices of the long volume")
    parser.add_argument(
        "--memory-size",
        type=int,
        choices=(256, 512, 1024),
        help="input size at which all of the long volume is done (CUDA: --image-size, CPU: 256)",
    )
    parser.add_argument(
        "--busy-slices", type=int, default=200, help="slices to propagate through while others ask"
    )
    parser.add_argument("--cache-gb", type=float, default=0.5, help="budget of our embedding cache")
    parser.add_argument("--repeats", type=int, default=3, help="first clicks, and clicks after each")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of " + ",".join(SECTIONS))
    parser.add_argument("--checkpoint", type=Path, help="a published SAM 2.1 .pt (random tiny weights)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, both sides")
    options = parser.parse_args()
    options.only = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is not one of {', '.join(SECTIONS)}")
    if options.checkpoint and not options.checkpoint.is_file():
        parser.error(f"--checkpoint: there is no file {options.checkpoint}")
    if options.slices < 4:
        parser.error("--slices must be at least 4")
    return options


def _plan(options: argparse.Namespace, folder: str) -> Plan:
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = 256 if device == "cpu" else options.image_size
    return Plan(
        folder=folder,
        image_size=options.image_size,
        side=options.side,
        depth=options.depth,
        slices=options.slices,
        memory_slices=options.memory_slices,
        memory_size=options.memory_size or on_cpu,
        busy_slices=options.busy_slices,
        cache_gb=options.cache_gb,
        repeats=options.repeats,
        device=device,
        threads=options.threads,
    )


def _prepare(plan: Plan, options: argparse.Namespace) -> str:
    """Write what the sections need; returns the weights' name."""
    weights = material.write_checkpoint(plan.checkpoint, options.checkpoint)
    material.write_config(plan.checkpoint.with_suffix(".yaml"), plan.checkpoint, plan.image_size)
    if {"clicks", "http", "busy"} & set(options.only):
        material.write_volume(plan.path("clicks.nii.gz"), plan.side, plan.depth)
    if "propagation" in options.only:
        material.write_volume(plan.path("warmup.nii.gz"), plan.side, 3)
        material.write_volume(plan.path("propagation.nii.gz"), plan.side, plan.slices)
    if "busy" in options.only:
        material.write_volume(plan.path("busy.nii.gz"), plan.side, plan.busy_slices)
    if "memory" in options.only:
        material.write_volume(plan.path("memory.nii"), plan.side, plan.memory_slices)
    return weights


def _jobs(plan: Plan, only: list[str]) -> list[tuple[str, str]]:
    jobs = [(side, s) for s in ("clicks", "propagation") if s in only for side in ("peer", "ours")]
    if "memory" in only:
        jobs.append(("ours", "memory_all"))
        if plan.memory_size != plan.image_size:
            jobs.append(("ours", "memory_full_cache"))
    if "http" in only:
        jobs.append(("ours", "http"))
    if "busy" in only:
        jobs += [("peer", "busy"), ("ours", "busy")]
    return jobs


def _environment(plan: Plan) -> dict[str, str]:
    """What the sections' processes find around them, beside what this one has.

    MONAI Label keeps its caches, and the peer empties its own, under the folders named here: they must not
    be those of the person who runs this. The peer downloads its model only when it is not in its folder yet.
    """
    folder = plan.path("tmp")
    folder.mkdir()
    return {
        "PYTHONPATH": os.pathsep.join([str(APP), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TMPDIR": str(folder),
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(plan.path("cache")),
        "MONAI_LABEL_SESSION_PATH": str(plan.path("sessions")),
        "MONAI_SAM_MODEL_PT": f"file:///{plan.checkpoint.name}",
        "MONAI_SAM_MODEL_CFG": f"file:///{plan.checkpoint.with_suffix('.yaml').name}",
        "MPLBACKEND": "Agg",
    }


def _run(plan: Plan, side: str, section: str, environment: dict[str, str], log: Path) -> dict[str, Any]:
    result = plan.path(f"{side}-{section}.json")
    command = [sys.executable, str(HERE / f"{side}.py"), section, str(plan.save()), str(result)]
    environment = {**os.environ, **environment}
    with (
        open(log, "w") as stream,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, env=environment, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            if line.startswith(PROGRESS):
                print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}")
    return json.loads(result.read_text())


def _setting(plan: Plan, weights: str) -> str:
    where = f"{platform.machine()} CPU"
    if plan.device.startswith("cuda"):
        where = torch.cuda.get_device_name()
    return (
        f"{weights}; input {plan.image_size}; slices {plan.side}x{plan.side}; {where}; "
        f"{plan.threads} threads; torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
