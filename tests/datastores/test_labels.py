"""Label files of clients, and the names that they send along."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.datastores.labels import read_label, segments_of
from lib.errors import UserError
from lib.imaging.seg.segments import Segment
from lib.imaging.volume import load_volume

SHAPE = (8, 7, 6)


@pytest.fixture
def volume(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([0.7, 0.9, 3, 1])), tmp_path / "image.nii")
    return load_volume(tmp_path / "image.nii")


def _save(tmp_path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "label.nii.gz")
    return tmp_path / "label.nii.gz"


def test_a_label_in_floating_point_is_taken_if_its_numbers_are_whole(volume, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.float32)
    found = read_label(_save(tmp_path, voxels, volume.affine), volume)
    np.testing.assert_array_equal(found, voxels)
    with pytest.raises(UserError, match="whole numbers from 0 to 65535"):
        read_label(_save(tmp_path, voxels * 0.5, volume.affine), volume)
    with pytest.raises(UserError, match="whole numbers from 0 to 65535"):
        read_label(_save(tmp_path, -voxels, volume.affine), volume)


def test_a_label_stored_the_other_way_round_is_turned(volume, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    flipped = volume.affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    flipped[:3, 3] = (volume.affine @ [SHAPE[0] - 1, SHAPE[1] - 1, 0, 1])[:3]
    found = read_label(_save(tmp_path, voxels[::-1, ::-1], flipped), volume)
    np.testing.assert_array_equal(found, voxels)


def test_bytes_of_another_size_are_refused(volume, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="the label has 100 voxels and the image 336"):
        read_label(tmp_path / "x.bin", volume)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, [Segment(1, "structure 1"), Segment(3, "structure 3")]),
        (
            {
                "label_info": [
                    {"name": "liver", "idx": 3, "color": [1, 2, 300]},
                    {"name": "not there", "idx": 2},
                ]
            },
            [Segment(1, "structure 1"), Segment(3, "liver", (1, 2, 255))],
        ),
        ({"label_info": [{"name": "liver"}]}, [Segment(1, "liver"), Segment(3, "structure 3")]),
        ({"params": {"label_names": {"a": 1, "b": 3}}}, [Segment(1, "a"), Segment(3, "b")]),
        (
            {"label_info": [{"name": "x", "idx": "three"}, 7, {"idx": -1}]},
            [Segment(1, "structure 1"), Segment(3, "structure 3")],
        ),
    ],
)
def test_values_have_the_names_that_the_client_gives_them(info, expected):
    labels = np.zeros(SHAPE, np.uint16)
    labels[1, 1, 1], labels[2, 2, 2] = 1, 3
    assert segments_of(labels, info) == expected


def test_an_empty_label_has_the_segments_that_are_named():
    empty = np.zeros(SHAPE, np.uint16)
    assert segments_of(empty, {"label_info": [{"name": "liver", "idx": 1}]}) == [Segment(1, "liver")]
    assert segments_of(empty, {}) == [Segment(1, "structure")]
