"""A label map on a series' grid -> DICOM SEG with a frame for every slice, by highdicom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.content import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DSfloat
from skimage.color import rgb2lab

from lib.errors import Unprocessable
from lib.imaging.readers import dicom_geometry as tags
from lib.imaging.readers.dicom_layout import Layout
from lib.imaging.seg.segments import Segment, terms_of

logger = logging.getLogger(__name__)

MANUFACTURER = "BioSAM-2"
SERIES_NUMBER = 300  # where MONAI Label puts its own
# A private element of each segment: the label map's own value, since DICOM numbers segments 1, 2, 3.
PRIVATE_GROUP, PRIVATE_CREATOR, PRIVATE_VALUE = 0x0063, "BIOSAM2 SEG", 0x01
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")
LONG_STRING = 64  # characters of VR LO


@dataclass(frozen=True)
class Algorithm:
    """What made the masks: the checkpoint's name and version."""

    name: str
    version: str


def write_seg(
    labels: np.ndarray,
    layout: Layout,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    software: str = "0.1.0",
) -> Segmentation:
    """Make a DICOM SEG of a label map.

    Parameters
    ----------
    labels : np.ndarray
        (I, J, K) whole numbers, 0 for none: columns, rows and slices of `layout`, in the volume's order.
    layout : Layout
        The series that the image was read from; every slice of it gets a frame in every segment, with its
        own position, empty or not, so that a reader finds them all.
    segments : sequence of Segment
        What the values stand for, one or more. A value that none of them names is left out.
    algorithm : Algorithm
        Goes into SegmentAlgorithmName (0062,0009) and the algorithm's identification; the type is
        SEMIAUTOMATIC, as a person prompted it.
    software : str
        SoftwareVersions (0018,1020).

    Returns
    -------
    highdicom.seg.Segmentation
        BINARY, in a new series of the image's study. Slices without a place of their own in the patient
        (photographs, cines) are told by the instance and frame they come from alone.

    Raises
    ------
    Unprocessable
        If the series' tags (UIDs, the patient's, the study's) do not allow one.
    ValueError
        If the labels are not on the layout's grid, or no segment or one value twice is given: a bug of
        the caller, not of a person.
    """
    if labels.shape != layout.shape:
        raise ValueError(f"labels of shape {labels.shape} are not on the series' grid {layout.shape}")
    values = [segment.value for segment in segments]
    if not values or len(set(values)) != len(values) or min(values) < 1:
        raise ValueError(f"segments with the values {values} do not describe a label map")
    numbers = np.zeros(max(int(labels.max()), *values) + 1, np.uint8 if len(values) < 256 else np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    names = ", ".join(segment.name for segment in segments)
    # highdicom numbers the frames it refers to as they come, so they come in the file's order, which is
    # the volume's unless the frames' positions are out of order.
    in_file = np.argsort(layout.frames, kind="stable") if layout.is_multi_frame else slice(None)
    pixels = np.ascontiguousarray(numbers[labels.transpose(2, 1, 0)][in_file])
    try:
        made = Segmentation(
            source_images=_sources(layout),
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=[_describe(n, s, algorithm) for n, s in enumerate(segments, 1)],
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=software,
            device_serial_number=algorithm.version or "0",
            content_label="SEGMENTATION",
            content_description=_cut(names),
            series_description=_cut(f"{MANUFACTURER}: {names}"),
            omit_empty_frames=False,
        )
        made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: people name structures in their own language
        _refer(made, layout)
        if layout.positions is None:
            _take_out_places(made)
        return made
    except Exception as error:  # what highdicom and pydicom raise on tags that break DICOM's rules
        logger.exception("no DICOM SEG can be made for series %s", layout.headers[0].get("SeriesInstanceUID"))
        raise Unprocessable(
            "no DICOM SEG can be made for this series: its tags are incomplete or break DICOM's rules"
        ) from error


def _describe(number: int, segment: Segment, algorithm: Algorithm) -> SegmentDescription:
    terms = terms_of(segment.name)
    item = SegmentDescription(
        segment_number=number,
        segment_label=_cut(segment.name),
        segmented_property_category=terms.category,
        segmented_property_type=terms.kind,
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=_cut(algorithm.name), family=ARTIFICIAL_INTELLIGENCE, version=_cut(algorithm.version or "0")
        ),
        tracking_id=_cut(f"{segment.name} {segment.value}"),
        tracking_uid=generate_uid(),
    )
    if terms.side is not None:
        item.SegmentedPropertyTypeCodeSequence[0].add_new(
            Tag("SegmentedPropertyTypeModifierCodeSequence"), "SQ", [CodedConcept.from_code(terms.side)]
        )
    lab = rgb2lab(np.array(segment.color or terms.color, dtype=np.uint8)[None, None] / 255.0)[0, 0]
    item.RecommendedDisplayCIELabValue = list(CIELabColor(*(float(x) for x in lab)).value)
    block = item.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(PRIVATE_VALUE, "UL", segment.value)
    return item


