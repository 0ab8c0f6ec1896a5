"""The server's masks in JSON: run lengths inside a box, row by row.

`{"size": [W, H], "bbox": [x0, y0, w, h], "counts": [n0, n1, ...]}`: zeros first, then ones, and so on, over
the box alone, x fastest. A mask without a pixel has the box [0, 0, 0, 0] and no counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biosam2_cvat.errors import BadRequest, BioSAM2Error

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]


def box_of(mask: Mask) -> Box | None:
    """Where the mask has pixels: (x0, y0, x1, y1), x1 and y1 just behind the last; None if it has none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def encode_runs(flat: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of zeros, ones, zeros, ... in it; the first is 0 where it begins with a one."""
    if not flat.size:
        return []
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def decode_runs(counts: Sequence[int], size: int) -> NDArray[np.bool_]:
    """The other way round: `size` values.

    Raises
    ------
    BadRequest
        If the lengths are negative, no numbers, or have another sum than `size`.
    """
    try:
        lengths = np.asarray(counts, dtype=np.int64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise BadRequest("a mask's run lengths are not whole numbers.") from None
    if (lengths < 0).any() or int(lengths.sum()) != size:
        raise BadRequest(f"a mask's run lengths do not fill its box of {size} pixels.")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def encode(mask: Mask) -> dict[str, Any]:
    """Mask (H, W) to the server's JSON."""
    height, width = mask.shape
    box = box_of(mask)
    if box is None:
        return {"size": [width, height], "bbox": [0, 0, 0, 0], "counts": []}
    x0, y0, x1, y1 = box
    counts = encode_runs(mask[y0:y1, x0:x1].ravel())
    return {"size": [width, height], "bbox": [x0, y0, x1 - x0, y1 - y0], "counts": counts}


def decode(answer: Mapping[str, Any]) -> Mask:
    """The server's JSON to a mask (H, W).

    Raises
    ------
    BioSAM2Error
        If it is none.
    """
    try:
        width, height = map(int, answer["size"])
        x0, y0, box_width, box_height = map(int, answer["bbox"])
        mask = np.zeros((height, width), dtype=bool)
        inside = mask[y0 : y0 + box_height, x0 : x0 + box_width]
        inside[...] = decode_runs(answer["counts"], box_width * box_height).reshape(box_height, box_width)
    except (KeyError, TypeError, ValueError, BadRequest) as error:
        raise BioSAM2Error(
            f"the BioSAM-2 server's answer holds no mask that can be read: {error}", 502
        ) from None
    return mask
