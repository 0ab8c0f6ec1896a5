"""Labelled patients as memory: which slices are asked, what is kept, what is made of the looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.errors import Cancelled
from lib.sam import looks as looks_module
from lib.sam import search as module
from lib.sam import zoom
from lib.sam.exemplars import Exemplar, Labelled, Memories, Sought, pooled
from lib.sam.layouts import Part
from lib.sam.looks import TRUST, Look, Looking
from lib.sam.memory import Planes, Remembering
from lib.sam.model import Model
from lib.sam.places import Region
from lib.sam.search import Found, disagreement, find

SHAPE = (80, 60)


def disc(centre: tuple[int, int], radius: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    a, b = np.indices(shape)
    return np.hypot(a - centre[0], b - centre[1]) < radius


def plane(seed: int, mask: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 60, mask.shape) + 120 * mask).astype(np.uint8)


@pytest.fixture
def exemplar(model):
    def make(patient: int, number: int = 0, mask: np.ndarray | None = None) -> Exemplar:
        mask = disc((30, 30), 9) if mask is None else mask
        image = plane(10 * patient + number, mask)
        return Exemplar((patient, number), image, mask, pooled(model, image))

    return make


def sought(exemplars: list[Exemplar], layouts=None, share: float = 0.5) -> Sought:
    """Of patients that the exemplars' keys name, each with its layout if there are any."""
    patients = list(dict.fromkeys(e.key[0] for e in exemplars))
    return Sought(
        [
            Labelled(
                str(patient), [e for e in exemplars if e.key[0] == patient], layouts[n] if layouts else {}
            )
            for n, patient in enumerate(patients)
        ],
        share,
    )


def find_one(model: Model, planes: Planes, count: int, exemplars: list[Exemplar], *others) -> list[Found]:
    return find(model, planes, seen(model, planes, count), {"disc": sought(exemplars)}, *others)["disc"]


def seen(model: Model, planes: Planes, count: int) -> np.ndarray:
    return np.stack([pooled(model, planes(index)) for index in range(count)])


