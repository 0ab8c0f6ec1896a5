"""Signatures of embeddings, and the cache that keeps them within its budget."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from lib.sam.embeddings import Embedding, EmbeddingCache, signature

UNIT = 400  # bytes of `_embedding(key)`


def _embedding(key: str, units: int = 1) -> Embedding:
    return Embedding((torch.zeros(1, 1, 10, 5 * units), torch.zeros(1, 1, 10, 5 * units)), key)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20), np.uint8)


def test_the_same_pixels_have_the_same_signature_wherever_they_lie_in_memory(pixels):
    assert signature(pixels, "v1", 512) == signature(np.asfortranarray(pixels), "v1", 512)
    assert signature(pixels, "v1", 512) == signature(np.repeat(pixels, 2, 0)[::2], "v1", 512)


def test_one_gray_value_changes_the_signature(pixels):
    other = pixels.copy()
    other[3, 4] ^= 1
    assert signature(pixels) != signature(other)


def test_the_same_bytes_in_another_shape_have_another_signature(pixels):
    assert signature(pixels) != signature(pixels.reshape(20, 12))
    assert signature(pixels) != signature(pixels.T)


def test_another_checkpoint_or_input_size_has_another_signature(pixels):
    found = {signature(pixels, *context) for context in [("v1", 512), ("v2", 512), ("v1", 1024), ()]}
    assert len(found) == 4


def test_an_embedding_counts_the_bytes_of_all_its_levels():
    assert _embedding("a").nbytes == UNIT


def test_the_least_recently_used_embedding_goes_first():
    cache = EmbeddingCache(3 * UNIT)
    for key in "abc":
        cache.put(_embedding(key))
    cache.get("a")
    cache.put(_embedding("d"))
    assert cache.get("b") is None
    assert all(cache.get(key) is not None for key in "acd")


def test_the_cache_never_holds_more_bytes_than_its_budget():
    cache = EmbeddingCache(5 * UNIT)
    for number in range(20):
        cache.put(_embedding(str(number), 1 + number % 3))
        assert cache.nbytes <= cache.max_bytes
        assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())


def test_an_embedding_larger_than_the_budget_is_not_kept_and_pushes_nothing_out():
    cache = EmbeddingCache(2 * UNIT)
    cache.put(_embedding("a"))
    cache.put(_embedding("large", 3))
    assert cache.get("large") is None
    assert cache.get("a") is not None


def test_an_embedding_put_again_counts_once():
    cache = EmbeddingCache(3 * UNIT)
    for _ in range(5):
        cache.put(_embedding("a"))
    assert (len(cache), cache.nbytes) == (1, UNIT)


def test_a_budget_of_nothing_keeps_nothing():
    cache = EmbeddingCache(0)
    cache.put(_embedding("a"))
    assert (len(cache), cache.nbytes) == (0, 0)


def test_a_cleared_cache_is_empty():
    cache = EmbeddingCache(3 * UNIT)
    cache.put(_embedding("a"))
    cache.clear()
    assert (len(cache), cache.nbytes, cache.get("a")) == (0, 0, None)


def test_many_threads_leave_the_cache_consistent():
    cache = EmbeddingCache(7 * UNIT)
    entries = {str(n): _embedding(str(n), 1 + n % 3) for n in range(12)}
    wrong: list[object] = []

    def hammer(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for key in rng.integers(0, 12, 400).astype(str):
                if rng.random() < 0.5:
                    cache.put(entries[key])
                elif (found := cache.get(key)) is not None and found is not entries[key]:
                    wrong.append(key)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values()) <= cache.max_bytes
