"""What all infer tasks share: the served model, checks of a request, and what is told beside an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib import work
from lib.errors import UserError
from lib.imaging.window import PRESETS
from lib.sam.model import Model, ModelSlot
from lib.settings import Settings

logger = logging.getLogger(__name__)


class Stopwatch:
    """Seconds spent in the parts of a request, as MONAI Label's clients show them."""

    def __init__(self) -> None:
        self.latencies: dict[str, float] = {}
        self._begin = self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap as `part`."""
        now = time.perf_counter()
        self.latencies[part] = round(self.latencies.get(part, 0.0) + now - self._since, 4)
        self._since = now

    def total(self) -> dict[str, float]:
        return {**self.latencies, "total": round(time.perf_counter() - self._begin, 4)}


class SamTask(InferTask):
    """A MONAI Label infer task that asks the served model.

    Parameters
    ----------
    slot : ModelSlot
        The served model; the tasks share it, and with it the embeddings.
    settings : Settings
    dimension : 2 or 3
    kind : InferType
        Decides where clients list it.
    description : str
    """

    def __init__(
        self,
        slot: ModelSlot,
        settings: Settings,
        dimension: Literal[2, 3],
        kind: InferType,
        description: str,
    ) -> None:
        super().__init__(
            type=kind,
            labels=list(settings.labels),
            dimension=dimension,
            description=description,
            # clients send the first of each list back unless the person chose another
            config={"device": [str(slot.device)], "window": ["auto", *PRESETS]},
        )
        self.slot = slot
        self.settings = settings

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The served checkpoint file, which MONAI Label offers at `GET /model/{name}`."""
        return str(self.slot.path) if self.slot.path.exists() or not validate else None

    def check_device(self, asked: object) -> None:
        """Refuse another device than the one served: running elsewhere without a word would be no answer."""
        served = self.slot.device
        if asked not in (None, "", str(served), served.type):
            raise UserError(f'device "{str(asked)[:80]}" is not served here; this server runs on {served}.')

    def params(
        self,
        model: Model,
        label_names: Mapping[str, int],
        watch: Stopwatch,
        details: Mapping[str, Any],
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        """What is told beside an answer, which is then complete."""
        params = {
            "label_names": dict(label_names),
            "checkpoint": named(model),
            "latencies": watch.total(),
            **details,
        }
        if warnings:
            params["warnings"] = list(warnings)
        current = work.current()
        if current:
            params["request_id"] = current.id
        logger.info("%s: %s in %s", self.description, params["label_names"], params["latencies"])
        return params


def named(model: Model) -> dict[str, str]:
    """Which weights gave an answer."""
    return {"name": model.checkpoint.name, "version": model.checkpoint.version}


def asked_window(request: Mapping[str, Any]) -> object:
    """The request's `window`; None where the file's own is meant."""
    window = request.get("window")
    return None if window in (None, "", "auto") else window


def asked_extension(request: Mapping[str, Any], default: str, allowed: Sequence[str]) -> str:
    """The request's `result_extension`, with its dot, or the default.

    Raises
    ------
    UserError
        If it is none of those allowed.
    """
    extension = str(request.get("result_extension") or default).strip().lower()
    if not extension.startswith("."):
        extension = f".{extension}"
    if extension not in allowed:
        raise UserError(f"result_extension must be one of {', '.join(allowed)}, not {extension[:80]}.")
    return extension


def asked_dtype(request: Mapping[str, Any], extension: str, allowed: Sequence[str]) -> str:
    """The request's `result_dtype`, uint8 if it has none.

    Raises
    ------
    UserError
        If a file of that extension cannot have it.
    """
    dtype = str(request.get("result_dtype") or "uint8").strip().lower()
    if dtype not in allowed:
        known = ", ".join(allowed)
        raise UserError(f"result_dtype must be one of {known} for {extension}, not {dtype[:80]}.")
    return dtype


def asked_compress(request: Mapping[str, Any]) -> bool:
    """The request's `result_compress`, true if it has none."""
    return str(request.get("result_compress", True)).lower() not in ("false", "0", "no")
