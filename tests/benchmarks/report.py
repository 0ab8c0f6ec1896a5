"""The figures of a run as the table that the benchmark prints."""

from __future__ import annotations

import statistics
from typing import Any

from plan import Plan

COLUMNS = ("what", "peer", "ours", "ratio", "asked")
NOISE = 1.05  # two runs of the same work differ by about this
Row = tuple[str, str, str, str, str]


def rows(plan: Plan, results: dict[str, dict[str, Any]]) -> list[Row]:
    """The rows of all sections that were run, in the order of `COLUMNS`.

    Parameters
    ----------
    results
        By "SIDE SECTION", such as "peer clicks".
    """
    found: list[Row] = []
    if "ours clicks" in results:
        found += _clicks(results["peer clicks"], results["ours clicks"])
    if "ours propagation" in results:
        found += _propagation(plan, results["peer propagation"], results["ours propagation"])
    for section in ("memory_all", "memory_full_cache"):
        if f"ours {section}" in results:
            found += _memory(plan, results[f"ours {section}"])
    if "ours http" in results:
        found += _http(plan, results["ours http"])
    if "ours busy" in results:
        found += _busy(plan, results["peer busy"], results["ours busy"])
    return found


def table(found: list[Row]) -> str:
    """The rows as a Markdown table with aligned columns."""
    widths = [max(len(row[n]) for row in [COLUMNS, *found]) for n in range(len(COLUMNS))]
    lines = [COLUMNS, tuple("-" * width for width in widths), *found]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _clicks(peer: dict[str, Any], ours: dict[str, Any]) -> list[Row]:
    first = [statistics.median(side["first"]) for side in (peer, ours)]
    repeated = [statistics.median(side["repeated"]) for side in (peer, ours)]
    parts = ours["params"]["latencies"]
    shares = ", ".join(f"{part} {1000 * seconds:.0f}" for part, seconds in parts.items() if part != "total")
    encodes = [side["encodes"] for side in (peer, ours)]
    count = len(ours["first"]), len(ours["repeated"])
    return [
        _versus("cold start and first click", peer["cold"], ours["cold"]),
        _versus("first click on a slice", *first, asked=("not slower", first[1] <= NOISE * first[0])),
        _versus("repeated click", *repeated, asked=("at least 20x", repeated[0] >= 20 * repeated[1])),
        _plain(f"pictures encoded in {count[0]} first clicks", *(str(e["first"]) for e in encodes)),
        _plain(f"pictures encoded in {count[1]} repeated clicks", *(str(e["repeated"]) for e in encodes)),
        _plain("parts of a repeated click (ms)", "", shares),
        _plain("floor: one pass of the encoder", "", _seconds(ours["floor"]["encode"])),
        _plain("floor: one pass of the decoder", "", _seconds(ours["floor"]["decode"])),
    ]


def _propagation(plan: Plan, peer: dict[str, Any], ours: dict[str, Any]) -> list[Row]:
    covered = [f"{side['first']['slices']} of {plan.slices}" for side in (peer, ours)]
    each = {
        name: [side[name]["seconds"] / side[name]["slices"] for side in (peer, ours)]
        for name in ("first", "second")
    }
    first, second = each["first"], each["second"]
    all_done = ours["first"]["slices"] == ours["second"]["slices"] == plan.slices
    rates = [[f"{1 / seconds:.2f}" for seconds in pair] for pair in (first, second)]
    encodes = [[str(side[name]["encodes"]) for side in (peer, ours)] for name in ("first", "second")]
    memory = [_bytes(side["memory"]) for side in (peer, ours)]
    found = [
        _plain("propagation: slices covered", *covered, asked=("all, both ways", all_done)),
        _versus("first propagation", *(side["first"]["seconds"] for side in (peer, ours))),
        _versus("- per covered slice", *first, asked=("no more", first[1] <= NOISE * first[0])),
        _plain("- slices per second", *rates[0]),
        _plain("- pictures encoded", *encodes[0]),
        _versus("second, after a correction", *(side["second"]["seconds"] for side in (peer, ours))),
        _versus("- per covered slice", *second, asked=("at least 1.5x", second[0] >= 1.5 * second[1])),
        _plain("- slices per second", *rates[1]),
        _plain("- pictures encoded", *encodes[1]),
        _plain("peak memory of both propagations", *memory),
    ]
    if plan.device.startswith("cuda"):
        found.append(_plain("- on the GPU", *(_bytes(side["memory_on_gpu"]) for side in (peer, ours))))
    return found


def _memory(plan: Plan, ours: dict[str, Any]) -> list[Row]:
    # sam2's video predictor keeps every frame as float32 (3, size, size)
    peer = 3 * 4 * ours["size"] ** 2 * plan.memory_slices
    slices = f"{ours['slices']} of {plan.memory_slices} slices at {ours['size']}"
    found = [
        _plain(
            f"peak memory, {slices}",
            f"{_bytes(peer)} (computed, frames only)",
            _bytes(ours["memory"]),
            asked=("at most 1.5 GB", ours["memory"] <= 1.5e9),
        )
    ]
    if plan.device.startswith("cuda"):
        found.append(_plain("- on the GPU", "", _bytes(ours["memory_on_gpu"])))
    found.append(_plain("- of it in the embedding cache", "", _bytes(ours["cache"])))
    found.append(_plain("- slices per second", "", f"{ours['slices'] / ours['seconds']:.2f}"))
    return found


def _http(plan: Plan, ours: dict[str, Any]) -> list[Row]:
    found = []
    for dtype, times in ours.items():
        what = f"warm click over HTTP, {dtype} answer of {times['bytes'] / 1e6:.0f} MB"
        on_gpu = plan.device.startswith("cuda")
        asked = ("30 ms", times["median"] <= 30) if on_gpu and dtype == "uint8" else None
        figures = f"{times['median']:.0f} ms (95%: {times['p95']:.0f} ms)"
        found.append(_plain(what, "", figures, asked))
    return found


def _busy(plan: Plan, peer: dict[str, Any], ours: dict[str, Any]) -> list[Row]:
    def both(what: str, name: str, asked: tuple[str, bool] | None = None) -> Row:
        cells = (f"{_seconds(side[name]['p50'])}, {_seconds(side[name]['p99'])}" for side in (peer, ours))
        return _plain(what, *cells, asked=asked)

    met = [
        ours["busy info"]["p99"] < 0.2,
        ours["busy click"]["p50"] < 3 * ours["idle click"]["p50"],
    ]
    during = f"- during a propagation of {plan.busy_slices} slices at {plan.memory_size}"
    return [
        both("GET /info: p50, p99", "idle info"),
        both(during, "busy info", ("p99 below 200 ms", met[0])),
        both("repeated click on another image: p50, p99", "idle click"),
        both(during, "busy click", ("p50 below 3x", met[1])),
        _plain("- clicks answered meanwhile", *(str(side["busy click"]["count"]) for side in (peer, ours))),
        _versus("the propagation, beside them", peer["seconds"], ours["seconds"]),
    ]


def _versus(what: str, peer: float, ours: float, asked: tuple[str, bool] | None = None) -> Row:
    return what, _seconds(peer), _seconds(ours), f"{peer / ours:.2f}x", _asked(asked)


def _plain(what: str, peer: str, ours: str, asked: tuple[str, bool] | None = None) -> Row:
    return what, peer or "-", ours, "-", _asked(asked)


def _asked(asked: tuple[str, bool] | None) -> str:
    return "-" if asked is None else f"{asked[0]}: {'met' if asked[1] else 'NOT MET'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
