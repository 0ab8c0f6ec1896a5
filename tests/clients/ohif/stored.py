"""What a submitted label has become: a file of the datastore, and a DICOM SEG in the archive."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from archive import Archive
from clients.ohif.phantoms import Series
from programs import MonaiLabel


def labels_of(server: MonaiLabel, series: Series) -> list[Path]:
    """The series' label files in the datastore, whatever their tag."""
    return sorted(server.cache.rglob(f"labels/*/{series.uid}*"))


def values_of(path: Path, series: Series) -> np.ndarray:
    """A NIfTI label map's values in the order of the series' files."""
    stored = nib.load(path)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stored.affine
    index = series.indices(np.linalg.inv(to_lps))
    return np.asarray(stored.dataobj)[tuple(np.moveaxis(index, -1, 0))]


def assert_label_is_stored(server: MonaiLabel, series: Series, expected: dict[int, np.ndarray]) -> None:
    """The final label is in the datastore. MONAI Label's route to fetch it asks for a SEG of that id."""
    (path,) = labels_of(server, series)
    assert path.parent.name == "final"
    values = values_of(path, series)
    assert set(np.unique(values)) == {0, *expected}
    for value, mask in expected.items():
        np.testing.assert_array_equal(values == value, mask)


def assert_seg_is_archived(archive: Archive, series: Series, expected: dict[str, np.ndarray]) -> None:
    """The archive has one DICOM SEG of the study, with these structures and no other voxel."""
    (seg,) = archive.segs(series.study)
    labels = {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in seg.SegmentSequence}
    to_index = np.linalg.inv(series.to_world)
    stored = {label: np.zeros_like(mask) for label, mask in expected.items()}
    shared = seg.SharedFunctionalGroupsSequence[0]
    turn = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        label = labels[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        world = origin + columns[:, None] * turn[:3] * spacing[1] + rows[:, None] * turn[3:] * spacing[0]
        index = np.rint(world @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
        stored[label][tuple(index.T)] = True
    for label, mask in expected.items():
        np.testing.assert_array_equal(stored[label], mask)
