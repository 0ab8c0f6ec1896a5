"""Muon, whose products are fast on any CPU: matrices get orthogonalised updates (Jordan et al. 2024).

torch's own multiplies in bfloat16. A CPU without instructions for that emulates it: on one with AVX2 a step
of the embedded network takes 15 s there and half a second in single precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with its learning rate matched to AdamW's; on a CPU in single precision.

    State and parameter groups are torch's, so that a state saved by the one is read by the other.

    Parameters
    ----------
    params : iterable
        Of parameters with two dimensions, or groups of such.
    lr, weight_decay : float
    """

    def __init__(self, params, lr: float = 1e-3, weight_decay: float = 0.1) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        parameters = [(p, group) for group in self.param_groups for p in group["params"]]
        if any(parameter.device.type != "cpu" for parameter, _ in parameters):
            super().step()
            return
        for parameter, group in parameters:
            if parameter.grad is not None:
                self._move(parameter, group)

    def _move(self, parameter: torch.Tensor, group: dict) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = state["momentum_buffer"]
        if group["nesterov"]:
            update = parameter.grad.lerp(update, group["momentum"])
        rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5  # as large as AdamW's (arXiv 2502.16982)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        moved = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.add_(moved, alpha=-rate)


def orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, tiny: float
) -> torch.Tensor:
    """About the orthogonal matrix nearest to one: its singular values become 0.7 to 1.2 (Newton-Schulz).

    Parameters
    ----------
    matrix : Tensor float32 (M, N)
    coefficients : of the quintic iteration, see `torch.optim.Muon`
    steps : int
    tiny : float
        The least norm that the matrix is divided by.

    Returns
    -------
    Tensor float32 (M, N)
    """
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=tiny)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