@pytest.fixture
def remembered(monkeypatch) -> list[int]:
    """One entry for each memory that is made."""
    made: list[int] = []
    real = Remembering._condition_on_mask

    def condition(self: Remembering, index: int, mask: np.ndarray) -> None:
        made.append(int(mask.sum()))
        real(self, index, mask)

    monkeypatch.setattr(Remembering, "_condition_on_mask", condition)
    return made


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many exemplars each question is asked with."""
    counts: list[int] = []
    real = looks_module._ask

    def ask(one: Remembering, index: int):
        counts.append(len(one.memory.conditioning))
        return real(one, index)

    monkeypatch.setattr(looks_module, "_ask", ask)
    return counts


def test_an_embedding_has_length_one_and_is_of_the_picture(model):
    one, other = plane(0, disc((30, 30), 9)), plane(0, disc((60, 20), 9))
    assert pooled(model, one).shape == (128,)
    assert np.linalg.norm(pooled(model, one)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(pooled(model, one), pooled(model, one))
    assert not np.allclose(pooled(model, one), pooled(model, other))


def test_memories_are_made_once(model, exemplar, remembered):
    memories, given = Memories(), [exemplar(0), exemplar(1)]
    find_one(model, lambda k: plane(k, disc((30, 30), 9)), 2, given, memories)
    first = len(remembered)
    most = 3 * len(given)  # whole, from a wide view, and close by
    assert len(given) <= first <= most
    find_one(model, lambda k: plane(k + 5, disc((30, 30), 9)), 2, given, memories)
    assert len(remembered) <= most


def test_an_equalised_look_is_another_memory(model, exemplar, remembered):
    memories, view = Memories(), zoom.around(*np.array([(20, 20), (40, 40)]), SHAPE, model.size)
    plain, equal = (memories.of(model, exemplar(0), view, how) for how in (False, True))
    assert len(remembered) == 2
    assert not torch.equal(plain["maskmem_features"], equal["maskmem_features"])


def test_memories_are_bounded(model, exemplar, remembered):
    memories, view = Memories(most=2), zoom.whole(SHAPE)
    first, second, third = (exemplar(n) for n in range(3))
    for one in (first, second, first, third):
        memories.of(model, one, view)
    assert len(remembered) == 3 and len(memories._kept) == 2
    memories.of(model, first, view)  # used after the second one
    assert len(remembered) == 3
    memories.of(model, second, view)
    assert len(remembered) == 4


def test_the_slices_most_like_the_one_asked_about_are_attended_to(model, exemplar, asked, monkeypatch):
    monkeypatch.setattr(looks_module, "ATTENDED", 5)
    monkeypatch.setattr(looks_module, "LEAST_ATTENDED", 2)
    given = [exemplar(0, n) for n in range(6)] + [exemplar(1)]
    find_one(model, lambda _: given[5].plane, 2, given, Memories())
    assert set(asked) == {5}
    looking = Looking(model, lambda _: given[5].plane, Memories())
    assert looking.most_alike(given, given[5].embedding)[0] is given[5]
    # a larger network attends to fewer
    monkeypatch.setattr(looks_module, "CELLS", 3 * (model.size // 16) ** 2)
    assert len(looking.most_alike(given, given[5].embedding)) == 3
    monkeypatch.setattr(looks_module, "CELLS", 0)
    assert len(looking.most_alike(given, given[5].embedding)) == 2


def test_an_image_of_another_size_and_in_colour(model, exemplar):
    shape = (50, 90)
    colour = np.repeat(plane(3, disc((20, 40), 9, shape))[..., None], 3, 2)
    (found,) = find_one(model, lambda _: colour, 1, [exemplar(0)], Memories())
    assert found.mask.shape == shape


def test_there_is_an_answer_for_every_slice(model, exemplar):
    found = find_one(model, lambda k: plane(k, disc((30, 30), 9)), 3, [exemplar(0)], Memories())
    assert len(found) == 3
    for one in found:
        assert one.mask.shape == one.logits.shape == SHAPE and one.mask.dtype == bool
        assert one.mask.any() == (one.presence > 0 and bool((one.logits > 0).any()))
        assert 0 <= one.score <= 1 and 0 <= one.disagreement <= 1


def test_a_structure_is_looked_for_where_the_others_say(model, exemplar, monkeypatch):
    """And only there, and alike whatever else is wanted."""
    views: list[zoom.View] = []
    real = Looking._look

    def look(self, index, view, *others):
        views.append(view)
        return real(self, index, view, *others)

    monkeypatch.setattr(Looking, "_look", look)
    # that it is recognised elsewhere as well is no matter here
    monkeypatch.setattr(
        module.Fit,
        "region",
        lambda fit, name, layouts, own=None: layouts[0][name].region if name == "small" else None,
    )
    big, small = disc((30, 30), 14), disc((62, 30), 5)
    image = plane(3, big | small)

    def part(centre: tuple[float, float, float], side: float) -> Part:
        middle = np.array(centre)
        region = Region(middle - side / 2, middle + side / 2, middle)
        return Part(region, (1, 1, 1), (0, 0, 0), np.ones((1, 1, 1), np.uint8))

    layouts = [{"big": part((0.5, 0.4, 0.5), 0.3), "small": part((0.5, 0.8, 0.5), 0.1)}]
    known = {
        "big": sought([exemplar(0, 0, big)], layouts),
        "small": sought([exemplar(0, 0, small)], layouts),
    }
    embeddings = seen(model, lambda _: image, 12)
    found = find(model, lambda _: image, embeddings, known, Memories())
    assert found["big"][5].mask.any()
    close = [view for view in views if not view.is_whole(SHAPE) and view.contains((62, 30), (62, 30))]
    assert 2 * 5 <= len(close) < 2 * 12
    assert not found["small"][0].mask.any() and found["small"][0].presence == -TRUST
    told: list[tuple[int, int]] = []
    only = find(
        model, lambda _: image, embeddings, known, Memories(), "small".__eq__, lambda *how: told.append(how)
    )
    assert set(only) == {"small"} and told[-1] == (60, 60)
    for one, other in zip(only["small"], found["small"], strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_a_close_look_is_taken_once_more_with_what_it_found_in_the_middle():
    places = []

    def look(index: int, place: zoom.Corners) -> Look:
        places.append(tuple(map(int, place[0])))
        logits = np.where(disc((50, 20), 4) & (index > 0), 5.0, -5.0).astype(np.float32)
        return Look(logits + len(places), 1.0, 0.8)

    corners = np.array([20.0, 20.0]), np.array([30.0, 30.0])
    wide = {1: Look(np.full(SHAPE, -2.0, np.float32), 4.0, 0.5)}
    found = module._closest(look, wide, 1, corners)
    assert places == [(20, 20), (47, 17)]
    assert found.logits.max() == pytest.approx((-2 + 6 + 7) / 3) and found.presence == 2
    # where it found nothing, and where nobody has looked from farther
    assert module._closest(look, wide, 0, corners).logits.max() == -5 + 3 and len(places) == 3


def test_it_tells_how_far_it_is_and_can_be_stopped(model, exemplar):
    told: list[tuple[int, int]] = []

    def image(k: int) -> np.ndarray:
        return plane(k, disc((30, 30), 9))

    known = {"disc": sought([exemplar(0)])}
    embeddings = seen(model, image, 2)
    find(model, image, embeddings, known, Memories(), progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 8) for done in range(1, 9)]  # three looks and an outline for each slice
    with pytest.raises(Cancelled):
        find(model, image, embeddings, known, Memories(), cancelled=lambda: True)


def test_where_it_is_looked_for_on_slices_without_it():
    here, there = disc((20, 20), 5), disc((50, 40), 5)
    none = np.zeros(SHAPE, bool)
    places = module._places([none, here, none, none, none, there, none])
    low = [tuple(place[0]) for place in places if place is not None]
    assert low == [(16, 16)] * 4 + [(46, 36)] * 3
    assert module._places([none, none]) == [None, None]


def test_disagreement():
    one, other = disc((30, 30), 9), disc((60, 20), 9)
    empty = np.zeros(SHAPE, bool)
    assert disagreement([one, one]) == disagreement([empty, empty]) == disagreement([one]) == 0
    assert disagreement([one, other]) == disagreement([one, empty]) == 1
    assert disagreement([one, one, other]) == pytest.approx(2 / 3)


def test_on_a_single_image_each_patient_answers_by_itself(model, exemplar, asked):
    """And the answer is one of theirs, whoever else is wanted."""
    image = plane(3, disc((40, 30), 9))
    given = [exemplar(n) for n in range(3)]
    (found,) = find_one(model, lambda _: image, 1, given, Memories())
    assert set(asked) == {1}
    alone = [find_one(model, lambda _: image, 1, [one], Memories())[0] for one in given]
    assert any(np.array_equal(found.mask, one.mask) for one in alone)
    assert found.mask.any() and 0 <= found.disagreement <= 1
    # in a volume all of them are attended to at once
    asked.clear()
    find_one(model, lambda _: image, 2, given, Memories())
    assert set(asked) == {3}


def test_of_many_patients_the_surest_are_asked_more_closely(model, exemplar, monkeypatch):
    monkeypatch.setattr(module, "VOTERS", 2)
    asked: list[str] = []
    real = module._votes

    def votes(searches, name):
        asked.extend(search.known[name].patients[0].patient for search in searches)
        return real(searches, name)

    monkeypatch.setattr(module, "_votes", votes)
    told: list[tuple[int, int]] = []
    image = plane(3, disc((40, 30), 9))
    given = [exemplar(n) for n in range(4)]
    embeddings = seen(model, lambda _: image, 1)
    known = {"disc": sought(given)}
    find(model, lambda _: image, embeddings, known, Memories(), progress=lambda *how: told.append(how))
    looking = Looking(model, lambda _: image, Memories())
    sure = sorted(given, key=lambda one: -looking.at_all(0, [one]).presence)
    assert asked == [str(one.key[0]) for one in sure[:2]]
    assert told == [(done, 9) for done in range(1, 10)]  # a look for each, two more for two, and the vote


def test_whether_it_is_there_is_told_by_all_patients_in_the_mean(model, exemplar, monkeypatch):
    monkeypatch.setattr(module, "VOTERS", 1)
    image = plane(3, disc((40, 30), 9))
    given = [exemplar(n) for n in range(3)]
    known = {"disc": sought(given, share=0.5)}
    found = find(model, lambda _: image, seen(model, lambda _: image, 1), known, Memories())["disc"][0]
    looking = Looking(model, lambda _: image, Memories())
    told = [looking.at_all(0, [one]).presence for one in given]
    assert found.presence == pytest.approx(np.mean(told) - module.SAYS_NOTHING, abs=1e-4)


def test_what_few_patients_have_must_be_surer_to_be_there(model, exemplar):
    image = plane(3, disc((40, 30), 9))
    embeddings = seen(model, lambda _: image, 1)

    def found(share: float) -> Found:
        known = {"disc": sought([exemplar(0)], share=share)}
        return find(model, lambda _: image, embeddings, known, Memories())["disc"][0]

    usual, seldom, never = found(0.8), found(0.2), found(1e-9)
    assert usual.presence - seldom.presence == pytest.approx(2 * module.USUAL * np.log(4))
    assert usual.mask.any() and not never.mask.any() and never.presence < 0
    np.testing.assert_array_equal(usual.logits, never.logits)
