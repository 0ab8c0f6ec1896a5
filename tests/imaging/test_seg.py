"""A label goes into a DICOM SEG and comes back voxel for voxel, whatever the series looks like."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.spatial.transform import Rotation

from lib.errors import Unprocessable
from lib.imaging.answer import write_mask
from lib.imaging.readers.dicom_layout import read_layout
from lib.imaging.seg.read import read_seg
from lib.imaging.seg.segments import Segment, terms_of
from lib.imaging.seg.write import Algorithm, write_seg
from lib.imaging.volume import load_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (17, 13, 9)
ALGORITHM = Algorithm("biosam2_nano", "0123456789ab")
LIVER, TUMOUR = Segment(1, "liver"), Segment(2, "tumour")


def _turned(angles: tuple[float, ...], spacing: tuple[float, float, float]) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    lps[:3, 3] = (-31.5, 17.25, 102.125)
    return LPS @ lps


def _sagittal() -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.array([[0, 0, 3.0], [0.7, 0, 0], [0, -0.9, 0]])
    lps[:3, 3] = (-31.5, 17.25, 102.125)
    return LPS @ lps


def _tilted() -> np.ndarray:
    lps = np.diag([0.7, 0.9, 3.0, 1.0])
    lps[1, 2] = 1.0
    return LPS @ lps


GRIDS = {
    "axial": _turned((0, 0, 0), (0.7, 0.9, 3.0)),
    "descending": _turned((0, 0, 0), (0.7, 0.9, -3.0)),
    "sagittal": _sagittal(),
    "oblique": _turned((21, -13, 34), (0.7, 0.9, 3.0)),
    "oblique descending": _turned((21, -13, 34), (0.7, 0.9, -3.0)),
    "tilted": _tilted(),
    "thin": _turned((0, 0, 5), (0.7, 0.9, 0.25)),
}


@pytest.fixture(params=list(GRIDS), ids=[name.replace(" ", "-") for name in GRIDS])
def grid(request: pytest.FixtureRequest) -> np.ndarray:
    return GRIDS[request.param]


def _labels(shape: tuple[int, ...], values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """A label map without any symmetry, empty in its first two and its last slice and in one between."""
    labels = np.random.default_rng(7).choice(np.array((0, *values), np.uint8), shape)
    labels[:, :, [0, 1, shape[2] // 2, -1]] = 0
    return labels


def _voxels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2000, shape).astype(np.int16)


def _through_a_file(seg: pydicom.Dataset, tmp_path: Path) -> pydicom.Dataset:
    path = tmp_path / "label.dcm"
    seg.save_as(path, write_like_original=False)
    return pydicom.dcmread(path)


def _dcmqi(labels: np.ndarray, folder: Path, tmp_path: Path, names: tuple[str, ...]) -> pydicom.Dataset:
    """What MONAI Label stores: a SEG by dcmqi, which leaves empty slices out."""
    file = write_mask(labels, load_volume(folder), ".nii.gz", folder=tmp_path)
    code = {"CodeValue": "78961009", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Spleen"}
    attributes = [
        {
            "labelID": number,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "x",
            "SegmentedPropertyCategoryCodeSequence": {**code, "CodeMeaning": "Anatomical Structure"},
            "SegmentedPropertyTypeCodeSequence": code,
            "recommendedDisplayRGBValue": [255, 0, 0],
        }
        for number, name in enumerate(names, 1)
    ]
    meta = {"ContentCreatorName": "x", "SeriesDescription": "x", "SeriesNumber": "300", "InstanceNumber": "1"}
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "segmentAttributes": [attributes]}))
    command = ["itkimage2segimage", "--inputImageList", file, "--inputDICOMDirectory", folder]
    command += ["--outputDICOM", tmp_path / "dcmqi.dcm", "--inputMetadata", tmp_path / "meta.json"]
    program = Path(subprocess.sys.executable).parent / "itkimage2segimage"
    subprocess.run([program, *map(str, command[1:])], check=True, capture_output=True)
    return pydicom.dcmread(tmp_path / "dcmqi.dcm")


def test_every_voxel_comes_back_on_every_grid(dicom_series, grid, tmp_path):
    layout = read_layout(dicom_series(_voxels(), grid))
    labels = _labels(SHAPE)
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    found = read_seg(seg, layout)
    np.testing.assert_array_equal(found.voxels, labels)
    assert found.voxels.dtype == np.uint8
    assert [(s.value, s.name) for s in found.segments] == [(1, "liver"), (2, "tumour")]


def test_a_slice_of_the_label_lies_on_the_image_slice_it_was_drawn_on(dicom_series, grid):
    folder = dicom_series(_voxels(), grid)
    layout, volume = read_layout(folder), load_volume(folder)
    np.testing.assert_allclose(layout.affine, volume.affine)
    headers = {str(header.SOPInstanceUID): header for header in layout.headers}
    labels = _labels(SHAPE)
    seg = write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM)
    pixels = seg.pixel_array
    for item, plane in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert position == headers[source.ReferencedSOPInstanceUID].ImagePositionPatient
        k = round(float((np.linalg.inv(volume.affine) @ (LPS @ [*position, 1]))[2]))
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(plane.T, labels[:, :, k] == number)


def test_every_slice_has_a_frame_in_every_segment_and_its_own_place(dicom_series):
    layout = read_layout(dicom_series(_voxels(), GRIDS["oblique"]))
    seg = write_seg(_labels(SHAPE), layout, [LIVER, TUMOUR], ALGORITHM)
    assert seg.NumberOfFrames == 2 * SHAPE[2]
    places = {
        tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in seg.PerFrameFunctionalGroupsSequence
    }
    assert len(places) == SHAPE[2]


def test_an_empty_label_is_a_label(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    empty = np.zeros(SHAPE, np.uint8)
    found = read_seg(_through_a_file(write_seg(empty, layout, [LIVER], ALGORITHM), tmp_path), layout)
    assert not found.voxels.any() and found.segments[0].name == "liver"


def test_values_keep_their_numbers_though_segments_have_none_between(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    labels = _labels(SHAPE).astype(np.uint16) * 150  # 150 and 300
    segments = [Segment(150, "liver"), Segment(300, "spleen")]
    seg = _through_a_file(write_seg(labels, layout, segments, ALGORITHM), tmp_path)
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2]
    found = read_seg(seg, layout)
    np.testing.assert_array_equal(found.voxels, labels)
    assert found.voxels.dtype == np.uint16


def test_the_segments_say_what_they_are_and_what_made_them(dicom_series):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    segments = [LIVER, TUMOUR, Segment(3, "left kidney"), Segment(4, "the odd thing", (255, 0, 0))]
    seg = write_seg(_labels(SHAPE), layout, segments, ALGORITHM)
    liver, tumour, kidney, odd = seg.SegmentSequence
    assert liver.SegmentLabel == "liver"
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert tumour.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    kidney_type = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert kidney_type.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert (odd.SegmentLabel, odd.SegmentedPropertyTypeCodeSequence[0].CodeMeaning) == (
        "the odd thing",
        "Tissue",
    )
    for item in seg.SegmentSequence:
        assert item.SegmentAlgorithmType == "SEMIAUTOMATIC"
        assert item.SegmentAlgorithmName == "biosam2_nano"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmVersion == "0123456789ab"
        assert len(item.RecommendedDisplayCIELabValue) == 3
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 4
    assert odd.RecommendedDisplayCIELabValue == pytest.approx([34885, 53485, 50171], abs=20)  # red
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == layout.headers[0].SeriesInstanceUID
    assert seg.StudyInstanceUID == layout.headers[0].StudyInstanceUID
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {r.ReferencedSOPClassUID for r in references} == {layout.headers[0].SOPClassUID}


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("Livers", "Liver"), ("tumor", "Neoplasm"), ("kidney_left", "Kidney"), ("cell nuclei", "Tissue")],
)
def test_names_are_known_in_the_spellings_that_people_use(name, meaning):
    assert terms_of(name).kind.meaning == meaning


def test_names_in_any_language_and_of_any_length_come_back(dicom_series, tmp_path):
    names = ["Läsion", "肝臓", "a\\b", "x" * 80]
    folder = dicom_series(
        _voxels(), GRIDS["axial"], SpecificCharacterSet="ISO_IR 100", PatientName="Müller^É"
    )
    layout = read_layout(folder)
    segments = [Segment(n, name) for n, name in enumerate(names, 1)]
    seg = _through_a_file(write_seg(_labels(SHAPE), layout, segments, ALGORITHM), tmp_path)
    found = [segment.name for segment in read_seg(seg, layout).segments]
    assert found == ["Läsion", "肝臓", "a b", "x" * 61 + "..."]
    assert str(seg.PatientName) == "Müller^É"


def test_a_series_whose_tags_are_too_poor_is_refused_plainly(dicom_series):
    folder = dicom_series(_voxels(), GRIDS["axial"])
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.StudyInstanceUID
        dataset.save_as(file)
    with pytest.raises(Unprocessable, match="no DICOM SEG can be made for this series"):
        write_seg(_labels(SHAPE), read_layout(folder), [LIVER, TUMOUR], ALGORITHM)


def test_highdicom_reads_what_was_written(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["oblique"]))
    labels = _labels(SHAPE)
    write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM).save_as(tmp_path / "x.dcm")
    seg = highdicom.seg.segread(tmp_path / "x.dcm")
    planes = seg.get_pixels_by_source_instance(
        [str(header.SOPInstanceUID) for header in layout.headers], combine_segments=True
    )
    np.testing.assert_array_equal(planes.transpose(2, 1, 0), labels)


@pytest.mark.parametrize("name", ["axial", "sagittal", "oblique"])
def test_dcmqi_reads_what_was_written(dicom_series, tmp_path, name):
    folder = dicom_series(_voxels(), GRIDS[name])
    labels = _labels(SHAPE)
    seg = write_seg(labels, read_layout(folder), [LIVER, TUMOUR], ALGORITHM)
    seg.save_as(tmp_path / "x.dcm", write_like_original=False)
    program = Path(subprocess.sys.executable).parent / "segimage2itkimage"
    command = [program, "--inputDICOM", tmp_path / "x.dcm", "--outputDirectory", tmp_path, "-t", "nii"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    volume = load_volume(folder)
    for value in (1, 2):
        image = nib.load(tmp_path / f"{value}.nii.gz")
        its = np.argwhere(np.asarray(image.dataobj) > 0)
        world = image.affine @ np.c_[its, np.ones(len(its))].T
        index = np.rint(np.linalg.inv(volume.affine) @ world)[:3].astype(int).T
        mine = np.argwhere(labels == value)
        assert sorted(map(tuple, index)) == sorted(map(tuple, mine))


@pytest.mark.parametrize("name", ["axial", "descending", "sagittal", "oblique"])
def test_dcmqi_leaves_empty_slices_out_and_nothing_is_lost(dicom_series, tmp_path, name):
    folder = dicom_series(_voxels(), GRIDS[name])
    labels = _labels(SHAPE)
    seg = _dcmqi(labels, folder, tmp_path, ("spleen", "lesion"))
    assert seg.NumberOfFrames < 2 * SHAPE[2]
    found = read_seg(seg, read_layout(folder))
    np.testing.assert_array_equal(found.voxels, labels)
    assert [s.name for s in found.segments] == ["spleen", "lesion"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_real_label_of_another_tool_lies_where_it_says(dicom_series, pydicom_files, step):
    """pydicom's liver, of which only one slice is left; onto its own grid and onto one half as fine."""
    seg = pydicom.dcmread(pydicom_files / "liver_1frame.dcm")
    lps = np.diag([0.810547 * step, 0.810547 * step, 1.0, 1.0])
    lps[:3, 3] = (-235.2, -226.8, -130.69)
    spacing = [0.810547 * step] * 2
    folder = dicom_series(
        np.zeros((512 // step, 512 // step, 4), np.int16), LPS @ lps, PixelSpacing=spacing, SliceThickness=1
    )
    found = read_seg(seg, read_layout(folder))
    expected = np.zeros((512 // step, 512 // step, 4), np.uint8)
    expected[:, :, 2] = seg.pixel_array.T[::step, ::step]
    np.testing.assert_array_equal(found.voxels, expected)
    assert found.voxels.any() and found.segments[0].name == "Liver"


def test_frames_in_any_order_lie_where_they_say(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["oblique"]))
    labels = _labels(SHAPE)
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    order = np.random.default_rng(1).permutation(seg.NumberOfFrames)[:-1]
    groups, pixels = list(seg.PerFrameFunctionalGroupsSequence), seg.pixel_array
    lost = int(np.setdiff1d(np.arange(len(groups)), order)[0])
    assert not pixels[lost].any() or lost >= 0
    kept = labels.copy()
    number = groups[lost].SegmentIdentificationSequence[0].ReferencedSegmentNumber
    k = lost % SHAPE[2]
    kept[:, :, k][kept[:, :, k] == number] = 0
    seg.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]
    seg.NumberOfFrames = len(order)
    seg.PixelData = np.packbits(pixels[order].ravel(), bitorder="little").tobytes()
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, kept)


def test_half_of_a_fractional_label_counts(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    labels = _labels(SHAPE, (1,))
    seg = _through_a_file(write_seg(labels, layout, [LIVER], ALGORITHM), tmp_path)
    pixels = seg.pixel_array
    seg.SegmentationType, seg.MaximumFractionalValue = "FRACTIONAL", 200
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit = 7
    seg.PixelData = np.where(pixels, 100, 99).astype(np.uint8).tobytes() + b"\0"
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)


def test_the_pixels_of_a_label_map_segmentation_are_segment_numbers(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    labels = _labels(SHAPE)
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    seg.PerFrameFunctionalGroupsSequence = list(seg.PerFrameFunctionalGroupsSequence)[: SHAPE[2]]
    for item in seg.PerFrameFunctionalGroupsSequence:
        del item.SegmentIdentificationSequence
    seg.SegmentationType, seg.NumberOfFrames = "LABELMAP", SHAPE[2]
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit = 7
    seg.PixelData = labels.transpose(2, 1, 0).tobytes() + b"\0"
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)


@pytest.mark.parametrize("name", ["axial", "oblique", "tilted"])
def test_a_label_on_a_finer_grid_is_resampled_to_the_nearest_voxel(dicom_series, name, tmp_path):
    fine = GRIDS[name].copy()
    shape = (34, 26, 18)
    labels = np.zeros(shape, np.uint8)
    labels[6:20, 4:18, 4:12] = 1
    labels[10:16, 8:14, 6:10] = 2
    layout = read_layout(dicom_series(_voxels(shape), fine, folder="fine"))
    seg = write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM)
    coarse = fine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = (fine @ [0.25, 0.25, 0.25, 1])[:3]
    found = read_seg(
        seg, read_layout(dicom_series(_voxels(), coarse, folder="coarse", PixelSpacing=[1.8, 1.4]))
    )
    np.testing.assert_array_equal(found.voxels, labels[::2, ::2, ::2])


