"""Muon in single precision makes the steps that torch's makes in bfloat16."""

from __future__ import annotations

import pytest
import torch

from lib.trainers.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_what_is_orthogonalised_keeps_its_directions(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    usual = torch.optim.Muon([torch.nn.Parameter(matrix)]).param_groups[0]
    found = orthogonal(matrix, usual["ns_coefficients"], usual["ns_steps"], usual["eps"])
    u, s, v = torch.linalg.svd(found, full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    first, _, last = torch.linalg.svd(matrix, full_matrices=False)
    # the nearest orthogonal matrix has the same singular vectors
    nearest = first @ last
    assert (u @ v * nearest).sum() / nearest.square().sum() > 0.99


def test_steps_are_those_of_torch():
    torch.manual_seed(1)
    start = torch.randn(12, 30)
    ours, torchs = (torch.nn.Parameter(start.clone()) for _ in (0, 1))
    one = Muon([ours], lr=0.01, weight_decay=0.05)
    other = torch.optim.Muon([torchs], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn_like(start)
        ours.grad, torchs.grad = gradient.clone(), gradient.clone()
        one.step(), other.step()
    moved, expected = ours.detach() - start, torchs.detach() - start
    assert (moved - expected).norm() < 0.03 * expected.norm()  # bfloat16 has three digits


def test_a_state_of_torchs_is_gone_on_from():
    parameter = torch.nn.Parameter(torch.randn(6, 9))
    known = torch.optim.Muon([parameter], adjust_lr_fn="match_rms_adamw")
    parameter.grad = torch.randn(6, 9)
    known.step()
    ours = Muon([parameter])
    ours.load_state_dict(known.state_dict())
    before = known.state[parameter]["momentum_buffer"].clone()
    torch.testing.assert_close(ours.state[parameter]["momentum_buffer"], before)
    ours.step()
    torch.testing.assert_close(
        ours.state[parameter]["momentum_buffer"], before.lerp(parameter.grad, 1 - 0.95)
    )


def test_what_has_no_gradient_stays():
    parameter, other = (torch.nn.Parameter(torch.ones(3, 4)) for _ in (0, 1))
    other.grad = torch.ones(3, 4)
    Muon([parameter, other]).step()
    assert (parameter == 1).all() and (other != 1).all()
