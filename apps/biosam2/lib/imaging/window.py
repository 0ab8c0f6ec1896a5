"""Intensities to 8 bit: CT windows, DICOM window tags, percentiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.exposure import equalize_adapthist

from lib.errors import UserError
from lib.imaging.volume import Volume

# (level, width) in HU. The default is that of the paper's training: soft tissue.
PRESETS: dict[str, tuple[float, float]] = {
    "soft_tissue": (40.0, 400.0),
    "abdomen": (40.0, 400.0),
    "mediastinum": (50.0, 350.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (35.0, 40.0),
    "liver": (30.0, 150.0),
    "spine": (50.0, 250.0),
    "angio": (300.0, 600.0),
}
CT_DEFAULT = PRESETS["soft_tissue"]

# Air is -1000 HU and padding at most about -3072; MR phase images, also signed, reach -4096.
CT_MINIMUM = (-3100.0, -500.0)
# Any CT of a body has something denser than 200 HU (bone, contrast); MR in signed types has no air.
CT_MAXIMUM = 200.0

# Well inside float32, so that neither a bound nor 255 / width overflows.
LARGEST = 1e30


@dataclass(frozen=True)
class Window:
    """The intensities shown as black (`low`) and white (`high`), both in the volume's own unit.

    Raises
    ------
    ValueError
        Unless ``low < high`` and single precision, in which slices are scaled, can express both.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        fits = abs(self.low) < LARGEST and abs(self.high) < LARGEST
        if not (fits and self.high - self.low > 1 / LARGEST):
            raise ValueError(f"window from {self.low} to {self.high} is empty or not finite")

    @classmethod
    def from_level_width(cls, level: float, width: float) -> Window:
        """A window centred on `level` and `width` wide (PS3.3 C.11.2.1.3.2, LINEAR_EXACT)."""
        return cls(level - width / 2, level + width / 2)


def choose_window(volume: Volume, request: object = None) -> Window:
    """Pick the window a volume is shown to the model in.

    Parameters
    ----------
    volume : Volume
        The image.
    request : str, mapping, pair or None
        What the person asked for: a name in `PRESETS`, ``{"level": ..., "width": ...}`` or
        ``(level, width)``. Without it: the DICOM window tags; 40/400 for CT; the whole 8-bit range for
        pictures and other 8-bit DICOM; else the 0.5 to 99.5 percentile of the non-zero voxels.

    Returns
    -------
    Window

    Raises
    ------
    UserError
        If the request names no preset, or level and width make no window.
    """
    if request is not None:
        return _requested(request)
    if volume.window is not None:
        try:
            return Window.from_level_width(*volume.window)
        except ValueError:
            pass  # scanners do write a width of 0: as good as no tag
    if volume.is_rgb and volume.voxels.dtype.kind == "u":
        return Window(0.0, float(np.iinfo(volume.voxels.dtype).max))
    if volume.voxels.dtype == np.uint8 and volume.kind in ("raster", "dicom"):
        # Already made for a screen: stretching it would change what the person sees.
        return Window(0.0, 255.0)
    if volume.modality == "CT" or looks_like_ct(volume):
        return Window.from_level_width(*CT_DEFAULT)
    return Window(*volume.percentiles)


def looks_like_ct(volume: Volume) -> bool:
    """Whether a volume that does not name its modality holds Hounsfield units.

    CT is the one modality with negative numbers by definition (water 0, air -1000), stored as whole
    numbers. So: whole numbers, a minimum that is air or padding, and a maximum denser than soft tissue.
    Whole numbers in a float type count too, since converters write CT so.
    """
    if volume.modality or volume.is_rgb or volume.voxels.dtype.kind not in "if":
        return False
    seen = volume.statistics
    return seen.whole and CT_MINIMUM[0] <= seen.minimum <= CT_MINIMUM[1] and seen.maximum > CT_MAXIMUM


def to_uint8(plane: np.ndarray, window: Window) -> np.ndarray:
    """Map one slice to 8 bit.

    Parameters
    ----------
    plane : np.ndarray
        (A, B) grey, or (A, B, 3) colour.
    window : Window
        What becomes 0 and 255; values outside are clipped. Colour of 8 or 16 bit is not windowed:
        uint8 passes as it is, uint16 is scaled from its full range.

    Returns
    -------
    np.ndarray
        uint8 of the same shape; NaN becomes 0.
    """
    if plane.ndim == 3:
        if plane.dtype == np.uint8:
            return plane
        if plane.dtype == np.uint16:
            window = Window(0.0, 65535.0)
    scaled = plane.astype(np.float32)
    scaled -= np.float32(window.low)
    scaled *= np.float32(255.0 / (window.high - window.low))
    scaled += np.float32(0.5)
    if plane.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    np.clip(scaled, 0.0, 255.0, out=scaled)
    return scaled.astype(np.uint8)


def _requested(request: object) -> Window:
    if isinstance(request, str):
        name = request.strip().lower().replace(" ", "_").replace("-", "_")
        if name not in PRESETS:
            raise UserError(f"window '{request}' is no preset; use one of {', '.join(PRESETS)}")
        return Window.from_level_width(*PRESETS[name])
    pair: Sequence[Any]
    if isinstance(request, Mapping):
        pair = (request.get("level"), request.get("width"))
    elif isinstance(request, Sequence):
        pair = request
    else:
        pair = ()
    if len(pair) != 2 or not all(_is_number(value) for value in pair):
        raise UserError(f"window {request!r} is not a preset, a pair or an object of level and width")
    level, width = float(pair[0]), float(pair[1])
    if not width > 0:
        raise UserError(f"window width {width:g} is not greater than 0")
    try:
        return Window.from_level_width(level, width)
    except ValueError:
        raise UserError(f"window level {level:g} and width {width:g} make no window") from None


def _is_number(value: object) -> bool:
    is_real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_real and math.isfinite(float(value))  # type: ignore[arg-type]


CONTRAST = 0.01  # how far a place's own contrast may be drawn out
LEAST_RANGE = 8  # grey levels: a flat picture is not made into one of its noise


def stretched(pixels: np.ndarray, share: float = 0.01) -> np.ndarray:
    """A part of a slice in a window of its own, in which what was faint stands out.

    Parameters
    ----------
    pixels : ndarray uint8, any shape
        The channels of a colour share their window, so that hues stay.
    share : float
        This much of the pixels becomes black, and as much white.

    Returns
    -------
    ndarray uint8
        As large as `pixels`.
    """
    if not pixels.size:
        return pixels
    sums = np.cumsum(np.bincount(pixels.ravel(), minlength=256))
    low, high = np.searchsorted(sums, [share * sums[-1], (1 - share) * sums[-1]])
    scale = 255 / max(int(high) - int(low), LEAST_RANGE)
    table = np.clip((np.arange(256) - float(low)) * scale, 0, 255).astype(np.uint8)
    return table[pixels]


def equalised(pixels: np.ndarray) -> np.ndarray:
    """A part of a slice with the contrast of each place drawn out (CLAHE, Zuiderveld 1994).

    Parameters
    ----------
    pixels : ndarray uint8, (A, B) or (A, B, 3)
        Of a colour, its brightness is equalised.

    Returns
    -------
    ndarray uint8
        As large as `pixels`.
    """
    if int(pixels.max(initial=0)) - int(pixels.min(initial=255)) < LEAST_RANGE:
        return pixels
    return (equalize_adapthist(pixels, clip_limit=CONTRAST) * 255).round().astype(np.uint8)
