"""The settings of a training, as clients send them."""

from __future__ import annotations

import pytest

from lib.errors import UserError
from lib.trainers.finetune.settings import FROM_CLIENTS, TrainSettings


def test_empty_fields_and_what_clients_add_have_defaults():
    given = dict.fromkeys(FROM_CLIENTS, "x") | {"image_size": "", "device": None}
    assert TrainSettings.of(given) == TrainSettings()


def test_slicer_sends_text():
    found = TrainSettings.of(
        {"max_epochs": "3", "learning_rate": "1e-4", "lora": "true", "image_size": "512", "clips": "0.5"}
    )
    assert (found.max_epochs, found.learning_rate, found.lora) == (3, 1e-4, True)
    assert (found.image_size, found.clips) == (512, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", "many"),
        ("max_epochs", 1.5),
        ("train_batch_size", 257),
        ("learning_rate", 0),
        ("learning_rate", "nan"),
        ("learning_rate", [1]),
        ("clips", 0.95),
        ("across", 1),
        ("clips", float("nan")),
        ("loss", "hinge"),
        ("image_size", 300),
        ("device", "cuda:one"),
        ("lora", "perhaps"),
        ("seed", -1),
        ("seed", 2**40),
    ],
)
def test_a_wrong_value_is_named_with_its_field(field: str, value: object):
    with pytest.raises(UserError) as error:
        TrainSettings.of({field: value})
    assert str(error.value).startswith(f"{field} must be ")
    assert str(value)[:80] in str(error.value) and str(error.value).endswith(".")


def test_an_unknown_field_is_named():
    with pytest.raises(UserError, match="epochs is not a setting of a training; they are max_epochs, "):
        TrainSettings.of({"epochs": 3})
