"""What is known of the images, as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from lib.activelearning.cases import MOST_STRUCTURES, Cases
from lib.activelearning.scores import CaseScore, StructureScore


def score(vector=(1.0, 0.0), **structures: tuple[float, float]) -> CaseScore:
    scores = {name: StructureScore(*values) for name, values in structures.items()}
    return CaseScore("key", np.array(vector, np.float32), scores)


@pytest.fixture
def cases() -> Cases:
    cases = Cases()
    cases.add(["a", "b", "c"])
    return cases


def free(cases: Cases) -> set[str | None]:
    return {cases.images[row] for row in cases.free()}


def test_images_are_free_until_they_are_labelled_or_claimed(cases):
    assert free(cases) == {"a", "b", "c"}
    cases.label("a")
    cases.claim({"b"})
    assert free(cases) == {"c"}
    cases.label("a", False)
    cases.claim({"c", "unheard of"})
    assert free(cases) == {"a", "b"}


def test_an_image_that_is_gone_leaves_nothing_to_the_one_that_gets_its_row(cases):
    cases.score([("b", score(liver=(0.5, 1.0)))])
    cases.label("b")
    row = cases.row("b")
    cases.remove("b")
    assert "b" not in cases and len(cases) == 2
    cases.add(["d"])
    assert cases.row("d") == row
    assert free(cases) == {"a", "c", "d"}
    assert np.isnan(cases.mean[row]) and np.isnan(cases.uncertainty[:, row]).all()
    assert not cases.distances.known[row] and np.isinf(cases.distances.near).all()
    assert cases.collected.sum() == 0


def test_structures_are_known_from_the_scores_and_missing_ones_are_nan(cases):
    cases.score([("a", score(liver=(0.2, 0.9))), ("b", score(liver=(0.4, 0.8), spleen=(0.6, 0.1)))])
    assert cases.structures == ["liver", "spleen"]
    a, b, c = (cases.row(image) for image in "abc")
    np.testing.assert_allclose(cases.uncertainty[:, [a, b]], [[0.2, 0.4], [np.nan, 0.6]])
    np.testing.assert_allclose(cases.present[:, [a, b]], [[0.9, 0.8], [np.nan, 0.1]])
    np.testing.assert_allclose(cases.mean[[a, b, c]], [0.2, 0.5, np.nan])
    assert cases.chosen(["spleen"]).tolist() == [1]
    assert cases.chosen([]).tolist() == cases.chosen(["unheard of"]).tolist() == [0, 1]


def test_the_sums_over_all_images_follow_every_change(cases):
    cases.score([("a", score(liver=(0.2, 0.5))), ("b", score(liver=(0.4, 1.0))), ("c", score())])
    assert cases.collected == pytest.approx([0])
    cases.label("a")
    assert cases.collected == pytest.approx([0.5])
    cases.score([("a", score(liver=(0.2, 1.0), spleen=(0.1, 0.3)))])
    assert cases.collected == pytest.approx([1.0, 0.3])
    cases.claim({"b"})
    cases.claim(set())
    cases.remove("a")
    assert cases.collected == pytest.approx([0, 0], abs=1e-9)


def test_more_structures_than_can_be_kept_apart_do_no_harm(cases):
    names = {f"s{n}": (0.5, 0.5) for n in range(MOST_STRUCTURES + 10)}
    cases.score([("a", score(**names))])
    assert len(cases.structures) == MOST_STRUCTURES
    assert cases.mean[cases.row("a")] == 0.5


def test_it_grows_to_many_images(cases):
    cases.score([("a", score(liver=(0.2, 0.5)))])
    cases.add([f"image{n}" for n in range(5000)])
    assert len(cases) == 5003 and len(cases.free()) == 5003
    cases.score([("image4999", score((0.0, 1.0), liver=(0.3, 0.5)))])
    cases.label("a")
    assert cases.distances.near[cases.row("image4999")] == pytest.approx(np.sqrt(2))
