"""BioSAM2App: reads the settings, names the tasks, and nothing else."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monailabel
from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.activelearning.claims import file_name
from lib.activelearning.next_case import DEFAULT, NextCase
from lib.activelearning.scorer import Scorer
from lib.bank.bank import LabelBank
from lib.datastores.connect import connect
from lib.datastores.dicomweb import PacsDatastore
from lib.errors import NotFound, UserError
from lib.imaging.seg.write import Algorithm
from lib.infers.auto_task import AutoTask
from lib.infers.picture_task import PictureTask
from lib.infers.slice_task import SliceTask
from lib.infers.track_task import TrackTask
from lib.infers.uploads import is_upload
from lib.infers.volume_task import VolumeTask
from lib.sam.checkpoints import resolve
from lib.sam.model import ModelSlot
from lib.sam.stream import Stream
from lib.server.datastore import folder
from lib.server.install import install
from lib.settings import Settings
from lib.streams.pictures import Pictures
from lib.streams.tracks import Tracks
from lib.trainers.finetune.progress import is_training
from lib.trainers.finetune.task import FinetuneTask
from lib.trainers.finetune.training import RUNS
from lib.trainers.retrain.monai_label import FinalLabels, Trainings
from lib.trainers.retrain.plan import OFF, Plan
from lib.trainers.retrain.retraining import Retraining
from lib.versions.registry import Registry, RegistryError
from lib.versions.store import Versions

logger = logging.getLogger(__name__)

VERSION = "0.1.0"
PICTURES_SHARE = 0.25  # of --conf stream_gb; what is followed over them has the rest


class BioSAM2App(MONAILabelApp):
    """The app that `monailabel start_server --app apps/biosam2` runs."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.model_dir = Path(app_dir) / "model"
        self.retraining: Retraining | None = None
        self.scorer: Scorer | None = None
        try:
            self.biosam2 = Settings.from_conf(conf)
            chosen = self.biosam2
            base = resolve(chosen.checkpoint, self.model_dir, _say_progress)
            self.versions = Versions.of(chosen.versions or self.model_dir / "versions", base)
            self.registry = Registry(self.versions, chosen.mlflow)
            cache_bytes = None if chosen.cache_gb is None else int(chosen.cache_gb * 1e9)
            self.slot = ModelSlot(self.versions.served_path, chosen.device, cache_bytes, chosen.image_size)
        except UserError as error:
            # the server shows whatever trace a failed start leaves: leave the sentence alone
            sys.tracebacklimit = 0
            raise UserError(str(error)) from None
        self.bank = LabelBank(self.datastore, self.versions.folder / "bank")
        self.auto = AutoTask(self.slot, chosen, self.bank)
        # of what clients send picture by picture
        stream_bytes, minutes = chosen.stream_gb * 1e9, chosen.stream_minutes
        pictures = Pictures(int(PICTURES_SHARE * stream_bytes), minutes)
        tracks: Tracks[Stream] = Tracks(int((1 - PICTURES_SHARE) * stream_bytes), minutes)
        self.pictures = PictureTask(self.auto, pictures)
        self.tracks = TrackTask(self.slot, chosen, pictures, tracks)
        claims = self.versions.folder.parent / file_name(studies)
        self.next_case = NextCase(self.datastore, claims, chosen.claim_minutes)
        logger.info("serving %s on %s", self.slot.get().checkpoint, self.slot.device)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="BioSAM-2",
            description="Interactive segmentation of images and volumes with SAM 2. Not for clinical use.",
            version=VERSION,
            labels=list(self.biosam2.labels),
        )
        # the server room has its own threads, and its tasks ask theirs which request they work on
        self._infers_threadpool = None

    def init_datastore(self) -> Datastore:
        is_address = self.studies.startswith(("http://", "https://"))
        return super().init_datastore() if is_address else folder(self.studies)

    def init_remote_datastore(self) -> Datastore:
        """MONAI Label's own for XNAT and DSA; ours for a DICOMweb address."""
        if server_settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
            return super().init_remote_datastore()
        return connect(self.studies, self._algorithm)

    def _algorithm(self) -> Algorithm:
        checkpoint = self.slot.get().checkpoint
        return Algorithm(checkpoint.name, checkpoint.version)

    def init_infers(self) -> dict[str, InferTask]:
        tasks: dict[str, Callable[[], InferTask]] = {
            "biosam2_2d": lambda: SliceTask(self.slot, self.biosam2),
            "biosam2_3d": lambda: VolumeTask(self.slot, self.biosam2),
            "biosam2_auto": lambda: self.auto,
        }
        return {name: tasks[name]() for name in self.biosam2.models}

    def init_trainers(self) -> dict[str, TrainTask]:
        chosen = self.biosam2
        task = FinetuneTask(
            self.versions,
            self.registry,
            str(self.slot.device),
            chosen.image_size,
            chosen.keep_versions,
            VERSION,
        )
        return {"biosam2": task}

    def init_strategies(self) -> dict[str, Strategy]:
        return self.next_case.strategies()

    def on_init_complete(self) -> None:
        """The server runs; a training's own process never comes here."""
        super().on_init_complete()
        trainings = Trainings(self.versions.folder / RUNS)
        self.retraining = Retraining(
            Plan.parse(self.biosam2.retrain or OFF),
            self.versions.folder / "retraining.json",
            FinalLabels(self.datastore),
            trainings.start,
            trainings.newest,
            lambda: monailabel.app.app.state.work_queue.idle_seconds(),
            self.biosam2.retrain_when,
        )
        install(monailabel.app.app)
        self.next_case.pool.begin()
        self.retraining.start()
        if self.biosam2.scoring == "idle":
            runs = self.versions.folder / RUNS
            self.scorer = Scorer(
                self.datastore,
                self.next_case.pool,
                self.bank,
                self.slot,
                lambda: monailabel.app.app.state.work_queue.idle_seconds(),
                lambda: is_training(runs),
            )
            self.scorer.start()

    def info(self) -> dict[str, Any]:
        """MONAI Label's own, with the plan for retraining and how far it is, and who has cases."""
        retrain = self.retraining.status() if self.retraining else None
        scoring = self.scorer.status() if self.scorer else None
        next_case = {**self.next_case.status(), "scoring": scoring}
        return {**super().info(), "retrain": retrain, "next_case": next_case}

    def on_save_label(self, image_id: str, label_id: str) -> Any:
        answer = super().on_save_label(image_id, label_id)
        self.next_case.label_saved(image_id, self.datastore())
        if self.retraining:
            self.retraining.labels_changed()
        if self.scorer:
            self.scorer.labels_changed()
        return answer

    def sync_registry(self) -> None:
        """Have MLflow follow what is served, in the background."""
        threading.Thread(target=self._sync_registry, name="registry", daemon=True).start()

    def _sync_registry(self) -> None:
        try:
            self.registry.sync()
        except RegistryError as error:
            logger.warning("%s", error)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """MONAI Label's own, after checking that the model and the image exist.

        Raises
        ------
        NotFound
            If there is no such model or image. MONAI Label takes any path on the server for an image; here
            only what the datastore lists, and what the server itself has stored (an upload, a session).
        """
        model, image = request.get("model"), request.get("image")
        if not isinstance(model, str) or model not in self._infers:
            raise NotFound(f'model "{str(model)[:80]}" is not one of {", ".join(self._infers)}.')
        if not isinstance(image, str) or not self.is_known(image, datastore or self.datastore()):
            raise NotFound(f'image "{str(image)[:80]}" is not in the datastore.')
        self.next_case.claims.prolong(image)
        return super().infer(request, datastore)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next case and who has it, by the default strategy if none is named.

        Raises
        ------
        NotFound
            If there is no such strategy.
        UserError
            As `NextCase.answer` does.
        """
        name = request.get("strategy") or DEFAULT
        strategy = self._strategies.get(name) if isinstance(name, str) else None
        if strategy is None:
            raise NotFound(f'strategy "{str(name)[:80]}" is not one of {", ".join(self._strategies)}.')
        return self.next_case.answer(strategy, request, self.datastore())

    def is_known(self, image: str, datastore: Any) -> bool:
        """Whether this is an image of the datastore, by id, or a file that the server has stored, by path."""
        path = Path(image)
        if path.is_absolute():
            sessions = server_settings.MONAI_LABEL_SESSION_PATH or os.path.join(
                Path.home(), ".cache", "monailabel", "sessions"
            )
            in_session = Path(sessions).resolve() in path.resolve().parents and path.exists()
            return in_session or is_upload(path)
        if isinstance(datastore, PacsDatastore):
            return datastore.has(image)
        return image in datastore.list_images()


def _say_progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total or done % (10 << 20) < 1 << 20:
        sys.stderr.write(f"\rdownloading the checkpoint: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        if done == total:
            sys.stderr.write("\n")
