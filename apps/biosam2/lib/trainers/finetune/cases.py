"""The datastore's final labels as cases, and which of them are held out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelException

from lib.errors import Unavailable, UserError
from lib.evaluation.datasets import Pair, noted_structures
from lib.evaluation.study import fingerprint

HOLD_OUT = 0.25  # share of the patients that are never trained on
# BIDS names the subject first; other file names say nothing that could be relied on.
_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(_|$)")


@dataclass(frozen=True)
class LabelledCase:
    """An image with a final label.

    Attributes
    ----------
    image : str
        Its id in the datastore.
    patient : str
    pair : Pair
        The files, and the structures by value as far as the label's note names them.
    sha256 : str
        12 hexadecimal digits that stand for the content of both files.
    """

    image: str
    patient: str
    pair: Pair
    sha256: str

    @property
    def held_out(self) -> bool:
        """Whether the gate has it: decided by the patient alone, for good, on every machine the same."""
        return is_held_out(self.patient)


@dataclass(frozen=True)
class LeftOut:
    """A labelled image that cannot be learnt from, and why, in a sentence."""

    image: str
    reason: str


def is_held_out(patient: str) -> bool:
    """Whether a patient is one of the `HOLD_OUT`."""
    digest = hashlib.sha256(patient.encode()).digest()
    return int.from_bytes(digest[:8]) < HOLD_OUT * 2**64


def labelled_cases(datastore: Datastore) -> tuple[list[LabelledCase], list[LeftOut]]:
    """All images with a final label, by id; and those whose files cannot be had.

    Raises
    ------
    Unavailable
        If the archive does not answer: training on what happens to be here would forget the rest.
    """
    cases, left_out = [], []
    for image in sorted(datastore.get_labeled_images(DefaultLabelTag.FINAL)):
        try:
            cases.append(labelled_case(datastore, image))
        except Unavailable:
            raise
        except (UserError, MONAILabelException, OSError) as error:
            left_out.append(LeftOut(image, str(getattr(error, "msg", error))))
    return cases, left_out


def labelled_case(datastore: Datastore, image: str) -> LabelledCase:
    """One image with a final label.

    Raises
    ------
    UserError
        If image or label were deleted.
    """
    # the label first: without one, the image needs not be fetched
    label_path = datastore.get_label_uri(image, DefaultLabelTag.FINAL)
    image_path = datastore.get_image_uri(image)
    if not image_path or not Path(image_path).exists():
        raise UserError(f"image {image} was deleted; its label is still there.")
    if not label_path:
        raise UserError(f"the label of image {image} was deleted.")
    names = _names(datastore.get_label_info(image, DefaultLabelTag.FINAL) or {})
    pair = Pair(image, Path(image_path), Path(label_path), names)
    return LabelledCase(image, patient_of(image, datastore.get_image_info(image)), pair, fingerprint(pair))


def _names(info: dict[str, Any]) -> dict[int, str]:
    """The structures in a label's note; a note that nobody understands names none."""
    try:
        return noted_structures(info)
    except (TypeError, ValueError):
        return {}


def patient_of(image: str, info: dict[str, Any]) -> str:
    """Whose image it is: DICOM's Patient ID (0010,0020), a BIDS subject, or else the image by itself."""
    named = info.get("PatientID") or info.get("patient")
    if named:
        return str(named)
    subject = _SUBJECT.match(Path(image).name)
    return subject[1] if subject else image
