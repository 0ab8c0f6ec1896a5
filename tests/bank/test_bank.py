"""The label bank follows the datastore's final labels."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import lib.bank.bank as bank_module
from lib.sam.exemplars import Exemplar, pooled

from .conftest import NAMES


def exemplars(bank, slot, structure: str, image: np.ndarray, without=None) -> list[Exemplar]:
    sought = bank.sought(slot.get(), image, without)
    return list(sought[structure].exemplars) if structure in sought else []


def embeddings(slot, voxels: np.ndarray) -> np.ndarray:
    return np.stack([pooled(slot.get(), voxels[..., k]) for k in range(voxels.shape[2])])


def test_it_has_what_is_labelled(site, bank):
    bank.refresh()
    assert bank.structures() == {} and bank.fingerprint == ""
    site.label(0)
    bank.refresh()
    assert bank.structures() == {"liver": 1, "spleen": 2}
    one = bank.fingerprint
    bank.refresh()
    assert bank.fingerprint == one != ""
    site.label(1)
    bank.refresh()
    assert bank.fingerprint != one
    site.datastore().remove_label("patient1", "final")
    bank.refresh()
    assert bank.fingerprint == one


def test_a_label_that_was_changed_is_read_again(site, bank, slot):
    site.label(0)
    bank.refresh()
    before = exemplars(bank, slot, "liver", embeddings(slot, site.anatomy.patient(1).pixels))
    site.label(0, voxels=np.where(site.truth(0) == 1, 2, 0).astype(np.uint8))
    bank.refresh()
    after = exemplars(bank, slot, "spleen", embeddings(slot, site.anatomy.patient(1).pixels))
    assert bank.structures() == {"spleen": 2}
    assert sum(e.mask.sum() for e in after) == sum(e.mask.sum() for e in before) > 0
    assert {e.key[0] for e in after}.isdisjoint(e.key[0] for e in before)


def test_an_index_belongs_to_the_name_that_most_labels_give_it(site, bank):
    for number, names in enumerate(
        [{1: "liver", 2: "spleen"}, {1: "liver", 2: "spleen"}, {1: "spleen", 2: "stomach"}]
    ):
        site.label(number, names)
    bank.refresh()
    assert bank.structures() == {"liver": 1, "spleen": 2, "stomach": 3}


def test_exemplars_are_slices_of_the_structure(site, bank, slot):
    for number in range(3):
        site.label(number)
    bank.refresh()
    target = embeddings(slot, site.anatomy.patient(3).pixels)
    found = exemplars(bank, slot, "spleen", target)
    assert len({e.key[0] for e in found}) == 3
    truths = [site.truth(n) == 2 for n in range(3)]
    for exemplar in found:
        assert any(np.array_equal(exemplar.mask, t[..., k]) for t in truths for k in range(t.shape[2]))
        assert exemplar.mask.sum() >= 12
        assert (
            np.linalg.norm(exemplar.embedding) == np.float32(1)
            or abs(np.linalg.norm(exemplar.embedding) - 1) < 1e-5
        )
    assert exemplars(bank, slot, "kidney", target) == []


def test_more_patients_are_asked_where_each_has_few_slices(site, bank, slot, monkeypatch):
    """A picture is a patient of one slice: a few of those are no more than a part of a volume."""
    monkeypatch.setattr(bank_module, "PATIENTS", 2)
    target = embeddings(slot, site.anatomy.patient(3).pixels)
    for number in range(4):
        site.label(number)
    bank.refresh()
    monkeypatch.setattr(bank_module, "ATTENDED", 4)
    assert len(bank.sought(slot.get(), target)["spleen"].layouts) == 2

    for number in range(4):
        label = site.truth(number)
        middle = int(np.median(np.flatnonzero((label == 2).any((0, 1)))))
        plane = np.zeros_like(label)
        plane[..., middle] = label[..., middle]
        site.label(number, voxels=plane)
    bank.refresh()
    sought = bank.sought(slot.get(), target)["spleen"]
    assert len(sought.exemplars) == len({e.key[0] for e in sought.exemplars}) == len(sought.layouts) == 4
    assert sought.share == 5 / 6


def test_how_usual_a_structure_is(site, bank, slot):
    for number in range(3):
        label = site.truth(number)
        site.label(number, voxels=label if number else np.where(label == 1, 1, 0).astype(np.uint8))
    bank.refresh()
    sought = bank.sought(slot.get(), embeddings(slot, site.anatomy.patient(3).pixels))
    assert sought["liver"].share == 4 / 5 and sought["spleen"].share == 3 / 5


def test_a_negative_of_the_image_is_asked_about_negatives(site, bank, slot):
    for number in range(2):
        site.label(number)
    bank.refresh()
    voxels = site.anatomy.patient(0).pixels
    one, other = (exemplars(bank, slot, "spleen", embeddings(slot, v)) for v in (voxels, 255 - voxels))
    mine = {e.key[:3]: e for e in one}
    turned = [(e, mine[e.key[:3]]) for e in other if e.key[3] != mine[e.key[:3]].key[3]]
    assert any(np.array_equal(site.truth(0)[..., e.key[1]] == 2, e.mask) for e, _ in turned)
    for e, like in turned:
        np.testing.assert_array_equal(e.plane, 255 - like.plane)
        np.testing.assert_array_equal(e.mask, like.mask)
        assert not np.allclose(e.embedding, like.embedding)


def test_it_knows_where_the_structures_lie(site, bank, slot):
    site.label(0)
    bank.refresh()
    (layout,) = bank.sought(slot.get(), embeddings(slot, site.anatomy.patient(1).pixels))["liver"].layouts
    assert set(layout) == {"liver", "spleen"}
    on = np.nonzero(np.moveaxis(site.truth(0), 2, 0) == 2)
    shape = np.array([site.truth(0).shape[n] for n in (2, 0, 1)])
    np.testing.assert_allclose(layout["spleen"].region.low * shape, [axis.min() for axis in on])
    np.testing.assert_allclose(layout["spleen"].region.high * shape, [axis.max() + 1 for axis in on])


def test_an_image_is_no_exemplar_of_itself(site, bank, slot):
    site.label(0)
    site.label(1)
    bank.refresh()
    target = embeddings(slot, site.anatomy.patient(0).pixels)
    both = exemplars(bank, slot, "liver", target)
    other = exemplars(bank, slot, "liver", target, without=site.path(0))
    assert len({e.key[0] for e in both}) == 2 and len({e.key[0] for e in other}) == 1
    # it is the most alike of all, so that it comes first where it may
    assert both[0].key[0] not in {e.key[0] for e in other}


def test_a_label_that_cannot_be_read_spoils_nothing(site, bank):
    site.label(0)
    site.label(1)
    path = site.datastore().get_label_uri("patient1", "final")
    with open(path, "wb") as file:
        file.write(b"no label")
    bank.refresh()
    assert bank.structures() == {name: index for index, name in NAMES.items()}


def test_several_may_ask_at_once(site, bank, slot):
    for number in range(3):
        site.label(number)
    bank.refresh()
    target = embeddings(slot, site.anatomy.patient(3).pixels)

    def ask(_: int) -> list[tuple]:
        bank.refresh()
        return [exemplar.key for exemplar in exemplars(bank, slot, "spleen", target)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(8)))
    assert all(one == found[0] for one in found) and found[0]


def test_a_case_whose_slices_are_removed_meanwhile_is_still_an_exemplar(site, bank, slot, tmp_path):
    """Its label was changed by somebody while this image is being segmented."""
    site.label(0)
    bank.refresh()
    target = embeddings(slot, site.anatomy.patient(3).pixels)
    shutil.rmtree(tmp_path / "bank")
    assert exemplars(bank, slot, "spleen", target)
