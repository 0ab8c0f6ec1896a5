"""Masks as run lengths: exact, both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib.errors import UserError
from lib.imaging.runs import decode, encode

SIZE = (23, 17)
GOOD = {"size": [23, 17], "bbox": [2, 3, 4, 2], "counts": [1, 2, 5]}


def _plainly(runs: dict) -> np.ndarray:
    """The contract, pixel by pixel."""
    mask = np.zeros(runs["size"], bool)
    x0, y0, w, h = runs["bbox"]
    values = [n % 2 == 1 for n, count in enumerate(runs["counts"]) for _ in range(count)]
    assert len(values) == w * h
    for n, value in enumerate(values):
        mask[x0 + n % w, y0 + n // w] = value
    return mask


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("size", [SIZE, (1, 40), (40, 1), (64, 48), (1, 1)], ids=str)
def test_a_mask_comes_back_as_it_was(size, share):
    for seed in range(20):
        mask = np.random.default_rng(seed).random(size) < share
        sent = json.loads(json.dumps(encode(mask)))
        assert np.array_equal(decode(sent, size), mask)
        assert np.array_equal(_plainly(sent), mask)


def test_rows_come_one_after_the_other():
    mask = np.zeros(SIZE, bool)
    mask[5:9, 3] = mask[5, 4] = mask[8, 4] = True
    assert encode(mask) == {"size": [23, 17], "bbox": [5, 3, 4, 2], "counts": [0, 5, 2, 1]}


def test_the_first_run_is_of_zeros():
    mask = np.zeros(SIZE, bool)
    mask[6, 3] = mask[5, 4] = True
    assert encode(mask)["counts"] == [1, 2, 1]


def test_an_empty_mask_has_no_runs():
    empty = {"size": [23, 17], "bbox": [0, 0, 0, 0], "counts": []}
    assert encode(np.zeros(SIZE, bool)) == empty
    assert not decode(empty, SIZE).any()


def test_a_full_mask_is_one_run():
    assert encode(np.ones(SIZE, bool)) == {"size": [23, 17], "bbox": [0, 0, 23, 17], "counts": [0, 391]}


@pytest.mark.parametrize("pixel", [(0, 0), (22, 16), (0, 16), (7, 9)])
def test_one_pixel_is_where_it_was(pixel):
    mask = np.zeros(SIZE, bool)
    mask[pixel] = True
    assert encode(mask) == {"size": [23, 17], "bbox": [*pixel, 1, 1], "counts": [0, 1]}
    assert np.array_equal(decode(encode(mask), SIZE), mask)


def test_a_rectangle_may_be_larger_than_need_be():
    assert decode(GOOD, SIZE).nonzero()[0].tolist() == [3, 4]
    assert decode(GOOD, SIZE).nonzero()[1].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": [17, 23]}, r"mask.size \[17, 23\] is not that of the picture, \[23, 17\]"),
        ({"size": [23]}, "mask.size must be 2 numbers, not 1"),
        ({"size": "23x17"}, "mask.size must be a list of whole numbers"),
        ({"bbox": [20, 3, 4, 2]}, r"mask.bbox \[20, 3, 4, 2\] is not inside the picture of 23 x 17 pixels"),
        ({"bbox": [-1, 3, 4, 2]}, r"mask.bbox must be a list of whole numbers from 0, not \[-1, 3, 4, 2\]"),
        ({"bbox": [2.5, 3, 4, 2]}, "mask.bbox must be a list of whole numbers"),
        ({"bbox": [2, 3, 4, float("nan")]}, "mask.bbox must be a list of whole numbers"),
        ({"bbox": None}, "mask.bbox must be a list of whole numbers"),
        ({"counts": [1, 2, 4]}, "mask.counts must be 8 pixels in all"),
        ({"counts": []}, "mask.counts must be 8 pixels in all"),
        ({"counts": [1, -2, 9]}, "mask.counts must be a list of whole numbers"),
        ({"counts": [1, 0, 7]}, "mask.counts has an empty run"),
        ({"counts": [10**30]}, "mask.counts must be a list of whole numbers"),
        ({"counts": [2**62, 2**62, 2**62, 2**62, 8]}, "mask.counts must be a list of whole numbers"),
        ({"counts": [[1, 2], [3]]}, "mask.counts must be a list of whole numbers"),
        ({"counts": ["1", "2", "5"]}, "mask.counts must be a list of whole numbers"),
        ({"counts": {"0": 8}}, "mask.counts must be a list of whole numbers"),
        ({"more": 1}, "must have the lists size, bbox and counts and nothing else"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    with pytest.raises(UserError, match=words):
        decode({**GOOD, **change}, SIZE)


@pytest.mark.parametrize("value", [None, [], "runs", 5, {"size": [23, 17]}])
def test_what_is_no_mask_at_all_is_refused(value):
    with pytest.raises(UserError, match="objects.0..mask must have the lists size, bbox and counts"):
        decode(value, SIZE, "objects[0].mask")
