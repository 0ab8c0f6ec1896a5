"""The table of an evaluation's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib.evaluation.table import Key, Row, Table

__all__ = ["COLUMNS", "CURVES", "FIGURES", "KEY", "SECONDS", "Key", "Results", "Row", "key_of"]

KEY = ("version", "pipeline", "protocol", "data", "case", "structure", "slices", "prompts")
"""What names a row: the weights, how they were asked, and what about."""

FIGURES = ("dice", "nsd", "iou", "noc85", "noc90", "auc_dice", "auc_nsd", "absence")
SECONDS = ("seconds_first", "seconds")
CURVES = ("dice_after", "nsd_after", "dice_along")
"""Numbers separated by spaces: after each answer; on each slice from the structure's first to its last."""

COLUMNS = ("model", *KEY, *FIGURES, *SECONDS, *CURVES)


def key_of(row: Mapping[str, str]) -> Key:
    """What tells a row from all others."""
    return tuple(row[name] for name in KEY)


class Results(Table):
    """The rows of an evaluation; see `Table`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, COLUMNS, KEY)