def test_a_label_on_a_coarser_grid_fills_every_slice_between(dicom_series, tmp_path):
    fine = GRIDS["axial"].copy()
    fine[:3, 2] /= 5
    coarse = GRIDS["axial"].copy()
    labels = _labels((17, 13, 4))
    labels[3:9, 3:9, :] = 1
    layout = read_layout(dicom_series(_voxels((17, 13, 4)), coarse, folder="coarse"))
    seg = write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM)
    found = read_seg(
        seg, read_layout(dicom_series(_voxels((17, 13, 16)), fine, folder="fine", SliceThickness=0.6))
    )
    nearest = np.floor(np.arange(16) / 5 + 0.5).astype(int)
    np.testing.assert_array_equal(found.voxels, labels[:, :, nearest])


def test_a_label_of_the_whole_series_fits_one_with_a_missing_slice(dicom_series):
    labels = _labels(SHAPE)
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"], folder="whole"))
    seg = write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM)
    holed = read_layout(dicom_series(_voxels(), GRIDS["axial"], skip=(3,), folder="holed"))
    np.testing.assert_array_equal(read_seg(seg, holed).voxels, np.delete(labels, 3, axis=2))


def test_a_label_of_a_series_with_a_missing_slice_comes_back(dicom_series, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["tilted"], skip=(3, 4)))
    labels = _labels((17, 13, 7))
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)


