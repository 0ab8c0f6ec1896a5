"""Segment: what a value in a label map stands for, and the coded terms for names that are known."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

from pydicom.sr.coding import Code

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")

Rgb = tuple[int, int, int]

# name: SNOMED CT code, its meaning, colour (3D Slicer's where it has one).
_ANATOMY: dict[str, tuple[str, str, Rgb]] = {
    "adrenal gland": ("23451007", "Adrenal gland", (244, 186, 150)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "bladder": ("89837001", "Bladder", (222, 154, 132)),
    "bone": ("272673000", "Bone", (241, 214, 145)),
    "brain": ("12738006", "Brain", (250, 250, 225)),
    "cell": ("4421005", "Cell", (144, 196, 220)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "hippocampus": ("5366008", "Hippocampus", (193, 142, 203)),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "lateral ventricle": ("66720007", "Lateral ventricle", (88, 106, 215)),
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "nucleus": ("84640000", "Nucleus", (92, 92, 196)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "spine": ("421060004", "Spine", (226, 202, 134)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "thyroid": ("69748006", "Thyroid", (62, 162, 114)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "uterus": ("35039007", "Uterus", (255, 181, 158)),
    "vertebra": ("51282000", "Vertebra", (255, 255, 207)),
}
_ABNORMAL: dict[str, tuple[str, str, Rgb]] = {
    "cyst": ("367643001", "Cyst", (205, 205, 100)),
    "edema": ("79654002", "Edema", (140, 224, 228)),
    "hemorrhage": ("50960005", "Hemorrhage", (188, 65, 28)),
    "lesion": ("52988006", "Lesion", (253, 135, 192)),
    "mass": ("4147007", "Mass", (144, 238, 144)),
    "necrosis": ("6574001", "Necrosis", (216, 191, 216)),
    "nodule": ("27925004", "Nodule", (202, 164, 140)),
    "tumor": ("108369006", "Neoplasm", (144, 196, 100)),
}
_SPELLED = {
    "cell nucleus": "nucleus",
    "haemorrhage": "hemorrhage",
    "neoplasm": "tumor",
    "nuclei": "nucleus",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "thyroid gland": "thyroid",
    "tumour": "tumor",
    "urinary bladder": "bladder",
}
_SIDES = {
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}


@dataclass(frozen=True)
class Segment:
    """One structure of a label map.

    Attributes
    ----------
    value : int
        Its voxels in the label map, 1 or more.
    name : str
        What the person calls it.
    color : tuple of int or None
        RGB, 0 to 255; None chooses one by the name.
    """

    value: int
    name: str
    color: Rgb | None = None


@dataclass(frozen=True)
class Terms:
    """How DICOM names a structure (PS3.3 C.8.20.4).

    Attributes
    ----------
    category : Code
        SegmentedPropertyCategoryCodeSequence (0062,0003).
    kind : Code
        SegmentedPropertyTypeCodeSequence (0062,000F).
    side : Code or None
        SegmentedPropertyTypeModifierCodeSequence (0062,0011): left or right.
    color : tuple of int
        RGB, 0 to 255.
    """

    category: Code
    kind: Code
    side: Code | None
    color: Rgb


def terms_of(name: str) -> Terms:
    """The coded terms of a name; "Tissue" for one that is not in the table.

    "left kidney", "kidney_left" and "Kidneys" are kidneys; a spelling that is merely like one is not.
    """
    words = name.lower().replace("_", " ").replace("-", " ").split()
    sides = [word for word in words if word in _SIDES]
    side = _SIDES[sides[0]] if len(sides) == 1 else None
    plain = " ".join(word for word in words if word not in _SIDES)
    for known in (plain, plain.removesuffix("s")):
        known = _SPELLED.get(known, known)
        if known in _ANATOMY:
            code, meaning, color = _ANATOMY[known]
            return Terms(ANATOMY, Code(code, "SCT", meaning), side, color)
        if known in _ABNORMAL:
            code, meaning, color = _ABNORMAL[known]
            return Terms(ABNORMAL, Code(code, "SCT", meaning), side, color)
    return Terms(TISSUE, TISSUE, side, _color_of(plain))


def _color_of(name: str) -> Rgb:
    # Spread over the hues by the name itself, so that a structure keeps its colour from label to label.
    hue = sum(ord(letter) * (n + 7) for n, letter in enumerate(name)) * 0.618034 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
