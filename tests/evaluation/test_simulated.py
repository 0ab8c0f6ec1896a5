"""Simulated patients: the same whenever asked for, alike but not the same, with what an uneven pool has."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from lib.errors import NotFound
from lib.evaluation.simulated import BRAINS, KINDS, SETS, USUAL, SimulatedSet
from lib.trainers.finetune.cases import patient_of


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A stand-in for the brains, which are in a package: an ellipsoid whose atlas has balls for regions."""
    folder = tmp_path_factory.mktemp("templates")
    shapes = {"human": ((181, 217, 181), 1.0), "macaque": ((168, 206, 128), 0.5)}
    for name, (shape, spacing) in shapes.items():
        brain, centre = BRAINS[name], np.array(shape) / 2
        grid = np.indices(shape) - centre[:, None, None, None]
        voxels = 100 * (((grid / (0.45 * np.array(shape))[:, None, None, None]) ** 2).sum(0) < 1)
        regions = np.zeros(shape, np.int16)
        for number, parts in enumerate(brain.regions.values()):
            shift = np.array([25 * (number % 2) - 12, 25 * (number // 2) - 12, -10])
            ball = ((grid - shift[:, None, None, None]) ** 2).sum(0) < 100
            regions[ball], voxels[ball] = parts[0], 60
        if brain.dark_in:
            voxels[
                (((grid - np.array([0, 15, 2])[:, None, None, None]) / [[[[4]]], [[[8]]], [[[6]]]]) ** 2).sum(
                    0
                )
                < 1
            ] = 5
        affine = np.diag([spacing] * 3 + [1])
        nib.save(nib.Nifti1Image(voxels.astype(np.uint8), affine), folder / brain.image)
        nib.save(nib.Nifti1Image(regions, affine), folder / brain.atlas)
    return folder


@pytest.mark.parametrize("name", SETS)
def test_a_case_is_the_same_whenever_it_is_asked_for(name, templates):
    one, other = (SimulatedSet(name, 10, templates=templates).case(3) for _ in range(2))
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.name == other.name
    assert one.voxels.dtype == one.labels.dtype == np.uint8
    assert one.voxels.shape == one.labels.shape


@pytest.mark.parametrize("name", BRAINS)
def test_a_brain_keeps_its_structures_whole_through_the_bend(name, templates):
    made = SimulatedSet(name, 10, templates=templates)
    for case in (case for case in (made.case(n) for n in range(2)) if case.kind == USUAL):
        for value in made.structures:
            pieces, count = ndimage.label(case.labels == value)
            assert count <= 1 or np.bincount(pieces.ravel())[1:].max() > 0.9 * (pieces > 0).sum()


def test_a_set_is_uneven_and_scans_of_one_patient_resemble_each_other():
    made = SimulatedSet("bodies", 200)
    scans = made._plan
    kinds = [kind for *_, kind in scans]
    assert set(kinds) == set(KINDS) and 0.5 < kinds.count(USUAL) / len(kinds) < 0.85
    patients = {patient for patient, *_ in scans}
    assert 0.6 * len(scans) < len(patients) < 0.85 * len(scans)
    assert all(len({k for p, _, k in scans if p == patient}) == 1 for patient in patients)

    again = next(n for n, (_, scan, _) in enumerate(scans) if scan == 2)
    cases = [made.case(n) for n in (again - 1, again)]
    assert patient_of(cases[0].name, {}) == patient_of(cases[1].name, {})
    assert cases[0].name != cases[1].name


def test_a_longer_set_begins_with_the_shorter_one():
    short, long = SimulatedSet("trunks", 5), SimulatedSet("trunks", 9)
    assert [short.case(n).name for n in (0, 4)] == [long.case(n).name for n in (0, 4)]


def test_some_structures_are_absent_and_some_scans_are_short():
    made = SimulatedSet("bodies", 8)
    cases = list(made)
    present = [{int(v) for v in np.unique(case.labels)} - {0} for case in cases]
    assert any(len(found) < len(made.structures) for found in present)
    assert all(found <= set(made.structures) for found in present)
    assert len({case.voxels.shape[2] for case in cases}) > 1


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFound, match="mricron-data"):
        SimulatedSet("human", templates=tmp_path)
    with pytest.raises(NotFound, match="not one of bodies"):
        SimulatedSet("horses")


def test_a_standard_plane_is_the_middle_slice():
    whole, plane = (SimulatedSet("trunks", 5, slices=n) for n in (None, 1))
    for number in range(5):
        one, other = whole.case(number), plane.case(number)
        assert other.voxels.shape == (*one.voxels.shape[:2], 1) and other.name == one.name
        middle = (plane._anatomy.shape[2] - 1) // 2
        k = middle - round(one.affine[2, 3] / one.affine[2, 2] + plane._anatomy.shape[2] / 2)
        if 0 <= k < one.voxels.shape[2]:  # a scan may end before that
            np.testing.assert_array_equal(one.voxels[..., k], other.voxels[..., 0])
            np.testing.assert_allclose(one.affine @ [0, 0, k, 1], other.affine @ [0, 0, 0, 1])
