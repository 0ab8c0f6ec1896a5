"""Patients of one anatomy as training samples, and the loss of a mask that memory makes of the next one."""

from __future__ import annotations

import numpy as np
import torch

from lib.sam import network
from lib.trainers.generated import generate_patients
from lib.trainers.patients import PatientViews, patients_loss

SIZE = 64


def test_a_structure_comes_back_in_the_next_patient_changed():
    overlaps, missing = [], 0
    for seed in range(4):
        images, structures = generate_patients(np.random.default_rng(seed), 3)
        assert len(images) == 3 and all(image.shape == (256, 256, 3) for image in images)
        for masks in structures:
            assert len(masks) == 3
            if masks[0].sum() < 400:
                continue
            for mask in masks[1:]:
                missing += not mask.any()
                if mask.any():
                    both = masks[0].sum() + mask.sum()
                    overlaps.append(2 * (masks[0] & mask).sum() / both)
    assert missing
    assert 0.2 < np.mean(overlaps) < 0.9  # near where it was, and never the same


def test_samples_have_every_structure_in_the_first_patient():
    stream = iter(PatientViews(SIZE, 4, seed=1))
    absent = 0
    for _ in range(4):
        view = next(stream)
        assert view.image.shape == (4, SIZE, SIZE, 3) and view.image.dtype == np.uint8
        assert view.masks.shape[1:] == (4, SIZE, SIZE) and set(np.unique(view.masks)) <= {0, 1}
        assert view.masks[:, 0].any((1, 2)).all()
        absent += int((~view.masks[:, 1:].any((2, 3))).sum())
    assert absent
    again = next(iter(PatientViews(SIZE, 4, seed=1)))
    np.testing.assert_array_equal(again.image, next(iter(PatientViews(SIZE, 4, seed=1))).image)


def test_memory_learns_from_it():
    """The loss of one sample goes down, by the memory's own parameters."""
    torch.manual_seed(0)
    net = network.build(network.NANO, SIZE).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(("memory_attention", "memory_encoder", "sam_mask_decoder")))
    view = next(iter(PatientViews(SIZE, 3, seed=2)))
    images, masks = torch.from_numpy(view.image)[None], torch.from_numpy(view.masks)[None]
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        loss = patients_loss(net, images, masks, 0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.memory_attention.parameters())
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