@pytest.mark.parametrize("heights", [(0, 3, 6, 9), (9, 6, 3, 0), (3, 0, 9, 6), (5, 5, 5, 5)])
def test_a_multi_frame_file_and_its_label_agree(multi_frame, tmp_path, heights):
    path = multi_frame(_voxels((17, 13, 4)), heights)
    layout, labels = read_layout(path), _labels((17, 13, 4))
    labels[2:7, 3:8, 1] = 2
    labels[4:9, 5:8, 3] = 1
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)
    pixels = seg.pixel_array
    for item, plane in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        k = layout.index[(source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber - 1)]
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(plane.T, labels[:, :, k] == number)


@pytest.mark.parametrize(
    "name", ["SC_rgb_rle_2frame.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_small_odd.dcm", "MR_small.dcm"]
)
def test_pictures_without_a_place_in_the_patient_are_told_by_instance_and_frame(
    pydicom_files, tmp_path, name
):
    path = pydicom_files / name
    volume, layout = load_volume(path), read_layout(path)
    labels = np.random.default_rng(5).choice(np.array([0, 1, 2], np.uint8), volume.shape3)
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    assert ("FrameOfReferenceUID" in seg) == (layout.positions is not None)
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)
    highdicom.seg.segread(tmp_path / "label.dcm")


