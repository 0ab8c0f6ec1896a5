"""`biosam2`, the train task: the datastore's final labels -> a fine-tuned version, through the gate."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from torch.multiprocessing import ProcessRaisedException

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.trainers.finetune import blend, gate, progress, state
from lib.trainers.finetune.cases import LabelledCase, LeftOut, labelled_cases
from lib.trainers.finetune.general import general_set
from lib.trainers.finetune.progress import Progress, only_one
from lib.trainers.finetune.samples import SMALLEST, can_be_shown
from lib.trainers.finetune.settings import TrainSettings
from lib.trainers.finetune.slices import CachedCase, cache_case, forget_others
from lib.trainers.finetune.training import CANDIDATE, CURRENT, Training
from lib.versions.registry import Registry
from lib.versions.store import PREPARED, Version, Versions

logger = logging.getLogger(__name__)

CACHE, GENERAL, HOLD_OUT = "cache", "general", "holdout"


class FinetuneTask(Training):
    """Fine-tunes the served version and publishes what passes the gate.

    MONAI Label runs it in a process of its own.

    Parameters
    ----------
    versions : Versions
    registry : Registry
        Gets the curve of every training, and every version.
    device : str
        Where the server runs.
    image_size : int, optional
        Input size that the server runs at; None is the checkpoint's own.
    keep : int
        Versions whose weights are kept.
    code : str
        Version of this program, for the record.
    """

    def __init__(
        self,
        versions: Versions,
        registry: Registry,
        device: str,
        image_size: int | None = None,
        keep: int = 10,
        code: str = "",
    ) -> None:
        super().__init__(versions, registry, device, image_size)
        self.keep, self.code = keep, code

    def stats(self) -> dict[str, Any]:
        """What Slicer shows as accuracy: the hold-out's Dice of the newest version, and its training."""
        newest = next(iter(reversed(self.versions.all())), None)
        if newest is None:
            return {}
        site = (newest.about.get("gate") or {}).get("site") or {}
        return {
            "best_metric": site.get("candidate", 0.0),
            "epoch": newest.about.get("settings", {}).get("max_epochs", 0),
            "start_ts": newest.about.get("created", ""),
            "total_time": str(newest.about.get("seconds", "")),
            "version": newest.name,
            "state": newest.about.get("state"),
            "reason": newest.about.get("reason"),
        }

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, judge, and publish or keep.

        Returns
        -------
        dict
            `version`, `state` ("published" or "kept") and `reason`.

        Raises
        ------
        UserError
            If a setting is wrong or there is nothing to learn from.
        Conflict
            If another training runs.
        """
        settings = TrainSettings.of(request)
        begin = time.monotonic()
        with only_one(self.runs):
            run = datetime.now().strftime("%Y%m%d_%H%M%S")
            said = self._progress = Progress(self.runs, run)
            try:
                said.say(progress.RUNNING, "reading the labels")
                self.versions.clean()
                parent = self.versions.get(self.versions.served_number())
                learnt_from, held_out, left_out = self._prepare(datastore)
                run = state.begin(self.runs / CURRENT, self._plan(settings, parent, learnt_from), run)
                said.say(progress.RUNNING, "training", run=run)
                self.learn(settings, parent, [cached for _, cached in learnt_from], run, request)
                said.say(progress.EVALUATING, "comparing it with the served version on the hold-out")
                version = self._judge(settings, parent, learnt_from, held_out, left_out, run, begin)
            except BaseException as error:
                said.say(progress.FAILED, _sentence(error))
                raise
            said.say(progress.DONE, version.about["reason"])
            shutil.rmtree(self.runs / CURRENT, ignore_errors=True)
        self.tell_registry(self.registry.sync)
        return {"version": version.name, "state": version.about["state"], "reason": version.about["reason"]}

    def _prepare(
        self, datastore: Datastore
    ) -> tuple[list[tuple[LabelledCase, CachedCase]], list[tuple[LabelledCase, CachedCase]], list[LeftOut]]:
        """Cases to learn from, cases that are held out, and what is of no use."""
        cases, left_out = labelled_cases(datastore)
        cache = self.versions.folder / CACHE
        usable = []
        for case in cases:
            try:
                cached = cache_case(case, cache)
                if not case.held_out and not can_be_shown(cached):
                    raise UserError(f"no structure of image {case.image} has {SMALLEST} pixels on a slice.")
                usable.append((case, cached))
            except UserError as error:
                left_out.append(LeftOut(case.image, str(error)))
        for one in left_out:
            logger.warning("%s is left out: %s", one.image, one.reason)
        forget_others(cache, cases)
        learnt_from = [pair for pair in usable if not pair[0].held_out]
        if not learnt_from:
            why = f" {left_out[0].image}: {left_out[0].reason}" if left_out else ""
            raise UserError(
                f"There is nothing to learn from: of {len(cases)} labelled images {len(usable)} can be used, "
                f"and all of these belong to held-out patients.{why}"
                if usable
                else f"There is nothing to learn from: no image has a final label that can be used.{why}"
            )
        return learnt_from, [pair for pair in usable if pair[0].held_out], left_out

    def _plan(
        self, settings: TrainSettings, parent: Version, cases: list[tuple[LabelledCase, CachedCase]]
    ) -> dict[str, Any]:
        """What must be the same for a training to be gone on with."""
        hashes = sorted(case.sha256 for case, _ in cases)
        about = {"parent": parent.name, "settings": settings.model_dump(), "cases": hashes}
        # another program may keep other states, and other processes count their steps in another way
        return about | {"code": self.code, "processes": self.place.world if self.place else 1}

    def _judge(
        self,
        settings: TrainSettings,
        parent: Version,
        learnt_from: list[tuple[LabelledCase, CachedCase]],
        held_out: list[tuple[LabelledCase, CachedCase]],
        left_out: list[LeftOut],
        run: str,
        begin: float,
    ) -> Version:
        """Compare, make a version of the candidate, and serve it if it passed."""
        made = next((version for version in self.versions.all() if version.about.get("run") == run), None)
        if made is not None:  # stopped just before it was served, or after that
            if made.about["state"] == "published":
                self.versions.serve(made.number)
            return made
        prepared = self.versions.folder / f"{PREPARED}{run}"
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.mkdir()
        share, verdict = self._choose(parent.checkpoint, held_out, prepared)
        about = {
            "parent": parent.number,
            "state": "published" if verdict.publish else "kept",
            "reason": verdict.reason,
            "run": run,
            "code": self.code,
            "seconds": round(time.monotonic() - begin, 1),
            "settings": settings.model_dump(),
            "labels": [
                {
                    "image": case.image,
                    "patient": case.patient,
                    "sha256": case.sha256,
                    "structures": cached.structures,
                    "use": "hold-out" if case.held_out else "training",
                }
                for case, cached in [*learnt_from, *held_out]
            ],
            "left_out": [asdict(one) for one in left_out],
            "share": share,
            "gate": gate.as_json(verdict),
        }
        version = self.versions.add(prepared, about)
        if verdict.publish:
            self.versions.serve(version.number)
        self.versions.prune(self.keep)
        logger.info("%s: %s", version.name, verdict.reason)
        return version

    def _choose(
        self, served: Path, held_out: list[tuple[LabelledCase, CachedCase]], prepared: Path
    ) -> tuple[float, gate.Verdict]:
        """Leave in a folder as much of what was learnt as forgets nothing else: the share, and the verdict.

        What was forgotten is counted from the base on: a little in each of many rounds would be a lot.
        """
        trained, out = self.runs / CURRENT / CANDIDATE, prepared / CANDIDATE
        patients = {case.image: case.patient for case, _ in held_out}
        if len(set(patients.values())) < gate.FEWEST_PATIENTS:
            shutil.copyfile(trained, out)
            return 1.0, gate.too_small(len(set(patients.values())))
        folder = self.versions.folder / GENERAL
        for share in blend.SHARES:
            candidate = blend.blend(served, trained, share, out)
            rows = gate.measure(
                *general_set(folder / "set"),
                self.versions.base,
                candidate,
                folder / "results",
                self.device,
                self.image_size,
            )
            general = gate.compare(*rows, {})
            logger.info("a share of %.1f: general set %+.3f", share, general.difference)
            if not general.forgot:
                break
        pairs = [_pair(case, cached) for case, cached in _in_turn(held_out)[: gate.MOST_CASES]]
        stacks = [
            pair for pair, (_, cached) in zip(pairs, _in_turn(held_out), strict=False) if cached.slices > 1
        ]
        stacks = stacks[: gate.MOST_VOLUMES]
        rows = gate.measure(pairs, stacks, served, out, prepared / HOLD_OUT, self.device, self.image_size)
        return share, gate.decide(gate.compare(*rows, patients), general)


def _in_turn(cases: list[tuple[LabelledCase, CachedCase]]) -> list[tuple[LabelledCase, CachedCase]]:
    """The first case of each patient, then the second ones: however few are taken, all patients are there."""
    seen: Counter[str] = Counter()
    turns = []
    for pair in cases:
        turns.append(seen[pair[0].patient])
        seen[pair[0].patient] += 1
    return [pair for _, pair in sorted(zip(turns, cases, strict=True), key=lambda turn: turn[0])]


def _pair(case: LabelledCase, cached: CachedCase) -> Pair:
    """A held-out case with its label on the image's grid, as the pipelines read it."""
    about = json.loads((cached.folder / "about.json").read_text())
    names = dict(zip(about["values"], about["structures"], strict=True))
    if cached.image is not None:  # time says nothing about size, as in an endoscopy
        return Pair(case.image, cached.image, cached.label, names, "ES")
    return Pair(case.image, case.pair.image, cached.label, names)


def _sentence(error: BaseException) -> str:
    """What went wrong, in a line."""
    cause: BaseException | None = None if isinstance(error, UserError) else error
    while cause is not None:  # of a full disk, torch says that a position is not what it should be
        if isinstance(cause, OSError) and cause.strerror:
            return f"The training could not go on: {cause.strerror}."
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, ProcessRaisedException):  # of one of several processes: its trace, the error last
        return lines[-1].removeprefix("lib.errors.").removeprefix("UserError: ")
    return lines[0]
