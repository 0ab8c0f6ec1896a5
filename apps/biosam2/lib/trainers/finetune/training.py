"""The training itself: MONAI's engine, as MONAI Label runs it, over one GPU or several."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler, MLFlowHandler, TensorBoardStatsHandler
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from lib.errors import UserError
from lib.sam.checkpoints import load_network, save_checkpoint
from lib.sam.model import choose_device
from lib.trainers.finetune import progress, state
from lib.trainers.finetune.network import Average, Trainable
from lib.trainers.finetune.progress import Progress
from lib.trainers.finetune.samples import Samples
from lib.trainers.finetune.settings import TrainSettings
from lib.trainers.finetune.slices import CachedCase
from lib.trainers.finetune.together import Place
from lib.versions.registry import Registry, RegistryError
from lib.versions.store import Version, Versions

logger = logging.getLogger(__name__)

SAMPLES_AN_EPOCH = 100
WARM_UP = 0.05  # of the steps
LARGEST_GRADIENT = 0.1  # SAM 2's own training
WORKERS = 4  # processes that make samples for a GPU
MOST_SKIPPED = 20  # steps in a row without a finite gradient
RUNS, CURRENT, TENSORBOARD = "runs", "current", "tensorboard"
CANDIDATE = "candidate.safetensors"


class Training(BasicTrainTask):
    """Makes the steps and leaves a candidate; what to learn from, and what becomes of it, is decided outside.

    Parameters
    ----------
    versions : Versions
    registry : Registry
        Gets the curve.
    device : str
        Where the server runs.
    image_size : int, optional
        Input size that the server runs at; None is the checkpoint's own.
    """

    def __init__(
        self, versions: Versions, registry: Registry, device: str, image_size: int | None = None
    ) -> None:
        self.versions, self.registry, self.device, self.image_size = versions, registry, device, image_size
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

    def learn(
        self,
        settings: TrainSettings,
        parent: Version,
        cases: list[CachedCase],
        run: str,
        request: dict[str, Any],
    ) -> None:
        """Leave the candidate in the current run's folder; one that is there already was trained before."""
        if (self.runs / CURRENT / CANDIDATE).exists():
            if self.place is not None:
                self.place.tell(self.runs, None)
            return
        tracked = self.tell_registry(self.registry.open)
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
        samples = Samples(
            cases, trained.network.image_size, settings.clips, settings.seed, numbers, settings.across
        )
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

    @staticmethod
    def tell_registry(what: Callable[[], None]) -> bool:
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
