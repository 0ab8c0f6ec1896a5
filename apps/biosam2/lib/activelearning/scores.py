"""What is known of an image that nobody has labelled yet, as it lies in the datastore's info of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INFO = "biosam2"  # key in the datastore's info of an image
LONGEST = 4096  # numbers of an embedding


@dataclass(frozen=True)
class StructureScore:
    """One structure of one image.

    Attributes
    ----------
    uncertainty : float
        0 (sure) to 1.
    present : float
        How likely the structure is there at all, 0 to 1.
    """

    uncertainty: float
    present: float


@dataclass(frozen=True, eq=False)
class CaseScore:
    """One image.

    Attributes
    ----------
    key : str
        Names the model and the labels that it was made with: another one now means that it is out of date.
    embedding : ndarray float32 (D,)
        Of length 1: the pooled features of the image.
    structures : dict of str to StructureScore
        By name; empty while the server has no label to find structures with.
    """

    key: str
    embedding: np.ndarray
    structures: Mapping[str, StructureScore]

    def to_info(self) -> dict[str, Any]:
        """As JSON for the datastore's info; half precision is enough for distances."""
        vector = np.asarray(self.embedding, "<f2")
        return {
            "key": self.key,
            "embedding": base64.b64encode(vector.tobytes()).decode(),
            "structures": {
                name: {"uncertainty": round(s.uncertainty, 4), "present": round(s.present, 4)}
                for name, s in self.structures.items()
            },
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> CaseScore | None:
        """What `to_info` wrote, from the whole info of an image; None if there is none or it is damaged."""
        try:
            told = info[INFO]
            vector = np.frombuffer(base64.b64decode(told["embedding"], validate=True), "<f2")
            if not 0 < len(vector) <= LONGEST or not np.isfinite(vector).all():
                return None
            scores = {
                str(name): StructureScore(_share(s["uncertainty"]), _share(s["present"]))
                for name, s in told["structures"].items()
            }
            return cls(str(told["key"]), vector.astype(np.float32), scores)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
            return None


def _share(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is not between 0 and 1")
    return number
