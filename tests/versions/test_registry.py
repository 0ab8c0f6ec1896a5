"""The versions in a real MLflow store."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from monai.handlers import MLFlowHandler
from programs import Program, free_port

from lib.versions.registry import ALIAS, KEY, Registry, RegistryError
from lib.versions.store import Versions


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty store: making one takes some seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def registry(versions, database) -> Registry:
    versions.folder.mkdir(parents=True)
    (versions.folder / "mlflow.db").write_bytes(database)
    return Registry(versions)


@pytest.fixture
def client(registry) -> MlflowClient:
    return MlflowClient(registry.uri)


def everything(client: MlflowClient) -> list[Any]:
    """All that there is in the store, without when it was last touched."""
    experiment = client.get_experiment_by_name("nano")
    assert experiment is not None
    runs = [run.to_dictionary() for run in client.search_runs([experiment.experiment_id])]
    histories = [
        len(client.get_metric_history(run["info"]["run_id"], key))
        for run in runs
        for key in run["data"]["metrics"]
    ]
    models = [
        (model.version, model.run_id, model.source, model.tags, sorted(model.aliases))
        for model in client.search_model_versions("name='nano'")
    ]
    registered = client.get_registered_model("nano")
    return [runs, histories, sorted(models), registered.aliases, registered.tags]


def test_a_version_has_a_run_and_a_model_version(versions, add, registry, client, tmp_path):
    version = add()
    versions.serve(1)
    registry.sync()
    experiment = client.get_experiment_by_name("nano")
    assert experiment is not None
    assert experiment.artifact_location == (versions.folder / "mlartifacts").as_uri()
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == version.about["run"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 512_300
    assert run.data.params == {"steps": "800", "rate": "0.0001", "lora.rank": "8"}
    assert run.data.metrics["site.candidate"] == 0.86
    assert run.data.metrics["site.structures.caudate.candidate"] == 0.8
    assert run.data.metrics["seconds"] == 512.3
    expected = {
        "parent": "0",
        "code": "0.1.0+gabc1234",
        "state": "published",
        "reason": version.about["reason"],
        "checkpoint": version.about["checkpoint"],
        "number": "1",
        KEY: "nano-v1",
    }
    assert expected.items() <= run.data.tags.items()
    (labels,) = client.list_artifacts(run.info.run_id)
    path = Path(client.download_artifacts(run.info.run_id, labels.path, str(tmp_path)))
    assert json.loads(path.read_text())["labels"] == version.about["labels"]
    model = client.get_model_version_by_alias("nano", ALIAS)
    assert model.run_id == run.info.run_id
    assert model.tags == expected
    assert model.description == version.about["reason"]
    assert client.get_registered_model("nano").tags[ALIAS] == "nano-v1"


def test_whoever_asks_mlflow_for_what_is_served_gets_the_checkpoint(
    versions, add, registry, tmp_path, monkeypatch
):
    version = add()
    versions.serve(1)
    registry.sync()
    out = tmp_path / "out"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    download_artifacts("models:/nano@served", dst_path=str(out))
    (found,) = out.rglob(version.checkpoint.name)
    assert found.read_bytes() == version.checkpoint.read_bytes()


def test_doing_it_again_changes_nothing(versions, add, registry, client):
    for _ in range(3):
        add()
    versions.serve(2)
    registry.sync()
    first = everything(client)
    registry.sync()
    Registry(Versions(versions.folder, versions.base)).sync()
    assert everything(client) == first


def test_the_alias_follows_what_is_served(versions, add, registry, client):
    add()
    add(parent=1)

    def served() -> tuple[str | None, str]:
        registry.sync()
        model = client.get_registered_model("nano")
        version = model.aliases.get(ALIAS)
        name = client.get_model_version("nano", str(version)).tags[KEY] if version else None
        return name, model.tags[ALIAS]

    assert served() == (None, "nano")
    for number in (2, 1):
        versions.serve(number)
        assert served() == (f"nano-v{number}", f"nano-v{number}")
    versions.rollback()
    assert served() == (None, "nano")


def test_a_pruned_version_stays_and_is_marked(versions, add, registry, client):
    add()
    add()
    registry.sync()
    versions.prune(1)
    registry.sync()
    models = {model.tags[KEY]: model.tags for model in client.search_model_versions("name='nano'")}
    assert models["nano-v1"]["pruned"] == "True"
    assert "pruned" not in models["nano-v2"]


def test_the_run_of_the_training_itself_is_used(versions, add, registry, client):
    handler = MLFlowHandler(
        tracking_uri=registry.uri,
        experiment_name=registry.experiment,
        run_name="20261122_030000",
        artifact_location=registry.artifacts,
        experiment_param={"steps": 801},
        output_transform=lambda output: output,
        tag_name="loss",
    )
    engine = Engine(lambda *_: 0.3)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    add(run="20261122_030000")
    registry.sync()
    registry.sync()
    experiment = client.get_experiment_by_name("nano")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.3
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2
    assert found.data.metrics["site.candidate"] == 0.86
    assert found.data.params["steps"] == "801", "what the training said stays"
    assert found.data.params["rate"] == "0.0001"


def test_what_was_interrupted_or_removed_is_made_good(versions, add, registry, client, monkeypatch):
    add()
    versions.serve(1)
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise OSError("no space")

        patch.setattr(MlflowClient, "log_dict", stop)
        with pytest.raises(RegistryError, match=r"^MLflow at sqlite:.*no space"):
            registry.sync()
    registry.sync()
    (run, *more), histories, (model, *_), aliases, _ = everything(client)
    assert not more and set(histories) == {1} and list(aliases) == [ALIAS]
    assert [file.path for file in client.list_artifacts(run["info"]["run_id"])] == ["labels.json"]
    client.delete_registered_model("nano")
    registry.sync()
    assert client.get_model_version_by_alias("nano", ALIAS).run_id == run["info"]["run_id"]


def test_odd_names_and_values_are_told_as_far_as_mlflow_takes_them(versions, add, registry, client):
    structures = {"Großhirn, left/right (R&D)": {"candidate": 0.5}, "..": {"candidate": float("inf")}}
    add(
        reason="x" * 9000,
        settings={f"setting {number}": "y" * 7000 for number in range(120)},
        gate={"site": {"candidate": True, "structures": structures}},
        seconds=None,
        labels=None,
        created="yesterday",
    )
    add(gate=None, settings=None, run=None)
    registry.sync()
    registry.sync()
    runs, *_ = everything(client)
    run = next(run for run in runs if run["data"]["tags"][KEY] == "nano-v1")
    assert run["data"]["metrics"] == {"site.structures.Großhirn_ left_right _R_D_.candidate": 0.5}
    assert len(run["data"]["params"]) == 120
    assert {run["data"]["tags"]["mlflow.runName"] for run in runs} >= {"nano-v2"}


def test_without_versions_nothing_is_written(versions):
    Registry(versions).sync()
    assert not versions.folder.exists()


def test_a_folder_with_signs_in_its_name_has_its_store_in_it(tmp_path, database):
    base = tmp_path / "odd (1): 50%.pt"
    base.write_bytes(b"base")
    versions = Versions.of(tmp_path / "a b#c", base)
    prepared = versions.folder / ".new-1"
    prepared.mkdir(parents=True)
    (versions.folder / "mlflow.db").write_bytes(database)
    (prepared / "x.safetensors").write_bytes(b"1")
    versions.add(prepared, {})
    registry = Registry(versions)
    registry.sync()
    assert registry.experiment == "odd _1__ 50_"
    (model,) = MlflowClient(registry.uri).search_model_versions(f"name='{registry.experiment}'")
    assert model.tags[KEY] == "odd (1): 50%-v1"
    assert (versions.folder / "mlartifacts").is_dir()


@pytest.mark.parametrize(
    "uri", ["http://user:secret@127.0.0.1:9", "nonsense://user:secret@x", "sqlite:///{base}/mlflow.db"]
)
def test_a_store_that_is_not_there_is_one_sentence_without_a_password(versions, add, monkeypatch, uri):
    add()
    uri = uri.format(base=versions.base)  # a file, where a folder would have to be
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    begin = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        Registry(versions, uri).sync()
    assert time.monotonic() - begin < 30
    sentence = str(caught.value)
    assert sentence.startswith("MLflow at ") and "\n" not in sentence and "secret" not in sentence
    assert caught.value.status == 503


def test_the_variable_of_mlflow_goes_before_the_setting(versions, monkeypatch):
    assert Registry(versions).uri == f"sqlite:///{versions.folder}/mlflow.db"
    assert Registry(versions, "http://one").uri == "http://one"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert Registry(versions, "http://one").uri == Registry(versions).uri == "http://other"
    assert Registry(versions).artifacts is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://database/mlflow")
    assert Registry(versions).artifacts == (versions.folder / "mlartifacts").as_uri()


@pytest.mark.slow
def test_a_tracking_server_takes_the_same(versions, add, tmp_path, database, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "server.db").write_bytes(database)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    for _ in range(2):
        add()
    versions.serve(2)
    with Program(command, port, "/health", tmp_path / "server.log", tmp_path) as server:
        registry = Registry(versions, server.address)
        registry.sync()
        client = MlflowClient(server.address)
        first = everything(client)
        registry.sync()
        assert everything(client) == first
        run = client.get_model_version_by_alias("nano", ALIAS).run_id
        assert run is not None
        assert [file.path for file in client.list_artifacts(run)] == ["labels.json"]


def _sync(versions: Versions, start: Any) -> None:
    start.wait()
    Registry(versions).sync()


@pytest.mark.slow
def test_two_processes_at_once_make_one_of_each(versions, add: Callable[..., Any], registry, client):
    for _ in range(3):
        add()
    versions.serve(3)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [context.Process(target=_sync, args=(versions, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    runs, _, models, _, _ = everything(client)
    assert len(runs) == len(models) == 3


def test_an_error_of_mlflow_is_one_line_of_it(versions, add, registry, monkeypatch):
    add()

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("first line\nsecond line")

    monkeypatch.setattr(MlflowClient, "create_registered_model", refuse)
    with pytest.raises(RegistryError, match=r"\(first line\)\.$"):
        registry.sync()