def _cut(text: str) -> str:
    # A backslash parts values in DICOM, and no control character may stand in a string.
    clean = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text).strip()
    return (clean if len(clean) <= LONG_STRING else clean[: LONG_STRING - 3] + "...") or "structure"


def _sources(layout: Layout) -> list[Dataset]:
    """The series as highdicom wants it: every attribute it takes for granted, whatever the scanner left out.

    One dataset a slice, or one of all frames. highdicom reads positions from the top level of the one and
    the functional groups of the other; cines of the old kind (US, XA) have neither, and photographs have
    no place at all. Those get places one above the other, which `_take_out_places` takes out again.
    """
    count = len(layout.headers)
    positions = layout.positions
    if positions is None:
        positions = np.outer(np.arange(count), (0.0, 0.0, 1.0))
    columns, rows = layout.in_plane.T
    spacing = float(np.linalg.norm(rows)), float(np.linalg.norm(columns))  # between rows, between columns
    # The tags' own digits, so that the label's frames lie exactly on the image's slices.
    orientation = _decimals(tags.orientation_of(layout.views[0]) or tags.AXIAL)
    between, (thickness,) = _decimals(spacing), _decimals([layout.gap])
    headers = layout.headers[:1] if layout.is_multi_frame else layout.headers
    sources = [_source(headers[0]), *(_source(header, _OF_EACH) for header in headers[1:])]
    if not layout.is_multi_frame:
        for source, position in zip(sources, positions, strict=True):
            source.ImagePositionPatient = _decimals(position)
            source.ImageOrientationPatient = orientation
            source.PixelSpacing, source.SliceThickness = between, thickness
        return sources
    patient = CoordinateSystemNames.PATIENT
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = PixelMeasuresSequence(between, thickness)
    shared.PlaneOrientationSequence = PlaneOrientationSequence(patient, orientation)
    for position in positions[np.argsort(layout.frames)]:
        frame = Dataset()
        frame.PlanePositionSequence = PlanePositionSequence(patient, _decimals(position))
        frames.append(frame)
    sources[0].SharedFunctionalGroupsSequence = [shared]
    sources[0].PerFrameFunctionalGroupsSequence = frames
    sources[0].NumberOfFrames = count
    return sources


def _source(header: Any, keywords: Sequence[str] | None = None) -> Dataset:
    """What highdicom copies from a header: all that is public, or the attributes named."""
    source = Dataset()
    for tag in header.keys() if keywords is None else [Tag(keyword) for keyword in keywords]:
        if tag in header and tag.group % 2 == 0 and header[tag].keyword not in _LEFT_OUT:
            source.add(copy(header[tag]))  # or the changes below would be the header's too
    for keyword in _TYPE_2:
        if keyword not in source:
            setattr(source, keyword, None)
    if not source.get("FrameOfReferenceUID"):
        # The same for every label of the series, so that viewers lay them over one another.
        source.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(header.SeriesInstanceUID)])
    # highdicom knows no retired classes (old ultrasound), and takes only the patient and the study by it;
    # `_refer` puts the class itself where the image is referred to.
    source.SOPClassUID = SecondaryCaptureImageStorage
    if not (source.get("LossyImageCompressionRatio") and source.get("LossyImageCompressionMethod")):
        source.LossyImageCompression = "00"
    return source


_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_OF_EACH = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "Rows", "Columns"),
)
_LEFT_OUT = {
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"),
    *("TotalPixelMatrixRows", "TotalPixelMatrixColumns", "ImageOrientationSlide"),
    *("ImageCenterPointCoordinatesSequence", "SpacingBetweenSlices"),
}


def _decimals(numbers: Sequence[float] | np.ndarray) -> list[DSfloat]:
    """Numbers with as many digits as the 16 characters of VR DS hold."""
    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _refer(seg: Dataset, layout: Layout) -> None:
    """Put each image's own SOPClassUID into the references to it."""
    classes = {str(header.SOPInstanceUID): header.SOPClassUID for header in layout.headers}
    references = list(seg.SourceImageSequence)
    for series in seg.ReferencedSeriesSequence:
        references += series.ReferencedInstanceSequence
    for frame in seg.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            references += derivation.SourceImageSequence
    for reference in references:
        reference.ReferencedSOPClassUID = classes[str(reference.ReferencedSOPInstanceUID)]


def _take_out_places(seg: Dataset) -> None:
    """Turn made-up positions into the numbers of a stack, which is what DICOM has for images without any.

    PS3.3 C.7.6.16.2.2: StackID (0020,9056) and InStackPositionNumber (0020,9057); the frame of reference
    and the plane macros are for images with a place in the patient (A.51.3).
    """
    del seg.FrameOfReferenceUID, seg.PositionReferenceIndicator
    del seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
        content = frame.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = "1", content.DimensionIndexValues[1]
    index = seg.DimensionIndexSequence[1]
    index.DimensionIndexPointer = Tag("InStackPositionNumber")
    index.FunctionalGroupPointer = Tag("FrameContentSequence")
    index.DimensionDescriptionLabel = "In-Stack Position Number"
