"""The note beside a NIfTI file made of a DICOM series: what the tags said and NIfTI has no place for."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lib.imaging.readers.raw import RawImage

logger = logging.getLogger(__name__)

# Not plain ".json": BIDS keeps sidecars of that name, with other content.
SUFFIX = ".dicom.json"
NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True)
class DicomNote:
    """What a window, a warning and the choice of the slice axis need of the DICOM series.

    Attributes
    ----------
    modality : str
        Modality (0008,0060).
    window : tuple of float or None
        (level, width) from WindowCenter (0028,1050) and WindowWidth (0028,1051).
    slice_axis : int
        Array axis the slices lie along.
    warnings : tuple of str
        Missing slices, a tilted gantry.
    instances : int
        Instances (files) that the series had when it was converted.
    """

    modality: str
    window: tuple[float, float] | None
    slice_axis: int
    warnings: tuple[str, ...]
    instances: int

    def applied(self, raw: RawImage) -> RawImage:
        """A NIfTI file's content with what the series said."""
        return replace(
            raw,
            modality=self.modality,
            window=self.window,
            slice_axis=self.slice_axis,
            warnings=self.warnings,
        )

    def write(self, image: Path) -> None:
        """Write the note beside the NIfTI file `image`."""
        note_path(image).write_text(json.dumps(asdict(self), indent=1))


def note_path(image: Path) -> Path:
    """Where the note of a NIfTI file lies, whether there is one or not."""
    for ending in NIFTI:
        if image.name.lower().endswith(ending):
            return image.with_name(image.name[: -len(ending)] + SUFFIX)
    return image.with_name(image.name + SUFFIX)


def read_note(image: Path) -> DicomNote | None:
    """The note of a NIfTI file, None if it has none that can be read."""
    try:
        found = json.loads(note_path(image).read_text())
        window = found["window"]
        return DicomNote(
            modality=str(found["modality"]),
            window=None if window is None else (float(window[0]), float(window[1])),
            slice_axis=int(found["slice_axis"]),
            warnings=tuple(str(warning) for warning in found["warnings"]),
            instances=int(found["instances"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        logger.warning("the note beside %s cannot be read: %s", image.name, error)
        return None
