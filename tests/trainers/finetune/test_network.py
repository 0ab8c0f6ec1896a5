"""Which parts learn, how fast, and what is kept of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lib.prompts.prompts import SlicePrompts
from lib.sam import network
from lib.sam.checkpoints import Checkpoint
from lib.sam.model import Model
from lib.sam.segment import segment
from lib.trainers.finetune import network as finetune
from lib.trainers.finetune import samples
from lib.trainers.finetune.network import OWN_RATE, Average, Trainable
from lib.trainers.finetune.samples import Samples
from lib.trainers.finetune.settings import TrainSettings

from .conftest import SIZE, SMALL, scan

PUBLISHED_LIKE = replace(SMALL, draws_prompts=False)  # SAM 2.1 does not see its prompts drawn


@pytest.fixture
def make() -> Callable[..., Trainable]:
    """A network with the same weights every time."""

    def make(architecture: network.Architecture = SMALL, **chosen: Any) -> Trainable:
        torch.manual_seed(1)
        built = network.build(architecture)
        return Trainable(built, architecture.draws_prompts, TrainSettings(**chosen)).train()

    return make


@pytest.fixture
def shown(cached, monkeypatch) -> list[dict[str, Any]]:
    """A slice and a clip."""
    monkeypatch.setattr(samples, "REHEARSED", 0.0)
    drawn = Samples([cached(*scan(count=2))], SIZE, 0.5, 0, range(20))
    found: dict[int, dict[str, Any]] = {}
    for place in range(20):
        sample = drawn[place]
        found.setdefault(sample["images"].ndim, sample)
    return [found[3], found[4]]


def learn(trained: Trainable, shown: list[dict[str, Any]], steps: int = 2) -> list[float]:
    """A few steps on all samples; the losses."""
    optimizer = trained.optimizer()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(trained(sample) for sample in shown)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def weights(trained: Trainable) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.network.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the network with a value that is not bit for bit what it was."""
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_image_encoder_and_mask_decoder_learn_and_nothing_else(make, shown):
    trained = make()
    before = weights(trained)
    learn(trained, shown)
    assert changed(before, weights(trained)) == {"image_encoder", "sam_mask_decoder"}


def test_the_memory_learns_on_request(make, shown):
    trained = make(memory=True)
    before = weights(trained)
    learn(trained, shown)
    found = changed(before, weights(trained))
    assert {"image_encoder", "sam_mask_decoder", "memory_attention", "memory_encoder"} <= found
    assert "obj_ptr_proj" in found and not found & {"sam_prompt_encoder", "mask_downsample"}


def test_loras_additions_learn_and_nothing_else(make, shown):
    trained = make(lora=True)
    assert all(".lora_" in name for name, _ in trained.learning())
    plain = sum(p.numel() for _, p in make().learning())
    assert 0 < sum(p.numel() for _, p in trained.learning()) < plain / 2
    parts = {name.split(".")[0] for name, _ in trained.learning()}
    assert parts == {"image_encoder", "sam_mask_decoder"}
    with_memory = {name.split(".")[0] for name, _ in make(lora=True, memory=True).learning()}
    assert {"memory_attention", "memory_encoder"} <= with_memory
    before = weights(trained)
    learn(trained, shown)
    after = weights(trained)
    still = [name for name in before if ".lora_" not in name]
    assert all(torch.equal(before[name], after[name]) for name in still)
    assert changed(before, after) == {"image_encoder", "sam_mask_decoder"}


def test_lora_begins_as_the_network_without(make, shown):
    with torch.no_grad():
        for sample in shown:
            assert float(make(lora=True)(sample)) == pytest.approx(float(make()(sample)), rel=1e-5)


def test_lora_begins_the_same_for_the_same_seed(make):
    torch.manual_seed(99)
    one, other = make(lora=True, seed=5), make(lora=True, seed=5)
    assert not changed(weights(one), weights(other))
    assert changed(weights(one), weights(make(lora=True, seed=6)))


def answer(net: torch.nn.Module) -> np.ndarray:
    """What the app makes of a box on a slice: the mask's logits as probabilities."""
    plane = np.random.default_rng(0).integers(0, 255, (50, 40)).astype(np.uint8)
    box = SlicePrompts(np.zeros((0, 2)), np.zeros(0, bool), ((10.0, 10.0), (30.0, 25.0)), None)
    model = Model(net.eval(), Checkpoint("random", "0", SMALL), "cpu", 1 << 26)
    return segment(model, plane, box, False).logits


