"""Settings: every --conf key, from text."""

from __future__ import annotations

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
    assert settings.models == ("biosam2_2d", "biosam2_3d")
    assert settings.zoom is True


def test_values_arrive_as_text():
    conf = {
        "checkpoint": "sam2.1_hiera_tiny",
        "device": "cuda:1",
        "image_size": "512",
        "cache_gb": "2",
        "labels": "liver, spleen",
        "models": "biosam2_3d",
        "zoom": "false",
    }
    assert Settings.from_conf(conf) == Settings(
        checkpoint="sam2.1_hiera_tiny",
        device="cuda:1",
        image_size=512,
        cache_gb=2.0,
        labels=("liver", "spleen"),
        models=("biosam2_3d",),
        zoom=False,
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
        ("models", "deepedit", "some of biosam2_2d, biosam2_3d, separated by commas"),
        ("zoom", "maybe", "true or false"),
        ("checkpoint", " ", "the name of a checkpoint or a path"),
    ],
)
def test_a_value_that_a_key_does_not_take_is_named(key, value, meant):
    assert refused({key: value}) == f"--conf {key} must be {meant}, not {value!r}."


def test_an_unknown_key_is_named_with_those_there_are():
    message = refused({"checkpiont": "biosam2_nano"})
    assert message.startswith("--conf checkpiont is not a setting; the settings are checkpoint, device,")


def test_keys_that_monai_label_reads_itself_are_let_through():
    assert Settings.from_conf({"server_mode": "true", "auth_token": "x"}) == Settings()


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValueError):
        Settings().device = "cpu"
