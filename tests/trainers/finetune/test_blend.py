"""Checkpoints between two others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib.errors import UserError
from lib.sam import network
from lib.sam.checkpoints import load_network, save_checkpoint
from lib.trainers.finetune.blend import SHARES, blend

from .conftest import SMALL


@pytest.fixture
def other(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, network.build(SMALL).state_dict(), SMALL)
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_weights_lie_between(base: Path, other: Path, tmp_path: Path, share: float):
    made = blend(base, other, share, tmp_path / "made.safetensors")
    before, after, found = load_file(base), load_file(other), load_file(made)
    assert list(found) == list(before)
    for name in before:
        between = (1 - share) * before[name].float() + share * after[name].float()
        assert torch.allclose(found[name].float(), between, atol=1e-3, rtol=1e-3)
    checkpoint, _ = load_network(made)
    assert checkpoint.architecture == SMALL


def test_the_ends_are_the_same_bit_for_bit(base: Path, other: Path, tmp_path: Path):
    """All of what was learnt is no other version than what was trained."""
    for share, end in ((0.0, base), (1.0, other)):
        found, expected = load_file(blend(base, other, share, tmp_path / "made.safetensors")), load_file(end)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_all_is_tried_first():
    assert SHARES[0] == 1.0 and list(SHARES) == sorted(SHARES, reverse=True) and SHARES[-1] > 0


def test_what_cannot_be_read_makes_nothing(base: Path, tmp_path: Path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"none")
    with pytest.raises(UserError):
        blend(base, path, 0.5, tmp_path / "made.safetensors")
    assert not (tmp_path / "made.safetensors").exists()
