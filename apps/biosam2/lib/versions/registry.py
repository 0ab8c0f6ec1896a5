"""The versions in MLflow, for people and programs that query it. The server itself never asks it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.errors import UserError
from lib.versions.store import Version, Versions, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ALIAS = "served"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
LABELS = "labels.json"
LOCK = ".registry.lock"
KEY = "biosam2.version"  # tag of a run and of a model version: our name of it
TAGS = ("parent", "code", "state", "reason", "checkpoint", "pruned")
LONGEST = {"key": 250, "value": 6000}  # what MLflow takes
# what its client is told where the person who runs the server has not said otherwise
CLIENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # the default is to try for 4 minutes, with 2 minutes for each answer
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class RegistryError(UserError):
    """MLflow's store does not answer as it should (HTTP 503). Nothing that is served depends on it."""

    status = 503


class Registry:
    """A run and a model version in MLflow for each version, and the alias "served".

    The folders of the versions are what counts, and this follows them, whatever happened in between: each
    base checkpoint is an experiment and a registered model of its name, so that two servers that share a
    tracking server must call their bases differently.

    Parameters
    ----------
    versions : Versions
    uri : str, optional
        Tracking server (or database) of MLflow. Left out, an SQLite file beside the versions. The variable
        MLFLOW_TRACKING_URI goes before both, as in MONAI's MLFlowHandler, which logs the trainings.

    Attributes
    ----------
    uri : str
        As `MLFlowHandler` takes it.
    experiment : str
        Name of the experiment and of the registered model.
    artifacts : str or None
        Where runs keep files, None where the tracking server decides.
    """

    def __init__(self, versions: Versions, uri: str | None = None) -> None:
        folder = versions.folder.absolute()
        given = os.environ.get("MLFLOW_TRACKING_URI") or uri
        # no percent-encoding: SQLAlchemy takes the path of an SQLite file as it is
        self.uri = given or f"sqlite:///{folder / DATABASE}"
        self._is_server = urlsplit(self.uri).scheme in ("http", "https")
        # of a database, MLflow would put them where the server happens to have been started
        self.artifacts = None if self._is_server else (folder / ARTIFACTS).as_uri()
        self.experiment = _key(versions.base.stem)
        self._versions = versions
        for key, value in CLIENT.items():
            os.environ.setdefault(key, value)

    def sync(self) -> None:
        """Bring MLflow up to date; what is right already is left as it is.

        Raises
        ------
        RegistryError
            If the store cannot be reached or does not take it. Calling it again later mends everything.
        """
        versions = self._versions.all()
        if versions:
            with self._using():
                self._sync(versions)

    def open(self) -> None:
        """See that it answers, and that the experiment is there, before a training logs its curve.

        Raises
        ------
        RegistryError
            If the store cannot be reached.
        """
        from mlflow import MlflowClient

        self._versions.folder.mkdir(parents=True, exist_ok=True)
        with self._using():
            self._experiment(MlflowClient(tracking_uri=self.uri))

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One process at a time; whatever goes wrong with the store is a `RegistryError`."""
        try:
            with locked(self._versions.folder / LOCK):
                yield
        # MLflow lets through what its stores raise: its own errors, SQLAlchemy's, requests', the disk's
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            shown = f"MLflow at {_shown(self.uri)} cannot be used ({_shown(reason)[:200]})."
            raise RegistryError(shown) from error

    def _sync(self, versions: list[Version]) -> None:
        from mlflow import MlflowClient
        from mlflow.telemetry import set_telemetry_client

        set_telemetry_client()  # MONAI may have imported it before the settings above: let it look again
        client = MlflowClient(tracking_uri=self.uri)
        experiment = self._experiment(client)
        runs = self._runs(client, experiment)
        models = self._models(client)
        for version in versions:
            run = runs.get(version.name) or runs.get(_run_name(version))
            if run is None:
                begin = _ended(version) - round(1000 * _seconds(version))
                run = client.create_run(experiment, begin, run_name=_run_name(version))
            self._describe_run(client, run, version)
            if version.name not in models:
                models[version.name] = self._new_model(client, run, version)
            number, known = models[version.name]
            for key, value in _tags(version).items():
                if known.get(key) != value:
                    client.set_model_version_tag(self.experiment, number, key, value)
        served = self._versions.get(self._versions.served_number())
        self._mark_served(client, served, models)

    def _experiment(self, client: MlflowClient) -> str:
        """Its id."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return client.create_experiment(self.experiment, artifact_location=self.artifacts)
            except MlflowException:
                # a training that begins at this moment may have made it
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _runs(self, client: MlflowClient, experiment: str) -> dict[str, Run]:
        """The newest of each name; one that was described before also under the name of its version."""
        runs: dict[str, Run] = {}
        token: str | None = None
        while token != "":
            page = client.search_runs(
                [experiment], max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs.update({run.info.run_name: run for run in page})
            runs.update({run.data.tags[KEY]: run for run in page if KEY in run.data.tags})
            token = page.token or ""
        return runs

    def _models(self, client: MlflowClient) -> dict[str, tuple[str, dict[str, str]]]:
        """Number in MLflow and tags of the model versions there are, by our name of the version."""
        from mlflow.exceptions import MlflowException

        try:
            client.get_registered_model(self.experiment)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(self.experiment)
        models: dict[str, tuple[str, dict[str, str]]] = {}
        token: str | None = None
        while token != "":
            page = client.search_model_versions(
                f"name='{self.experiment}'", max_results=1000, page_token=token
            )
            models.update(
                {model.tags[KEY]: (model.version, model.tags) for model in page if KEY in model.tags}
            )
            token = page.token or ""
        return models

    def _describe_run(self, client: MlflowClient, run: Run, version: Version) -> None:
        from mlflow.entities import Metric, Param, RunTag

        id, about = run.info.run_id, version.about
        if KEY not in run.data.tags:  # which it gets after this, so that an interruption is made good
            labels = {"labels": about.get("labels") or [], "left_out": about.get("left_out") or []}
            client.log_dict(id, labels, LABELS)
        settings = {_key(key): str(value)[: LONGEST["value"]] for key, value in _flat(about.get("settings"))}
        # a parameter of a run never changes, and the training may have logged some of them itself
        params = [Param(key, value) for key, value in settings.items() if key not in run.data.params]
        at = _ended(version)
        gate = {_key(key): value for key, value in _numbers(about)}
        metrics = [Metric(k, value, at, 0) for k, value in gate.items() if run.data.metrics.get(k) != value]
        tags = [RunTag(k, value) for k, value in _tags(version).items() if run.data.tags.get(k) != value]
        # MLflow takes 1000 things at once, of these at most 100 parameters
        for begin in range(0, max(len(params), len(metrics)), 100):
            some = slice(begin, begin + 100)
            client.log_batch(id, metrics=metrics[some], params=params[some])
        if tags:
            client.log_batch(id, tags=tags)
        if run.info.status != "FINISHED":
            client.set_terminated(id, "FINISHED", at)

    def _new_model(self, client: MlflowClient, run: Run, version: Version) -> tuple[str, dict[str, str]]:
        tags = _tags(version)
        # a database may point at our folder; a tracking server allows only what lies with the run itself
        source = run.info.artifact_uri if self._is_server else version.path.absolute().as_uri()
        made = client.create_model_version(
            self.experiment,
            source,
            run.info.run_id,
            tags=tags,
            description=str(version.about.get("reason") or "")[: LONGEST["value"]],
            await_creation_for=0,
        )
        return made.version, tags

    def _mark_served(
        self, client: MlflowClient, served: Version, models: dict[str, tuple[str, dict[str, str]]]
    ) -> None:
        registered = client.get_registered_model(self.experiment)
        number = models[served.name][0] if served.name in models else None
        if number is None and ALIAS in registered.aliases:
            client.delete_registered_model_alias(self.experiment, ALIAS)
        elif number is not None and str(registered.aliases.get(ALIAS)) != str(number):
            client.set_registered_model_alias(self.experiment, ALIAS, number)
        # the base has no version in MLflow that an alias could point at
        if registered.tags.get(ALIAS) != served.name:
            client.set_registered_model_tag(self.experiment, ALIAS, served.name)


def _shown(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _run_name(version: Version) -> str:
    return str(version.about.get("run") or version.name)


def _tags(version: Version) -> dict[str, str]:
    """What is told of a version, of its run and of its model version alike."""
    about = version.about
    tags = {key: str(about[key])[: LONGEST["value"]] for key in TAGS if about.get(key) is not None}
    return {**tags, "number": str(version.number), KEY: version.name}


def _numbers(about: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What the gate measured, and how long the training took."""
    for key, value in [*_flat(about.get("gate")), ("seconds", about.get("seconds"))]:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield key, float(value)


def _flat(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects, with their keys joined by dots."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{before}.{key}" if before else str(key))
    elif before:
        yield before, value


def _key(name: str) -> str:
    """A name as MLflow takes it: a structure may be called anything."""
    return re.sub(r"[^\w .\-]", "_", name)[: LONGEST["key"]]


def _seconds(version: Version) -> float:
    return dict(_numbers(version.about)).get("seconds", 0.0)


def _ended(version: Version) -> int:
    """When its training ended, milliseconds since 1970."""
    try:
        moment = datetime.fromisoformat(str(version.about.get("created")))
    except ValueError:
        return int(version.path.stat().st_mtime * 1000)
    return int(moment.timestamp() * 1000)
