"""`biosam2`, the train task: the datastore's final labels -> a fine-tuned version, through the gate."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler, MLFlowHandler, TensorBoardStatsHandler
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from lib.errors import UserError
from lib.evaluation.datasets import Pair
from lib.sam.checkpoints import load_network, save_checkpoint
from lib.sam.model import choose_device
from lib.trainers.finetune import blend, gate, progress, state
from lib.trainers.finetune.cases import LabelledCase, LeftOut, labelled_cases
from lib.trainers.finetune.general import general_set
from lib.trainers.finetune.network import Average, Trainable
from lib.trainers.finetune.progress import Progress, only_one
from lib.trainers.finetune.samples import SMALLEST, Samples, can_be_shown
from lib.trainers.finetune.settings import TrainSettings
from lib.trainers.finetune.slices import CachedCase, cache_case, forget_others
from lib.trainers.finetune.together import Place
from lib.versions.registry import Registry, RegistryError
from lib.versions.store import PREPARED, Version, Versions

logger = logging.getLogger(__name__)

SAMPLES_AN_EPOCH = 100
WARM_UP = 0.05  # of the steps
LARGEST_GRADIENT = 0.1  # SAM 2's own training
WORKERS = 4  # processes that make samples for a GPU
MOST_SKIPPED = 20  # steps in a row without a finite gradient
RUNS, CURRENT, CACHE, GENERAL, TENSORBOARD = "runs", "current", "cache", "general", "tensorboard"
CANDIDATE, HOLD_OUT = "candidate.safetensors", "holdout"


class FinetuneTask(BasicTrainTask):
    """Fine-tunes the served version and publishes what passes the gate.

    The engine is MONAI's; MONAI Label runs it in a process of its own, over all GPUs if asked.

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
        self.versions, self.registry, self.device, self.image_size = versions, registry, device, image_size
        self.keep, self.code = keep, code
        self.runs = versions.folder / RUNS
        # what is left empty is chosen by the checkpoint; clients show no None
        defaults = {k: "" if v is None else v for k, v in TrainSettings().model_dump().items()}
        super().__init__(
            str(self.runs),
            "BioSAM-2: fine-tunes image encoder and mask decoder on the submitted labels",
            find_unused_parameters=True,
        )
        self._config = {**defaults, "loss": ["dice_bce", "focal"], "multi_gpu": True, "gpus": "all"}
        self.place = Place.of_this_process()
        self._progress: Progress | None = None
        self._settings = TrainSettings()

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
                self._train(settings, parent, [cached for _, cached in learnt_from], run, request)
                said.say(progress.EVALUATING, "comparing it with the served version on the hold-out")
                version = self._judge(settings, parent, learnt_from, held_out, left_out, run, begin)
            except BaseException as error:
                said.say(progress.FAILED, _sentence(error))
                raise
            said.say(progress.DONE, version.about["reason"])
            shutil.rmtree(self.runs / CURRENT, ignore_errors=True)
        self._tell_registry(self.registry.sync)
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

    def _train(
        self,
        settings: TrainSettings,
        parent: Version,
        cases: list[CachedCase],
        run: str,
        request: dict[str, Any],
    ) -> None:
        """Leave the candidate in the run's folder; one that is there already was trained before."""
        if (self.runs / CURRENT / CANDIDATE).exists():
            if self.place is not None:
                self.place.tell(self.runs, None)
            return
        tracked = self._tell_registry(self.registry.open)
        device = self.device if settings.device == "auto" else settings.device
        choose_device(device)
        asked = str(request.get("multi_gpu", True)).lower() not in ("false", "0")
        fields = {
            "settings": settings.model_dump(),
            "checkpoint": str(parent.checkpoint),
            "run": run,
            "name": CURRENT,
            "model": self.versions.base.stem,
            "pretrained": True,
            "max_epochs": settings.max_epochs,
            "train_batch_size": 1,
            "val_batch_size": 1,
            "dataset": "Dataset",
            "dataloader": "ThreadDataLoader",
            "device": device,
            # who names one device means it
            "multi_gpu": asked and device == "cuda",
            "gpus": request.get("gpus") or "all",
            "tracking": "mlflow" if tracked else "None",
            "tracking_uri": self.registry.uri,
            "tracking_experiment_name": self.registry.experiment,
            "tracking_run_name": run,
        }
        self._cases = [{"folder": str(case.folder)} for case in cases]
        if self.place is None:
            super().__call__(fields, None)
            return
        job = {**self._config, **fields, "run_id": run, "multi_gpu": True}
        job |= {"distributed_backend": self.place.backend, "cases": self._cases}
        self.place.tell(self.runs, job)
        self.train(self.place.rank, self.place.world, job, self._cases)

    def help(self) -> None:
        """Train along with the first process of several, which prepares and judges (`Place`)."""
        assert self.place is not None
        job = self.place.wait(self.runs)
        if job is not None:
            self.train(self.place.rank, self.place.world, job, job["cases"])

    # What BasicTrainTask asks for

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        return self._cases

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list, list]:
        # the gate's hold-out was taken out before; there is no other validation to stop by
        return context.datalist, []

    def network(self, context: Context) -> Trainable:
        self._settings = TrainSettings(**context.request["settings"])
        size = self._settings.image_size or self.image_size
        checkpoint, network = load_network(Path(context.request["checkpoint"]), size)
        self._architecture = checkpoint.architecture
        return Trainable(network, checkpoint.architecture.draws_prompts, self._settings)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        return _unwrapped(context.network).optimizer()

    def loss_function(self, context: Context) -> Callable[..., torch.Tensor]:
        return lambda loss, _: loss  # the network's forward pass gives the loss already

    def train_key_metric(self, context: Context) -> None:
        return None

    def train_pre_transforms(self, context: Context) -> list:
        return []

    def train_post_transforms(self, context: Context) -> list:
        return []

    def val_inferer(self, context: Context) -> None:
        return None

    def lr_scheduler_handler(self, context: Context) -> LrScheduleHandler:
        return LrScheduleHandler(self._schedule, epoch_level=False, print_lr=False)  # type: ignore[arg-type]

    def train_handlers(self, context: Context) -> list[Any]:
        """The schedule; on the first process also the curve, for TensorBoard and MLflow."""
        handlers: list[Any] = [self.lr_scheduler_handler(context)]
        if context.local_rank > 0:
            return handlers
        curve: dict[str, Any] = {"output_transform": _loss, "tag_name": "train_loss", "epoch_log": False}
        events = self.versions.folder / TENSORBOARD / context.run_id
        handlers.append(TensorBoardStatsHandler(log_dir=str(events), **curve))
        if context.tracking == "mlflow":
            handlers.append(
                MLFlowHandler(
                    tracking_uri=context.tracking_uri,
                    experiment_name=context.tracking_experiment_name,
                    run_name=context.tracking_run_name,
                    artifact_location=self.registry.artifacts,
                    close_on_complete=True,
                    **curve,
                )
            )
        return handlers

    def _device(self, context: Context) -> torch.device:
        if context.multi_gpu and not torch.cuda.is_available():
            return torch.device("cpu")
        if context.multi_gpu and self.place:
            torch.cuda.set_device(self.place.local)
            return torch.device("cuda", self.place.local)
        if context.multi_gpu:
            return super()._device(context)
        return torch.device(context.request["device"])

    def _create_network_and_optimizer(
        self, context: Context
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        trained = self.network(context).to(context.device)
        context.network = trained
        optimizer = self.optimizer(context)
        self._average = Average(trained)
        if not context.multi_gpu:
            return trained, optimizer
        devices = [context.device.index] if context.device.type == "cuda" else None
        parallel = DistributedDataParallel(trained, devices, find_unused_parameters=True)
        return parallel, optimizer

    def _create_trainer(self, context: Context) -> SupervisedTrainer:
        """MONAI's trainer: a sample an iteration, the gradients of a batch summed up over iterations."""
        settings, world = self._settings, context.world_size if context.multi_gpu else 1
        at_once = max(1, round(settings.train_batch_size / world))  # of this process
        steps = max(1, round(SAMPLES_AN_EPOCH / (at_once * world)))  # an epoch
        length, total = steps * at_once, steps * settings.max_epochs
        self._schedule = LambdaLR(context.optimizer, lambda i: _rate(i // at_once, total))
        trained = _unwrapped(context.network)
        trainer = SupervisedTrainer(
            device=context.device,
            max_epochs=settings.max_epochs,
            train_data_loader=[],
            network=context.network,
            optimizer=context.optimizer,
            loss_function=self.loss_function(context),
            epoch_length=length,
            prepare_batch=_to_device,
            train_handlers=self.train_handlers(context),
            accumulation_steps=at_once,
            decollate=False,
        )
        most = min(MOST_SKIPPED, total - 1)
        steps_made = _Steps(trained, context.optimizer, self._average, at_once, most)
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, steps_made.before)
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, steps_made.after)
        learnt = state.Learnt(trained, self._average, context.optimizer, self._schedule)
        folder = Path(context.output_dir)
        state.resume(folder, trainer, learnt, context.device)
        done = trainer.state.iteration * world
        numbers = range(done + context.local_rank, length * world * settings.max_epochs, world)
        cases = [CachedCase(Path(case["folder"])) for case in context.datalist]
        samples = Samples(cases, trained.network.image_size, settings.clips, settings.seed, numbers)
        # not MONAI's ThreadDataLoader, which ends an epoch without a word when a sample cannot be made
        workers = WORKERS if context.device.type == "cuda" else 0
        trainer.data_loader = DataLoader(samples, batch_size=None, num_workers=workers)
        if context.local_rank == 0:
            state.save_every_epoch(folder, trainer, learnt)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._report(at_once, total))
            trainer.add_event_handler(Events.COMPLETED, lambda _: self._leave_candidate(trained, folder))
        return trainer

    def _report(self, at_once: int, total: int) -> Callable[[Engine], None]:
        def report(engine: Engine) -> None:
            if self._progress is not None:
                self._progress.say_now_and_then(
                    progress.RUNNING,
                    "training",
                    step=engine.state.iteration // at_once,
                    steps=total,
                    loss=round(float(engine.state.output["loss"].detach()), 4),  # type: ignore[index]
                )

        return report

    def _leave_candidate(self, trained: Trainable, folder: Path) -> None:
        self._average.put_in_place()
        save_checkpoint(folder / CANDIDATE, trained.plain_weights(), self._architecture)

    def finalize(self, context: Context) -> None:
        """Nothing: MONAI Label would publish whatever comes out; here the gate decides."""

    # After training

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

    @staticmethod
    def _tell_registry(what: Callable[[], None]) -> bool:
        """Do something with MLflow, or log why not: a tracking server that is down stops no training."""
        try:
            what()
        except RegistryError as error:
            logger.warning("%s", error)
            return False
        return True


