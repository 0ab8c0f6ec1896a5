"""Distances to the nearest centre, kept up through any changes."""

from __future__ import annotations

import numpy as np
import pytest

from lib.activelearning.distances import Distances

LENGTH = 6


def embeddings(rng: np.random.Generator, count: int, length: int = LENGTH) -> np.ndarray:
    vectors = rng.normal(size=(count, length)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_after_any_changes_the_distances_are_those_that_counting_anew_gives():
    rng = np.random.default_rng(0)
    distances = Distances()
    distances.begin(LENGTH)
    distances.resize(30)
    vectors: dict[int, np.ndarray] = {}
    centres: set[int] = set()
    for _ in range(400):
        row, what = int(rng.integers(30)), rng.integers(5)
        if what == 0:
            rows = rng.choice(30, 4, replace=False)
            put = embeddings(rng, 4)
            distances.put(rows, put)
            vectors.update(zip(rows.tolist(), put, strict=True))
        elif what == 1:
            distances.forget(row)
            vectors.pop(row, None)
            centres.discard(row)
        elif what == 2:
            distances.drop(row)
            centres.discard(row)
        else:
            distances.add(row)
            centres.add(row)
        known = [vectors[centre] for centre in centres if centre in vectors]
        for row in range(30):
            assert distances.known[row] == (row in vectors)
            if row in vectors and known:
                nearest = min(np.linalg.norm(vectors[row] - centre) for centre in known)
                assert distances.near[row] == pytest.approx(nearest, abs=2e-3)
            else:
                assert distances.near[row] == np.inf


def test_how_alone_a_row_is_among_others():
    rng = np.random.default_rng(1)
    distances = Distances()
    distances.begin(LENGTH)
    distances.resize(40)
    vectors = embeddings(rng, 40)
    distances.put(np.arange(40), vectors)
    rows = np.arange(10, 40)
    found = distances.alone(rows)
    for k, row in enumerate(rows):
        apart = sorted(np.linalg.norm(vectors[row] - vectors[other]) for other in rows if other != row)
        assert found[k] == pytest.approx(np.mean(apart[:3]), abs=2e-3)
    few = np.linalg.norm(vectors[4] - vectors[5])
    np.testing.assert_allclose(distances.alone(np.array([4, 5])), [few, few], atol=2e-3)
    assert distances.alone(np.array([4])).tolist() == [0] and not len(distances.alone(np.array([], int)))


def test_a_centre_counts_from_when_its_embedding_is_known():
    distances = Distances()
    distances.begin(2)
    distances.resize(3)
    distances.put(np.array([0]), np.array([[1, 0]], np.float32))
    distances.add(1)
    assert distances.near[0] == np.inf
    distances.put(np.array([1]), np.array([[0, 1]], np.float32))
    assert distances.near[0] == pytest.approx(np.sqrt(2))


def test_embeddings_of_another_length_are_refused_until_it_begins_anew():
    distances = Distances()
    distances.begin(2)
    distances.resize(2)
    distances.add(0)
    distances.put(np.array([0, 1]), np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="embeddings"):
        distances.put(np.array([0]), np.ones((1, 3), np.float32))
    distances.begin(3)
    assert not distances.known.any() and np.isinf(distances.near).all()
    distances.put(np.array([0, 1]), np.eye(3, dtype=np.float32)[:2])
    assert distances.near[1] == pytest.approx(np.sqrt(2)), "and a centre is one still"
