"""A small network with fixed random weights: enough for everything but the quality of a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.prompts.prompts import SlicePrompts
from lib.sam import network
from lib.sam.checkpoints import Checkpoint
from lib.sam.model import Model

SIZE = 64


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Networks this small lose more to threads waiting for each other than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def small_network(_one_thread):
    torch.manual_seed(1)
    net = network.build(network.NANO, SIZE)
    # weights at random may find nothing anywhere; here something is always found
    net.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10.0)
    return net


@pytest.fixture
def model(small_network) -> Model:
    """A model with an empty cache."""
    return Model(small_network, Checkpoint("random", "0", network.NANO), "cpu", 1 << 28)


@pytest.fixture
def prompts():
    """Make the prompts of a slice: clicks (a, b), which of them are positive, a box, a mask."""

    def make(points=(), positive=(), box=None, mask=None) -> SlicePrompts:
        return SlicePrompts(np.array(points, float).reshape(-1, 2), np.array(positive, bool), box, mask)

    return make