class _Steps:
    """Around each step of the optimiser: gradients are clipped, or dropped if one is not finite.

    Raises
    ------
    UserError
        If that happens too often in a row: the training has failed.
    """

    def __init__(
        self,
        trained: Trainable,
        optimizer: torch.optim.Optimizer,
        average: Average,
        at_once: int,
        most: int = MOST_SKIPPED,
    ) -> None:
        self.trained, self.optimizer, self.average, self.at_once = trained, optimizer, average, at_once
        self.skipped, self.most = 0, most

    def _is_last(self, engine: Engine) -> bool:
        return engine.state.iteration % self.at_once == 0

    def before(self, engine: Engine) -> None:
        if not self._is_last(engine):
            return
        parameters = [p for _, p in self.trained.learning()]
        if math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT))):
            self.skipped = 0
            return
        self.skipped += 1
        logger.warning("iteration %d: the gradient is not finite, skipped", engine.state.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped > self.most:
            raise UserError(
                f"The loss was not a finite number in {self.skipped} steps in a row: nothing was published. "
                "Try a lower learning_rate."
            )

    def after(self, engine: Engine) -> None:
        if self._is_last(engine) and not self.skipped:
            self.average.update()


def _rate(step: int, total: int) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to zero."""
    warm = max(1.0, WARM_UP * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))


def _loss(output: dict[str, Any]) -> float:
    return float(output["loss"].detach())


def _to_device(
    sample: dict[str, Any], device: torch.device, *_: Any, **__: Any
) -> tuple[dict[str, Any], None]:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in sample.items()}, None


def _unwrapped(network: Trainable | DistributedDataParallel) -> Trainable:
    return network.module if isinstance(network, DistributedDataParallel) else network


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