def test_loras_additions_are_added_in(make, shown):
    trained = make(lora=True, learning_rate=0.01)
    learn(trained, shown, 3)
    with torch.no_grad():
        trained.eval()
        features = trained.network.forward_image(torch.ones(1, 3, SIZE, SIZE))["backbone_fpn"]
        losses = [float(trained(sample)) for sample in shown]
    plain = make()
    expected = plain.network.state_dict()
    with torch.no_grad():
        untouched = plain.network.forward_image(torch.ones(1, 3, SIZE, SIZE))["backbone_fpn"]
    merged = trained.plain_weights()
    assert list(merged) == list(expected)
    assert all(merged[name].shape == expected[name].shape for name in expected)
    plain.network.load_state_dict(merged)
    plain.eval()
    with torch.no_grad():
        after = plain.network.forward_image(torch.ones(1, 3, SIZE, SIZE))["backbone_fpn"]
        for sample, loss in zip(shown, losses, strict=True):
            assert float(plain(sample)) == pytest.approx(loss, rel=1e-4)
    for one, other, begin in zip(after, features, untouched, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert not torch.allclose(one, begin, atol=1e-3)  # there was something to add


def test_weights_without_lora_are_those_of_the_network(make):
    trained = make()
    assert list(trained.plain_weights()) == list(network.build(SMALL).state_dict())


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_changes_no_gradient(make, shown, lora: bool):
    for sample in shown:
        found = []
        for checkpointed in (False, True):
            trained = make(gradient_checkpointing=checkpointed, lora=lora)
            loss = trained(sample)
            loss.backward()
            grads = {name: p.grad for name, p in trained.learning() if p.grad is not None}
            found.append((float(loss.detach()), grads))
        (loss, grads), (again, grads_again) = found
        assert loss == pytest.approx(again, rel=1e-6) and grads.keys() == grads_again.keys()
        assert all(torch.allclose(grads[name], grads_again[name], atol=1e-6) for name in grads)


def test_checkpointing_computes_the_blocks_again(make, shown):
    calls = []
    trained = make(gradient_checkpointing=True)
    trained.network.image_encoder.trunk.blocks[3].attn.register_forward_hook(lambda *_: calls.append(1))
    trained(shown[0]).backward()
    assert len(calls) == 2


def test_the_same_seed_is_the_same_loss(make, shown):
    trained = make().eval()
    with torch.no_grad():
        for sample in shown:
            torch.manual_seed(1)
            one = float(trained(sample))
            torch.manual_seed(2)
            assert float(trained(sample)) == one  # the prompts have their own random numbers
            assert float(trained({**sample, "seed": sample["seed"] + 1})) != one


def test_a_loss_disturbs_no_other_random_numbers(make, shown):
    trained = make()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    trained(shown[0])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("chosen", [{}, {"memory": True}, {"lora": True}])
@pytest.mark.parametrize("architecture", [SMALL, PUBLISHED_LIKE])
def test_rates_fall_with_depth_and_all_have_one(make, chosen: dict, architecture, monkeypatch):
    monkeypatch.setattr(finetune, "OWN_LAYER_DECAY", finetune.LAYER_DECAY)
    trained = make(architecture, learning_rate=1e-3, **chosen)
    groups = trained.groups()
    given = [id(p) for group in groups for p in group["params"]]
    learning = dict(trained.learning())
    assert sorted(given) == sorted(id(p) for p in learning.values())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    by_block = []
    for block in range(10):
        rates = {rate[id(p)] for n, p in learning.items() if f"trunk.blocks.{block}." in n}
        assert len(rates) == 1
        by_block += rates
    assert all(np.diff(by_block) > 0)
    assert by_block[-1] == pytest.approx(1e-3 * finetune.LAYER_DECAY)
    for name, parameter in learning.items():
        if name.startswith("sam_mask_decoder") or ".neck." in name or "memory" in name:
            assert rate[id(parameter)] == 1e-3
        if "pos_embed" in name or "patch_embed" in name:
            assert rate[id(parameter)] < by_block[0]
        is_matrix = parameter.ndim > 1 and "embed" not in name
        assert decay[id(parameter)] == (finetune.WEIGHT_DECAY if is_matrix else 0)


def test_rates_of_a_network_that_was_trained_here(make):
    """The same in all layers."""
    assert {group["lr"] for group in make(learning_rate=1e-3).groups()} == {1e-3}


def test_the_checkpoint_chooses_the_rate(make):
    for architecture, rate in ((SMALL, finetune.OWN_RATE), (PUBLISHED_LIKE, finetune.PUBLISHED_RATE)):
        assert max(group["lr"] for group in make(architecture).groups()) == rate
        assert max(group["lr"] for group in make(architecture, learning_rate=2e-5).groups()) == 2e-5


@pytest.mark.parametrize("architecture", [SMALL, PUBLISHED_LIKE])
@pytest.mark.parametrize("lora", [False, True])
def test_the_optimiser_has_every_parameter_once(make, architecture, lora: bool):
    trained = make(architecture, lora=lora)
    optimizer = trained.optimizer()
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for _, p in trained.learning())


