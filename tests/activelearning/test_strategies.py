"""Strategies judged by the cases they choose, in a pool of clusters whose structures are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lib.activelearning import strategies
from lib.activelearning.cases import Cases
from lib.activelearning.scores import CaseScore, StructureScore
from lib.activelearning.strategies import COLD_START, STRATEGIES

CLUSTERS, EACH, LENGTH = 6, 40, 16
SPREAD = 0.15  # of a cluster around its middle; middles are at right angles


def cluster(image: str | None) -> int:
    return int(str(image).split("-")[0])


def clusters(rng: np.random.Generator, scored: bool = True, **structures) -> Cases:
    """Six clusters of images, named "cluster-number".

    structures: name -> function of the cluster that gives uncertainty and presence.
    """
    cases = Cases()
    cases.add(f"{c}-{n}" for n in range(EACH) for c in range(CLUSTERS))
    for image in sorted(cases.listed()) if scored else ():
        vector = np.eye(LENGTH)[cluster(image)] + SPREAD * rng.normal(size=LENGTH) / np.sqrt(LENGTH)
        found = {name: StructureScore(*tell(cluster(image), rng)) for name, tell in structures.items()}
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        cases.score([(image, CaseScore("key", vector, found))])
    return cases


def draw(name: str, cases: Cases, rng: np.random.Generator, count: int, names=()) -> list[str]:
    """Ask so often, and label what is given."""
    given = []
    for _ in range(count):
        image = cases.images[STRATEGIES[name](cases, cases.free(), rng, names)]
        assert image is not None
        cases.label(image)
        given.append(image)
    return given


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def sure(c: int, rng: np.random.Generator) -> tuple[float, float]:
    return 0.1, 1.0


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_image_is_given_once_and_none_is_left_out(name, rng):
    cases = clusters(rng, liver=lambda c, r: (r.random(), r.random()))
    unscored = [f"0-unscored{n}" for n in range(20)]
    cases.add(unscored)
    given = draw(name, cases, rng, CLUSTERS * EACH + 20)
    assert len(set(given)) == len(given) and not len(cases.free())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_random_numbers_choose_the_same_cases(name):
    def once() -> list[str]:
        rng = np.random.default_rng(3)
        return draw(name, clusters(rng, liver=lambda c, r: (r.random(), r.random())), rng, 30)

    assert once() == once()


@pytest.mark.parametrize("name", STRATEGIES)
def test_while_nothing_is_scored_any_image_may_come(name, rng):
    cases = clusters(rng, scored=False)
    seen = Counter(cluster(cases.images[STRATEGIES[name](cases, cases.free(), rng, ())]) for _ in range(600))
    assert len(seen) == CLUSTERS and min(seen.values()) > 60


@pytest.mark.parametrize("name", STRATEGIES)
def test_images_that_are_not_scored_get_a_part_of_the_choices(name, rng):
    """Few of them, so that they come as often as the others; or as many as the others, or far more."""
    for count, low, high in ((24, 4, 18), (CLUSTERS * EACH, 5, 22), (40 * CLUSTERS * EACH, 5, 22)):
        cases = clusters(rng, liver=lambda c, r: (r.random(), 1.0))
        cases.add(f"9-unscored{n}" for n in range(count))
        given = draw(name, cases, rng, 120)
        if name != "random":
            assert low <= sum(cluster(image) == 9 for image in given) <= high


def test_foreground_random_gives_images_that_show_a_structure_and_each_structure_as_often(rng):
    cases = clusters(
        rng,
        common=lambda c, r: (0.5, 0.9 if c < 4 else 0.1),
        rare=lambda c, r: (0.5, 0.9 if c == 4 else 0.2),
    )
    seen = Counter(
        cluster(cases.images[STRATEGIES["foreground_random"](cases, cases.free(), rng, ())])
        for _ in range(1000)
    )
    assert seen[5] == 0, "in which there is nothing"
    assert 430 < seen[4] < 570, "a sixth of the images, but one structure of two"
    assert min(seen[c] for c in range(4)) > 80
    only = {
        cluster(cases.images[STRATEGIES["foreground_random"](cases, cases.free(), rng, ["rare"])])
        for _ in range(50)
    }
    assert only == {4}


def test_uncertainty_gives_the_highest_mean_first(rng):
    cases = clusters(rng, liver=lambda c, r: (r.random(), 1), spleen=lambda c, r: (r.random(), 1))
    means = [cases.mean[cases.row(image)] for image in draw("uncertainty", cases, rng, 50)]
    assert means == sorted(means, reverse=True)
    assert means[-1] >= np.max(cases.mean[cases.free()])
    liver = cases.structures.index("liver")
    free = cases.free()
    chosen = STRATEGIES["uncertainty"](cases, free, rng, ["liver"])
    assert cases.uncertainty[liver, chosen] == cases.uncertainty[liver, free].max()


def test_diversity_begins_anywhere_and_covers_all_clusters_at_once(rng):
    cases = clusters(rng)
    begins = {cluster(cases.images[STRATEGIES["diversity"](cases, cases.free(), rng, ())]) for _ in range(60)}
    assert begins == set(range(CLUSTERS))
    assert {cluster(image) for image in draw("diversity", cases, rng, CLUSTERS)} == set(range(CLUSTERS))


def test_diversity_keeps_away_from_what_others_work_on(rng):
    cases = clusters(rng)
    cases.claim({f"{c}-0" for c in range(CLUSTERS - 1)})
    assert cluster(draw("diversity", cases, rng, 1)[0]) == CLUSTERS - 1


def test_the_default_begins_with_diversity(rng):
    """Whatever is uncertain: the first cases are of as many clusters."""
    cases = clusters(rng, liver=lambda c, r: (0.9 if c == 0 else 0.1, 1.0))
    assert len({cluster(image) for image in draw("biosam2", cases, rng, COLD_START)}) == COLD_START


def test_the_default_weighs_some_of_a_large_pool(rng, monkeypatch):
    monkeypatch.setattr(strategies, "AT_ONCE", 60)
    cases = clusters(rng, liver=lambda c, r: (r.random(), 1.0))
    given = draw("biosam2", cases, rng, COLD_START + 24)
    assert len({cluster(image) for image in given[:COLD_START]}) >= COLD_START - 1
    doubts = np.array([cases.mean[cases.row(image)] for image in given[COLD_START:]])
    assert doubts.mean() > 0.65, "of values spread evenly over 0 to 1"


def test_the_default_does_not_begin_with_the_oddest(rng):
    """Three scouts, each like nothing else, are the farthest from all; little follows from them."""
    cases = clusters(rng, liver=lambda c, r: (0.5, 1.0))
    for n in range(3):
        odd = np.eye(LENGTH, dtype=np.float32)[CLUSTERS + n]
        cases.add([f"{CLUSTERS + n}-scout"])
        cases.score([(f"{CLUSTERS + n}-scout", CaseScore("key", odd, {"liver": StructureScore(0.5, 1.0)}))])
    cases.label("0-0")
    given = [cluster(image) for image in draw("biosam2", cases, rng, COLD_START - 1)]
    assert len(set(given)) == COLD_START - 1 and set(given) <= set(range(1, CLUSTERS))
    far = [cluster(image) for image in draw("diversity", cases, rng, COLD_START)]
    assert set(range(CLUSTERS, CLUSTERS + 3)) <= set(far)


def test_the_default_begins_with_what_shows_most_structures(rng):
    """One image in ten shows three structures instead of one: these come first, of all clusters."""
    cases = clusters(
        rng,
        common=lambda c, r: (0.5, 1.0),
        second=lambda c, r: (0.5, 0.1),
        third=lambda c, r: (0.5, 0.1),
    )
    rich = [f"{c}-{n}" for c in range(CLUSTERS) for n in range(4)]
    for image in rich:
        row = cases.row(image)
        vector = cases.distances._vectors[row]
        found = {name: StructureScore(0.5, 1.0) for name in cases.structures}
        cases.score([(image, CaseScore("key", vector, found))])
    given = draw("biosam2", cases, rng, COLD_START)
    assert set(given) <= set(rich)
    assert len({cluster(image) for image in given}) == COLD_START


def test_the_very_first_case_of_the_default_is_any(rng):
    cases = clusters(rng, liver=lambda c, r: (0.5, 1.0))
    begins = {cluster(cases.images[STRATEGIES["biosam2"](cases, cases.free(), rng, ())]) for _ in range(60)}
    assert begins == set(range(CLUSTERS))


def test_the_default_prefers_uncertain_cases_but_not_of_one_cluster_only(rng):
    cases = clusters(rng, liver=lambda c, r: (r.random(), 1.0))
    draw("biosam2", cases, rng, COLD_START)
    given = draw("biosam2", cases, rng, 24)
    doubts = np.array([cases.mean[cases.row(image)] for image in given])
    assert doubts.mean() > 0.7, "of values spread evenly over 0 to 1"
    assert len({cluster(image) for image in given}) == CLUSTERS

    cases = clusters(rng, liver=lambda c, r: (0.6 if c == 0 else 0.4, 1.0))
    draw("biosam2", cases, rng, COLD_START)
    seen = Counter(cluster(image) for image in draw("biosam2", cases, rng, 24))
    assert len(seen) >= 4 and max(seen.values()) < 20


def test_a_batch_of_the_default_is_diverse_before_anything_of_it_is_labelled(rng):
    """Eight people ask one after the other: not all get what is most uncertain."""
    cases = clusters(rng, liver=lambda c, r: (0.8 + 0.1 * r.random() if c == 0 else 0.5, 1.0))
    for n in range(COLD_START):
        cases.label(f"5-{n}")
    claimed: set[str] = set()
    for _ in range(8):
        image = cases.images[STRATEGIES["biosam2"](cases, cases.free(), rng, ())]
        assert image is not None
        claimed.add(image)
        cases.claim(claimed)
    assert len({cluster(image) for image in claimed}) >= 4
    cases.claim(set())
    assert {cluster(image) for image in draw("uncertainty", cases, rng, 8)} == {0}


def test_the_default_sees_to_structures_that_have_few_labels(rng):
    """A structure in one of six clusters, no more uncertain than the others, gets its share of the labels."""
    cases = clusters(
        rng,
        common=lambda c, r: (0.3 + 0.2 * r.random(), 1.0 if c < 5 else 0.0),
        rare=lambda c, r: (0.3 + 0.2 * r.random(), 1.0 if c == 5 else 0.0),
    )
    seen = Counter(cluster(image) for image in draw("biosam2", cases, rng, 40))
    assert seen[5] >= 10, "of 40; in a random choice it would be 7"
    assert len(seen) == CLUSTERS


def test_the_default_does_not_look_for_a_structure_where_it_is_not(rng):
    cases = clusters(rng, liver=lambda c, r: (0.9, 0.02) if c == 0 else (0.5, 1.0))
    for n in range(COLD_START):
        cases.label(f"{n + 1}-0")
    assert sum(cluster(image) == 0 for image in draw("biosam2", cases, rng, 30)) <= 1
