"""Settings: every --conf key, from text."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import UserError
from lib.settings import Settings


def refused(conf: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        Settings.from_conf(conf)
    return str(caught.value)


def test_without_any_conf_the_embedded_checkpoint_serves_all_tasks():
    settings = Settings.from_conf({})
    assert settings.checkpoint == "biosam2_nano"
    assert settings.device == "auto"
    assert settings.image_size is None
    assert settings.cache_gb is None
    assert settings.labels == ("structure",)
    assert settings.models == ("biosam2_2d", "biosam2_3d", "biosam2_auto")
    assert settings.zoom is True
    assert settings.versions is None
    assert settings.retrain is None
    assert settings.retrain_when == "idle"
    assert settings.mlflow is None
    assert settings.keep_versions == 10
    assert settings.claim_minutes == 30
    assert settings.scoring == "idle"
    assert (settings.stream_minutes, settings.stream_gb) == (30, 2)


def test_values_arrive_as_text():
    conf = {
        "checkpoint": "sam2.1_hiera_tiny",
        "device": "cuda:1",
        "image_size": "512",
        "cache_gb": "2",
        "labels": "liver, spleen",
        "models": "biosam2_3d",
        "zoom": "false",
        "versions": "/data/versions",
        "retrain": "20; 0 3 * * *",
        "retrain_when": "always",
        "mlflow": "http://mlflow:5000",
        "keep_versions": "2",
        "claim_minutes": "5",
        "scoring": "off",
        "stream_minutes": "45",
        "stream_gb": "0.5",
    }
    assert Settings.from_conf(conf) == Settings(
        checkpoint="sam2.1_hiera_tiny",
        device="cuda:1",
        image_size=512,
        cache_gb=2.0,
        labels=("liver", "spleen"),
        models=("biosam2_3d",),
        zoom=False,
        versions=Path("/data/versions"),
        retrain="20 labels; 0 3 * * *",
        retrain_when="always",
        mlflow="http://mlflow:5000",
        keep_versions=2,
        claim_minutes=5,
        scoring="off",
        stream_minutes=45,
        stream_gb=0.5,
    )


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices_that_torch_knows_are_taken(device):
    assert Settings.from_conf({"device": device}).device == device


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("cache_gb", "abc", "a number above 0 and at most 1024"),
        ("cache_gb", "0", "a number above 0 and at most 1024"),
        ("cache_gb", "-1", "a number above 0 and at most 1024"),
        ("cache_gb", "nan", "a number above 0 and at most 1024"),
        ("cache_gb", "inf", "a number above 0 and at most 1024"),
        ("device", "gpu", "auto, cpu, mps, cuda or cuda:N"),
        ("device", "cuda:", "auto, cpu, mps, cuda or cuda:N"),
        ("device", "cuda:0\nx", "auto, cpu, mps, cuda or cuda:N"),
        ("image_size", "300", "one of 256, 512, 1024"),
        ("image_size", "512.5", "one of 256, 512, 1024"),
        ("image_size", "", "one of 256, 512, 1024"),
        ("labels", "liver,liver", "different names separated by commas, such as liver,spleen"),
        ("labels", "liver,,spleen", "different names separated by commas, such as liver,spleen"),
        ("labels", "", "different names separated by commas, such as liver,spleen"),
        ("models", "deepedit", "some of biosam2_2d, biosam2_3d, biosam2_auto, separated by commas"),
        ("zoom", "maybe", "true or false"),
        ("checkpoint", " ", "the name of a checkpoint or a path"),
        ("versions", " ", "the path of a folder"),
        ("versions", __file__, "the path of a folder"),
        ("retrain_when", "night", "idle or always"),
        ("keep_versions", "1", "a whole number from 2 to 1000"),
        ("keep_versions", "1001", "a whole number from 2 to 1000"),
        ("keep_versions", "2.5", "a whole number from 2 to 1000"),
        ("keep_versions", "all", "a whole number from 2 to 1000"),
    ],
)
def test_a_value_that_a_key_does_not_take_is_named(key, value, meant):
    assert refused({key: value}) == f"--conf {key} must be {meant}, not {value!r}."


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "0 labels", "20 labels; 30 labels", "0 3 * *", "61 3 * * *", "20;;0 3 * * *"]
)
def test_a_plan_for_retraining_that_is_none_is_refused_with_what_it_may_be(value):
    assert refused({"retrain": value}) == (
        '--conf retrain must be off, a number of new labels ("20 labels"), a cron time ("0 3 * * *"), '
        f'or both separated by ";", not {value!r}.'
    )


@pytest.mark.parametrize("value", ["mlflow:5000", "http://", "htp://mlflow", "http://a b", ""])
def test_an_address_of_no_registry_is_refused(value):
    meant = "the address of a tracking server such as http://mlflow:5000, or of a database"
    assert refused({"mlflow": value}) == f"--conf mlflow must be {meant}, not {value!r}."


@pytest.mark.parametrize("value", ["file:///data/mlruns", "sqlite:////data/mlflow.db", "https://a.b/c"])
def test_registries_are_servers_folders_and_databases(value):
    assert Settings.from_conf({"mlflow": value}).mlflow == value


def test_a_plan_is_off_or_written_in_full():
    assert Settings.from_conf({"retrain": " OFF "}).retrain is None
    assert Settings.from_conf({"retrain": "0  3 * * *; 1"}).retrain == "1 label; 0 3 * * *"


def test_a_folder_of_versions_may_be_under_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings.from_conf({"versions": "~/versions"}).versions == Path("/home/somebody/versions")


def test_an_unknown_key_is_named_with_those_there_are():
    message = refused({"checkpiont": "biosam2_nano"})
    assert message.startswith("--conf checkpiont is not a setting; the settings are checkpoint, device,")


def test_keys_that_monai_label_reads_itself_are_let_through():
    assert Settings.from_conf({"server_mode": "true", "auth_token": "x"}) == Settings()


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValueError):
        Settings().device = "cpu"
