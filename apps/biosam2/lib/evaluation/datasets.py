"""Labelled images on disk: MONAI Label's own layout, the Medical Segmentation Decathlon's, two folders.

Nothing is read here but names and lists; `study.py` reads the voxels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import NotFound, UserError
from lib.imaging.volume import DICOM, NIFTI, NRRD, RASTER

READABLE = NIFTI + NRRD + DICOM + RASTER
FIRST_CHANNEL = "_0000"  # nnU-Net's ending of an image's first channel
MONAI_LABEL = Path("labels", "final")
MONAI_LABEL_LIST = "datastore_v2.json"
DECATHLON_LIST = "dataset.json"


@dataclass(frozen=True)
class Pair:
    """An image and its label file.

    Attributes
    ----------
    name : str
        The image's file name without its ending.
    image, label : Path
        Neither has been looked at; a list may name files that are not there.
    names : dict of int to str
        Structures by their value in the label file, as far as the data set names them.
    modality : str
        As in DICOM, or ``""`` where the data set does not say.
    """

    name: str
    image: Path
    label: Path
    names: dict[int, str] = field(default_factory=dict)
    modality: str = ""


@dataclass(frozen=True)
class Dataset:
    """What was found: the pairs, sorted by name, and the number of images that have no label."""

    layout: str
    pairs: tuple[Pair, ...]
    unlabelled: int


def find_pairs(images: Path, labels: Path | None = None) -> Dataset:
    """Find images with labels.

    Parameters
    ----------
    images : Path
        A folder of images; or of a data set whose layout is known: one with a `dataset.json` (Decathlon,
        nnU-Net) or with `labels/final` (MONAI Label).
    labels : Path, optional
        A folder of label files named as their images are, with any ending that can be read; an image's
        ``_0000`` is left out. Not needed where the layout is known.

    Raises
    ------
    NotFound
        If a folder is not there, or there is not a single pair.
    UserError
        If a list cannot be read, or two files claim the same name.
    """
    for folder in filter(None, (images, labels)):
        if not folder.is_dir():
            raise NotFound(f"folder {folder} does not exist.")
    if labels is not None:
        found = _parallel("two folders", images, labels)
    elif (images / DECATHLON_LIST).is_file():
        found = _decathlon(images)
    elif (images / MONAI_LABEL).is_dir():
        found = _parallel("MONAI Label", images, images / MONAI_LABEL, _monai_label_names(images))
    else:
        raise NotFound(
            f"folder {images} has neither {DECATHLON_LIST} nor {MONAI_LABEL}: "
            "say where the labels are (--labels)."
        )
    if not found.pairs:
        raise NotFound(f"no image in {images} has a label: their names must be the same but for the ending.")
    return found


def stem(path: Path) -> str:
    """A file's name without the ending of its format; a folder's name (a DICOM series) is whole."""
    ending = next((e for e in sorted(READABLE, key=len, reverse=True) if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)] if ending and not path.is_dir() else path.name


def _parallel(
    layout: str,
    images: Path,
    labels: Path,
    names: dict[str, dict[int, str]] | None = None,
    all_names: dict[int, str] | None = None,
    modality: str = "",
) -> Dataset:
    """Pairs of files with the same name; `names`: structures by image, `all_names`: those of the rest."""
    by_name = _by_stem(p for p in labels.iterdir() if _is_readable(p))
    # a folder may be a DICOM series; MONAI Label keeps its labels in one beside the images
    found = _by_stem(p for p in images.iterdir() if _is_readable(p) or (p.is_dir() and p.name in by_name))
    pairs = []
    for name, image in found.items():
        # nnU-Net numbers an image's channels, not its label
        known = name if name in by_name else name.removesuffix(FIRST_CHANNEL)
        if known in by_name:
            noted = (names or {}).get(name) or all_names or {}
            pairs.append(Pair(name, image, by_name[known], noted, modality))
    return Dataset(layout, tuple(pairs), len(found) - len(pairs))


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        other = found.setdefault(stem(path), path)
        if other is not path:
            raise UserError(f"{other.name} and {path.name} in {path.parent} have the same name: keep one.")
    return found


def _is_readable(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(READABLE)


def _monai_label_names(folder: Path) -> dict[str, dict[int, str]]:
    """The structures that MONAI Label noted for the final label of each image, by image id."""
    path = folder / MONAI_LABEL_LIST
    if not path.is_file():
        return {}
    objects = _read(path).get("objects")
    names = {}
    for image, entry in objects.items() if isinstance(objects, dict) else ():
        try:
            info = entry["labels"]["final"]["info"]
        except (KeyError, TypeError):
            continue  # no final label
        names[image] = noted_structures(info) if isinstance(info, dict) else {}
    return names


def noted_structures(info: dict[str, Any]) -> dict[int, str]:
    """Structures in what came with a label: Slicer sends `label_info`, infer tasks `label_names`."""
    listed = info.get("label_info")
    if isinstance(listed, list):
        entries = [e for e in listed if isinstance(e, dict) and "name" in e]
        numbered = {str(e.get("idx", number)): str(e["name"]) for number, e in enumerate(entries, 1)}
        return {int(value): name for value, name in numbered.items() if value.isdecimal()}
    inferred = info.get("label_names") or (info.get("params") or {}).get("label_names")
    return _values(inferred) if isinstance(inferred, dict) else {}


def _decathlon(folder: Path) -> Dataset:
    """A folder with a `dataset.json`, the Decathlon's or nnU-Net's (which lists no files)."""
    about = _read(folder / DECATHLON_LIST)
    names = _values(about.get("labels"))
    modality = _modality(about.get("modality") or about.get("channel_names"))
    listed = about.get("training")
    if listed is None and (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir():
        folders = folder / "imagesTr", folder / "labelsTr"
        return _parallel("nnU-Net", *folders, all_names=names, modality=modality)
    pairs, unlabelled = [], 0
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise UserError(f"{DECATHLON_LIST} in {folder} lists a case without an image: {str(entry)[:80]}.")
        image, label = folder / entry["image"], entry.get("label")
        if isinstance(label, str):
            pairs.append(Pair(stem(image), image, folder / label, names, modality))
        else:
            unlabelled += 1
    twice = {pair.name for pair in pairs if sum(p.name == pair.name for p in pairs) > 1}
    if twice:
        raise UserError(f"{DECATHLON_LIST} in {folder} lists {min(twice)} twice.")
    return Dataset("Medical Segmentation Decathlon", tuple(sorted(pairs, key=lambda p: p.name)), unlabelled)


def _values(labels: object) -> dict[int, str]:
    """Structures by value, from {"1": "liver"} (Decathlon) or {"liver": 1} (nnU-Net); no background."""
    found = {}
    for one, other in labels.items() if isinstance(labels, dict) else ():
        value, name = (one, other) if str(one).isdecimal() else (other, one)
        if str(value).isdecimal() and int(value) != 0:
            found[int(value)] = str(name)
    return found


def _modality(channels: object) -> str:
    """DICOM's word for a data set's only or first channel."""
    first = str(next(iter(channels.values()), "")).strip().upper() if isinstance(channels, dict) else ""
    if first.startswith("CT"):
        return "CT"
    return "MR" if first.startswith(("MR", "T1", "T2", "FLAIR", "ADC", "CINE")) else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no data set: it is not a JSON object.")
    return found
