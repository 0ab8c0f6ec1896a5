"""Training from scratch: it learns, it can be stopped and resumed, and the memory modules get their share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lib.sam import network
from lib.trainers import pretrain
from lib.trainers.clips import clip_loss

TINY = replace(network.NANO, embed_dim=32, stages=(1, 1, 2, 1), global_att_blocks=(3,), image_size=64)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images with a bright disc each, and the discs."""
    y, x = np.mgrid[:64, :64]
    masks = np.stack([np.hypot(y - 24, x - 20) < 12, np.hypot(y - 40, x - 38) < 16])
    images = np.repeat((40 + 160 * masks)[..., None], 3, -1).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(masks[:, None].astype(np.uint8))


def _run(folder, steps: int = 40) -> pretrain.Run:
    torch.manual_seed(0)
    net = network.build(TINY)
    pretrain.point_where_prompts_point(net)
    return pretrain.Run(net, folder, pretrain.Schedule(steps, rate=2e-3, warmup=1, cooldown=1))


def test_the_loss_of_a_batch_falls(tmp_path, batch):
    run = _run(tmp_path)
    losses = []
    run.network.train()
    for _ in range(25):
        loss = pretrain.image_loss(run.network, *batch, balance=0.5, corrections=1)
        run.update(loss)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_a_stopped_run_goes_on_from_its_last_state(tmp_path, batch):
    run = _run(tmp_path)

    def loss_of(net, images, masks, step):
        return pretrain.image_loss(net, images, masks, 0.5, 0)

    run.schedule = pretrain.Schedule(3, rate=1e-3, warmup=1, cooldown=1)
    pretrain.train(run, [batch] * 10, loss_of)
    again = _run(tmp_path)
    assert again.resume()
    assert again.step == 3
    for one, other in zip(
        run.network.state_dict().values(), again.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_is_skipped(tmp_path):
    run = _run(tmp_path)
    before = {k: v.clone() for k, v in run.network.state_dict().items()}
    assert not run.update(run.network.no_mem_embed.sum() * float("nan"))
    assert run.step == 0
    assert all(torch.equal(v, before[k]) for k, v in run.network.state_dict().items())


def _train_in_a_process(rank: int, world: int, folder) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    run = _run(folder / str(rank))
    weight = run.network.no_mem_embed
    first = weight.detach().clone()
    run.update((weight * (1.0 if rank == 0 else -3.0)).sum())
    torch.save([first, weight.detach(), run.network.no_mem_pos_enc.grad], folder / f"{rank}.pt")
    stop = pretrain._agreed(rank == 1)
    run.save()
    assert stop and run.path.exists() == (rank == 0)
    dist.destroy_process_group()


def test_processes_make_the_same_step_on_the_mean_of_their_gradients(tmp_path):
    torch.multiprocessing.spawn(_train_in_a_process, (2, tmp_path), nprocs=2)
    (first, one, unused), (_, other, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(one, other)
    assert (one > first).all()  # the mean gradient is -1: each alone would not agree on the way
    assert not unused.any()


def test_clips_teach_the_memory_and_the_object_score(batch):
    torch.manual_seed(1)
    net = network.build(TINY).train()
    images = batch[0].unsqueeze(1).expand(-1, 3, *batch[0].shape[1:])
    masks = batch[1].unsqueeze(2).repeat(1, 1, 3, 1, 1)
    masks[0, 0, 1] = 0  # hidden on one slice
    touched = set()
    for _ in range(6):  # every kind of first prompt
        net.zero_grad()
        loss = clip_loss(net, images, masks, 0.5)
        loss.backward()
        assert torch.isfinite(loss)
        touched |= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("memory_attention", "memory_encoder", "obj_ptr_proj", "maskmem_tpos_enc", "pred_obj_score"):
        assert any(part in name for name in touched), part
    assert "no_obj_ptr" in touched
