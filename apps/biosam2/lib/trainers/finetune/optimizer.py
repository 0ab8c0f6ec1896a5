"""Two optimisers as one: matrices by Muon, everything else by AdamW.

The embedded network was trained that way (`lib.trainers.pretrain.Run`), and tuning it on with AdamW alone
unlearns more than it learns. Published checkpoints were trained with AdamW, and stay with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from lib.trainers.muon import Muon


class MuonAndAdamW(Optimizer):
    """`lib.trainers.muon.Muon` for parameters with two dimensions that are no embeddings, AdamW for the rest.

    Parameters
    ----------
    groups : list of dict
        As for any optimiser; `lr` is that of AdamW, which Muon's steps are matched to.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for group in groups:
            for part, is_matrix in zip(parts, (True, False), strict=True):
                chosen = [p for p in group["params"] if (p.ndim == 2) == is_matrix]
                if chosen:
                    part.append({**group, "params": chosen})
        self._parts: list[Optimizer] = []
        if parts[0]:
            self._parts.append(Muon(parts[0]))
        if parts[1]:
            self._parts.append(AdamW(parts[1]))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        # the very same objects, so that a schedule that changes a rate here changes it there
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none)

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, known in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(known)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
