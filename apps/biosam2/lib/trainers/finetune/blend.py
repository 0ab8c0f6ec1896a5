"""Between the weights before and after tuning: most of what was learnt, little of what was forgotten.

"Robust fine-tuning of zero-shot models" (Wortsman et al., arXiv 2109.01903).
"""

from __future__ import annotations

from pathlib import Path

from lib.sam.checkpoints import load_network, save_checkpoint

SHARES = (1.0, 0.7, 0.5, 0.3)
"""How far to go from the weights before to those after, tried in this order."""


def blend(before: Path, after: Path, share: float, out: Path) -> Path:
    """Write the checkpoint that lies between two of the same architecture; returns its path.

    Parameters
    ----------
    share : float
        0 is `before`, 1 is `after`.
    """
    (checkpoint, start), (_, end) = load_network(before), load_network(after)
    learnt = end.state_dict()
    weights = {
        name: value.lerp(learnt[name], share) if value.dtype.is_floating_point else learnt[name]
        for name, value in start.state_dict().items()
    }
    save_checkpoint(out, weights, checkpoint.architecture)
    return out