def test_matrices_are_muons(make, shown):
    trained = make()
    optimizer = trained.optimizer()
    muon, adam = optimizer._parts
    assert isinstance(muon, torch.optim.Muon) and isinstance(adam, torch.optim.AdamW)
    assert {p.ndim for group in muon.param_groups for p in group["params"]} == {2}
    assert 2 not in {p.ndim for group in adam.param_groups for p in group["params"]}
    assert type(make(PUBLISHED_LIKE).optimizer()) is torch.optim.AdamW
    before = weights(trained)
    trained(shown[0]).backward()
    # a schedule changes the rates of both; a rate of 0 is no step, and nothing decays
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert not changed(before, weights(trained))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    optimizer.step()
    after = weights(trained)
    assert changed(before, after) == {"image_encoder", "sam_mask_decoder"}
    optimizer.zero_grad()
    assert all(p.grad is None for _, p in trained.learning())
    optimizer.step()  # without a gradient, as after one that was not finite, nothing moves
    assert not changed(after, weights(trained))


def test_the_optimiser_is_gone_on_with(make, shown):
    """And its rates are still those that a schedule changes."""
    trained, other = make(), make()
    optimizer, again = trained.optimizer(), other.optimizer()
    trained(shown[0]).backward()
    optimizer.step()
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.network.load_state_dict(weights(trained))
    schedule = torch.optim.lr_scheduler.LambdaLR(again, lambda step: 0.5)
    assert {group["lr"] for part in again._parts for group in part.param_groups} == {0.5 * OWN_RATE}
    del schedule
    for group in again.param_groups:
        group["lr"] = OWN_RATE
    for network_, steps in ((trained, optimizer), (other, again)):
        steps.zero_grad()
        network_(shown[0]).backward()
        steps.step()
    assert not changed(weights(trained), weights(other))


def test_the_two_losses(make, shown):
    for sample in shown:
        with torch.no_grad():
            one, other = (float(make(loss=loss)(sample)) for loss in ("dice_bce", "focal"))
        assert np.isfinite([one, other]).all() and one != other


@pytest.mark.parametrize("loss", ["dice_bce", "focal"])
def test_a_network_that_does_not_draw_its_prompts_learns_as_well(make, shown, loss: str):
    trained = make(PUBLISHED_LIKE, loss=loss)
    assert not trained.draws
    before = weights(trained)
    assert np.isfinite(learn(trained, shown)).all()
    assert changed(before, weights(trained)) == {"image_encoder", "sam_mask_decoder"}


def test_drawn_prompts_matter(make, shown):
    with torch.no_grad():
        drawn, plain = (float(make(a).eval()(shown[0])) for a in (SMALL, PUBLISHED_LIKE))
    assert drawn != plain


def test_steps_lower_the_loss(make, shown):
    for sample in shown:
        losses = learn(make(learning_rate=1e-3), [sample], 8)
        assert min(losses[-3:]) < 0.95 * losses[0]


def test_the_average_of_few_steps_is_near_where_they_lead(make):
    """And not where they came from."""
    trained = make()
    names = [name for name, _ in trained.learning()]
    average = Average(trained)
    begin = weights(trained)
    for _ in range(12):
        with torch.no_grad():
            for _, parameter in trained.learning():
                parameter += 1
        average.update()
    average.put_in_place()
    found = weights(trained)
    moved = float((found[names[0]] - begin[names[0]]).mean())
    assert 9.5 < moved < 11.9
    frozen = [name for name in begin if name not in names]
    assert all(torch.equal(found[name], begin[name]) for name in frozen)


def test_the_average_of_many_steps_is_that_of_the_last_ones(make, monkeypatch):
    monkeypatch.setattr(finetune, "EMA", 0.9)
    trained = make()
    _, parameter = next(iter(trained.learning()))
    average = Average(trained)
    with torch.no_grad():
        parameter.fill_(0)
        for _ in range(100):
            average.update()
        parameter.fill_(1)
        for _ in range(12):
            average.update()
    average.put_in_place()
    assert float(parameter.flatten()[0]) == pytest.approx(1 - 0.9**12, abs=1e-3)


def test_an_average_is_gone_on_with(make):
    trained, other = make(), make()
    average, again = Average(trained), Average(other)
    with torch.no_grad():
        for parameter in (p for _, p in trained.learning()):
            average.update()
            parameter += 1
            break
    average.update()
    again.load_state_dict(average.state_dict())
    with torch.no_grad():
        for (_, one), (_, two) in zip(trained.learning(), other.learning(), strict=True):
            two.copy_(one)
    for each in (average, again):
        each.update()
        each.put_in_place()
    assert not changed(weights(trained), weights(other))