def test_an_old_ultrasound_cine_keeps_its_frames_and_its_class(pydicom_files, tmp_path):
    cine = pydicom.dcmread(pydicom_files / "SC_rgb_rle_2frame.dcm")
    cine.SOPClassUID = cine.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3"  # retired
    cine.Modality = "US"
    cine.save_as(tmp_path / "cine.dcm")
    layout = read_layout(tmp_path / "cine.dcm")
    labels = np.zeros(layout.shape, np.uint8)
    labels[10:20, 30:50, 1] = 1
    seg = _through_a_file(write_seg(labels, layout, [LIVER], ALGORITHM), tmp_path)
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)
    assert seg.SourceImageSequence[0].ReferencedSOPClassUID == cine.SOPClassUID
    second = seg.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence[0].SourceImageSequence[0]
    assert (second.ReferencedSOPClassUID, second.ReferencedFrameNumber) == (cine.SOPClassUID, 2)


def test_a_series_of_photographs_is_told_by_instance(dicom_series, tmp_path):
    folder = dicom_series(_voxels(), GRIDS["axial"])
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
        dataset.save_as(file)
    layout, labels = read_layout(folder), _labels(SHAPE)
    seg = _through_a_file(write_seg(labels, layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    assert seg.PerFrameFunctionalGroupsSequence[3].FrameContentSequence[0].InStackPositionNumber == 4
    np.testing.assert_array_equal(read_seg(seg, layout).voxels, labels)


def test_what_is_no_label_of_the_image_is_refused(dicom_series, pydicom_files, tmp_path):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    with pytest.raises(Unprocessable, match="no DICOM SEG or damaged"):
        read_seg(pydicom.dcmread(pydicom_files / "CT_small.dcm"), layout)
    seg = _through_a_file(write_seg(_labels(SHAPE), layout, [LIVER, TUMOUR], ALGORITHM), tmp_path)
    seg.PixelData = seg.PixelData[: len(seg.PixelData) // 2]
    with pytest.raises(Unprocessable, match="truncated"):
        read_seg(seg, layout)
    photograph = read_layout(pydicom_files / "SC_rgb_rle_2frame.dcm")
    with pytest.raises(Unprocessable, match="says neither where its slices lie"):
        read_seg(seg, photograph)


def test_labels_on_another_grid_are_a_bug_of_the_caller(dicom_series):
    layout = read_layout(dicom_series(_voxels(), GRIDS["axial"]))
    with pytest.raises(ValueError, match="not on the series' grid"):
        write_seg(np.zeros((3, 3, 3), np.uint8), layout, [LIVER], ALGORITHM)
    with pytest.raises(ValueError, match="do not describe a label map"):
        write_seg(np.zeros(SHAPE, np.uint8), layout, [], ALGORITHM)
