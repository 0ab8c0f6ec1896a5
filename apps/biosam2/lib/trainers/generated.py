"""Generated, anatomy-like images with exact masks: what the default checkpoint learns from.

Shapes, nesting, contrast, texture, partial volume, blur, noise and bias field are all drawn at random, far
beyond the realistic (SynthFM, arXiv 2504.08177; SynthSeg), so that the network learns to find what a prompt
points to rather than one organ in one modality. No image of a person is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

SCENE_SIZE = 256
WHOLE = 0.6  # share of a shape that must be left to see
CONTRAST = 0.6  # least gap between the medians of inside and surround, in units of their summed deviations
FAINTEST = 0.15  # the same for structures that a real label names, whether they stand out or not
MIN_AREA = 24  # pixels of a scene; below it a "structure" is a speck that the noise can swallow


# a mask as it was painted, and the first and last of the labels that belong to it
Candidate = tuple[np.ndarray, int, int]


@dataclass
class Scene:
    """One generated image and its structures.

    Attributes
    ----------
    image : ndarray of float32, (H, W), 0 to 1
        Before acquisition effects: piecewise textures with partial volume at the borders.
    masks : list of ndarray of bool, (H, W)
        The structures that can be asked for; they may nest and overlap.
    """

    image: np.ndarray
    masks: list[np.ndarray]


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A smooth random field, zero mean and unit deviation, about `cells` bumps wide. Shape (size, size)."""
    spread = _spread(size, cells)
    field = spread @ rng.standard_normal((cells + 3, cells + 3)).astype(np.float32) @ spread.T
    return (field - field.mean()) / (field.std() + 1e-6)


@lru_cache(maxsize=512)
def _spread(size: int, cells: int) -> np.ndarray:
    """Spline interpolation of a line of `cells` + 3 values, (size, cells + 3); both axes of a field alike."""
    factor = (size + 2 * size // cells) / (cells + 3)
    line = ndimage.zoom(np.eye(cells + 3), (factor, 1), order=1 if cells > 40 else 3)
    return line[:size].astype(np.float32)


def generate_scene(rng: np.random.Generator, size: int = SCENE_SIZE, difficulty: float = 1.0) -> Scene:
    """Draw one scene of `size` x `size` pixels; `difficulty` (0 to 1) scales the textures."""
    labels = np.zeros((size, size), np.int16)
    candidates: list[Candidate] = []
    style = rng.choice(["organs", "partition", "nuclei", "rings"], p=[0.45, 0.2, 0.15, 0.2])
    if style in ("partition", "organs") and rng.random() < (1.0 if style == "partition" else 0.4):
        labels[:] = _partition(rng, size, int(rng.integers(2, 6)), int(rng.integers(2, 7)))
        if style == "partition":
            regions = ((labels == v, v) for v in np.unique(labels))
            candidates += [(piece, v, v) for region, v in regions for piece in _pieces(region)]
    next_label = int(labels.max()) + 1

    if style == "nuclei":
        radius = float(np.exp(rng.uniform(np.log(size * 0.02), np.log(size * 0.09))))
        for _ in range(int(rng.integers(10, 60))):
            shape = _blob(rng, size, rng.uniform(0, size, 2), radius * rng.uniform(0.7, 1.3), lobes=0.1)
            if shape.any():
                labels[shape] = next_label
                candidates.append((shape, next_label, next_label))
                next_label += 1
    else:
        for _ in range(int(rng.integers(3, 11))):
            added, next_label = _structure(rng, labels, next_label, ringy=style == "rings")
            candidates += added

    image = _paint(rng, labels, style == "nuclei" and rng.random() < 0.7, difficulty)
    return Scene(image, [m for m in (_visible(c, labels) for c in candidates) if m is not None])


LABELS_A_STRUCTURE = 16  # in a clip: a structure keeps its labels on every slice, whatever parts show there


def generate_clip(
    rng: np.random.Generator, frames: int, size: int = SCENE_SIZE
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Slices through a generated volume: structures that grow, shrink, move, appear and end.

    Returns
    -------
    images : list of ndarray uint8 (size, size, 3), one a slice
    masks : list, one a structure, of lists of ndarray of bool (size, size), one a slice; empty where absent
    """
    count = int(rng.integers(3, 9))
    seeds = rng.integers(0, 2**31, count)
    middle = rng.uniform(-1, frames, count)
    reach = np.exp(rng.uniform(np.log(1.0), np.log(4.0 * frames), count))
    drift = rng.normal(0, size * 0.012, (count, 2))
    ground, look, scan = rng.integers(0, 2**31, 3)
    parted, ringy = rng.random() < 0.4, rng.random() < 0.3
    images: list[np.ndarray] = []
    masks: list[list[np.ndarray]] = [[] for _ in range(count)]
    for t in range(frames):
        labels = np.zeros((size, size), np.int16)
        if parted:
            labels[:] = _partition(np.random.default_rng(ground), size, 4, 4)
        shown: dict[int, Candidate] = {}
        for s in range(count):
            # the outline of a ball or of a longer body, cut at t
            scale = np.sqrt(max(0.0, 1 - ((t - middle[s]) / reach[s]) ** 2))
            if scale > 0.1:
                first = (s + 1) * LABELS_A_STRUCTURE
                own = np.random.default_rng(seeds[s])
                offered, _ = _structure(own, labels, first, ringy, scale, drift[s] * (t - middle[s]))
                if offered:
                    shown[s] = offered[0]
        image = _paint(np.random.default_rng(look), labels, False, 1.0, (count + 1) * LABELS_A_STRUCTURE)
        images.append(acquire(np.random.default_rng(scan), image, grain=rng))
        for s in range(count):
            mask, first, last = shown.get(s, (np.zeros((size, size), bool), 0, -1))
            masks[s].append(mask & (labels >= first) & (labels <= last))
    return images, masks


TURN, SCALE, SHIFT = 10.0, 0.1, 0.05  # between patients: degrees, deviation of the size, of the image's side
BEND = 0.025  # deviation by which points move, of the image's side
MISSING = 0.3  # share of the patients that are without a structure: most slices of a volume are


def generate_patients(
    rng: np.random.Generator, count: int, size: int = SCENE_SIZE
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """The same anatomy in several patients: bent, turned, scaled and shifted, each as its scanner shows it.

    Returns
    -------
    images : list of ndarray uint8 (size, size, 3), one a patient
    masks : list, one a structure, of lists of ndarray of bool (size, size), one a patient; empty where absent
    """
    labels = np.zeros((size, size), np.int16)
    parted = rng.random() < 0.3
    if parted:
        labels[:] = _partition(rng, size, int(rng.integers(2, 5)), int(rng.integers(2, 5)))
    next_label, offered = int(labels.max()) + 1, []
    for _ in range(int(rng.integers(3, 9))):
        added, next_label = _structure(rng, labels, next_label, rng.random() < 0.3)
        offered += [(first, last) for _, first, last in added]
    if parted:
        offered += [(v, v) for v in range(int(labels.max()) + 1)]
    means = rng.uniform(0.05, 0.95, next_label).astype(np.float32)
    alike, scan = rng.random() < 0.5, int(rng.integers(2**31))
    images: list[np.ndarray] = []
    masks: list[list[np.ndarray]] = [[] for _ in offered]
    for _ in range(count):
        own = _bent(rng, labels)
        for first, last in offered if images else ():
            if rng.random() < MISSING:
                own = _without(own, (own >= first) & (own <= last))
        shown = means + rng.normal(0, 0.04 if alike else 0.12, len(means))
        image = _paint(rng, own, False, 1.0, next_label, np.clip(shown, 0, 1).astype(np.float32))
        scanner = np.random.default_rng(scan) if alike else rng
        images.append(acquire(scanner, image, 0.7, grain=rng))
        for n, (first, last) in enumerate(offered):
            masks[n].append((own >= first) & (own <= last))
    return images, masks


def _bent(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """A label map as it lies in another patient."""
    size = labels.shape[0]
    turn, middle = np.deg2rad(rng.normal(0, TURN)), (size - 1) / 2
    y, x = np.indices(labels.shape, np.float32).reshape(2, -1) - middle
    y, x = np.exp(rng.normal(0, SCALE, (2, 1))) * [y, x]
    places = np.stack([y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)])
    places += middle + rng.normal(0, SHIFT * size, (2, 1))
    cells = int(rng.integers(2, 7))
    bend = np.stack([smooth_noise(rng, size, cells).ravel() for _ in range(2)])
    places += BEND * size * np.exp(rng.normal(0, 0.4)) * bend
    return ndimage.map_coordinates(labels, places, order=0, mode="nearest").reshape(labels.shape)


def _without(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A label map in which what is around a structure has grown over it."""
    if mask.all() or not mask.any():
        return labels
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    return labels[tuple(nearest)]


def acquire(
    rng: np.random.Generator,
    image: np.ndarray,
    difficulty: float = 1.0,
    grain: np.random.Generator | None = None,
) -> np.ndarray:
    """What a scanner and a window make of a scene: blur, bias field, noise, gamma, window, sometimes colour.

    Parameters
    ----------
    image : ndarray of float32, (H, W), 0 to 1
    difficulty : float, 0 to 1
        Scales the bias field and the noise.
    grain : Generator, optional
        Draws the noise of each pixel, where the slices of a volume share everything else that `rng` draws.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    size = image.shape[0]
    grain = grain or rng
    out = image
    if rng.random() < 0.5:
        out = ndimage.gaussian_filter(out, rng.uniform(0.3, 1.6))
    if rng.random() < 0.5:
        out = out * np.exp(
            difficulty * rng.uniform(0.05, 0.4) * smooth_noise(rng, size, int(rng.integers(1, 4)))
        )
    kind = rng.choice(["gauss", "rician", "speckle", "coarse", "none"], p=[0.35, 0.15, 0.15, 0.2, 0.15])
    level = difficulty * rng.uniform(0.0, 0.12)
    if kind == "gauss":
        out = out + level * grain.standard_normal(out.shape, dtype=np.float32)
    elif kind == "rician":
        a, b = grain.standard_normal((2, *out.shape), dtype=np.float32) * level
        out = np.sqrt((out + a) ** 2 + b**2)
    elif kind == "speckle":
        out = out * (1 + 2 * level * ndimage.gaussian_filter(grain.standard_normal(out.shape), 0.7))
    elif kind == "coarse":
        out = out + level * smooth_noise(grain, size, int(rng.integers(30, 110)))
    if rng.random() < 0.3:
        out = np.clip(out, 0, None) ** rng.uniform(0.6, 1.6)
    low, high = np.percentile(out, [rng.uniform(0, 3), rng.uniform(97, 100)])
    out = np.clip((out - low) / max(high - low, 1e-3), 0, 1)
    if rng.random() < 0.3:
        out = 1 - out
    rgb = np.repeat(out[..., None], 3, axis=2)
    if rng.random() < 0.25:
        # a stain or a photograph: each channel its own way, some darker where others are brighter
        gain = rng.uniform(0.2, 1.0, 3) * rng.choice([1, 1, -1], 3)
        rgb = np.clip(np.where(gain < 0, 1.0, rng.uniform(0, 0.4, 3)) + rgb * gain, 0, 1)
    return (rgb * 255).astype(np.uint8)


def _partition(rng: np.random.Generator, size: int, parts: int, cells: int) -> np.ndarray:
    """Touching, curved regions: which of several smooth fields is highest. (size, size) of 0..parts-1."""
    return np.argmax([smooth_noise(rng, size, cells) for _ in range(parts)], axis=0).astype(np.int16)


def _blob(rng, size: int, centre, radius: float, lobes: float = 0.25) -> np.ndarray:
    """A star-convex shape with random lobes and elongation, as a mask of the whole scene."""
    mask = np.zeros((size, size), bool)
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    reach = int(radius * 2.2) + 2
    y0, x0 = int(centre[0]), int(centre[1])
    ys, ye, xs, xe = max(y0 - reach, 0), min(y0 + reach, size), max(x0 - reach, 0), min(x0 + reach, size)
    if ys >= ye or xs >= xe:
        return mask
    y, x = np.mgrid[ys:ye, xs:xe].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    dy, dx = y - centre[0], x - centre[1]
    u, v = (
        (dx * np.cos(turn) + dy * np.sin(turn)) * stretch,
        (dy * np.cos(turn) - dx * np.sin(turn)) / stretch,
    )
    if lobes < 0:  # a box
        mask[ys:ye, xs:xe] = np.maximum(np.abs(u), np.abs(v)) < radius
        return mask
    angle = np.arctan2(v, u)
    edge = np.ones_like(angle)
    for k in range(2, 8):
        edge += rng.uniform(-lobes, lobes) / np.sqrt(k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    mask[ys:ye, xs:xe] = np.hypot(u, v) < radius * np.clip(edge, 0.3, 1.8)
    return mask


def _tube(rng, size: int, thickness: float) -> np.ndarray:
    """A vessel-like curve of constant thickness."""
    steps = int(rng.integers(20, 90))
    turn = np.cumsum(rng.normal(0, 0.25, steps)) + rng.uniform(0, 2 * np.pi)
    step = max(1.5, thickness * 0.5)
    path = rng.uniform(0.1, 0.9, 2) * size + np.cumsum(np.stack([np.sin(turn), np.cos(turn)], 1) * step, 0)
    path = path[((path >= 0) & (path < size)).all(1)].astype(int)
    line = np.ones((size, size), bool)
    line[path[:, 0], path[:, 1]] = False
    return ndimage.distance_transform_edt(line) < thickness


def _structure(
    rng, labels: np.ndarray, label: int, ringy: bool, scale: float = 1.0, shift: np.ndarray | float = 0.0
) -> tuple[list[Candidate], int]:
    """Paint one structure, perhaps with parts inside; returns the masks it offers and the next free label.

    With the same generator state it is the same structure, `scale` times as large and moved by `shift`
    pixels: another slice of it.
    """
    size = labels.shape[0]
    radius = float(np.exp(rng.uniform(np.log(size * 0.02), np.log(size * 0.38)))) * scale
    centre = rng.uniform(0.05, 0.95, 2) * size + shift
    kind = rng.random()
    if kind < 0.1 and not ringy:
        shape = _tube(rng, size, float(np.exp(rng.uniform(np.log(2.0), np.log(9.0)))))
    elif kind < 0.2 and not ringy:
        shape = _blob(rng, size, centre, radius, lobes=-1)
    else:
        shape = _blob(rng, size, centre, radius, lobes=rng.choice([0.0, 0.15, 0.35, 0.6]))
    if shape.sum() < MIN_AREA:
        return [], label
    labels[shape] = first = label
    parts_offered: list[Candidate] = []
    if radius > size * 0.06 and rng.random() < (0.9 if ringy else 0.35):
        if rng.random() < 0.5:  # a wall and what it holds
            depth = ndimage.distance_transform_edt(np.pad(shape, 1, constant_values=False))[1:-1, 1:-1]
            inner = depth > max(2.0, radius * rng.uniform(0.05, 0.5))
        else:
            inner = _blob(rng, size, centre + rng.normal(0, radius * 0.25, 2), radius * rng.uniform(0.2, 0.6))
            inner &= shape
        if inner.sum() >= MIN_AREA:
            labels[inner] = label + 1
            label += 1
            parts_offered += [(inner, label, label), (shape & ~inner, first, first)]
    elif radius > size * 0.1 and rng.random() < 0.4:  # a textured organ: several tissues, one name
        parts = _partition(rng, size, int(rng.integers(2, 4)), int(rng.integers(4, 12)))
        labels[shape] = label + parts[shape]
        label += int(parts.max())
    return [(shape, first, label), *parts_offered], label + 1


def _paint(
    rng,
    labels: np.ndarray,
    same: bool,
    difficulty: float,
    count: int | None = None,
    means: np.ndarray | None = None,
) -> np.ndarray:
    """Intensities for a label map: a mean and a texture per label, partial volume where labels meet."""
    size, count = labels.shape[0], count or int(labels.max()) + 1
    if means is None:
        means = rng.uniform(0.05, 0.95, count).astype(np.float32)
    if same:  # one kind of thing on one ground, as nuclei are
        means[1:] = means[1] + rng.normal(0, 0.05, count - 1)
        while abs(means[1] - means[0]) < 0.15:
            means[0] = rng.uniform(0, 1)
    image = means[labels]
    fields = [smooth_noise(rng, size, int(c)) for c in np.exp(rng.uniform(np.log(4), np.log(100), 2))]
    for field in fields:
        strength = np.abs(rng.normal(0, 0.06 * difficulty, count)).astype(np.float32)
        image = image + strength[labels] * field
    if rng.random() < 0.6:
        image = ndimage.gaussian_filter(image, rng.uniform(0.4, 1.2))
    return image.astype(np.float32)


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    """The connected pieces of a mask that are large enough to be asked for."""
    numbered, count = ndimage.label(mask)
    return [numbered == n for n in range(1, count + 1) if (numbered == n).sum() > 0.01 * mask.size]


def _visible(candidate: Candidate, labels: np.ndarray) -> np.ndarray | None:
    """What can be seen of a candidate: its largest piece that nothing covers.

    None when that is too small, fills the scene, or is a mere remnant: nobody asks for the sliver of a shape
    that others left over.
    """
    painted, first, last = candidate
    mask = painted & (labels >= first) & (labels <= last)
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    area = int(mask.sum())
    return mask if max(MIN_AREA, WHOLE * painted.sum()) <= area <= 0.7 * mask.size else None


def is_seen(image: np.ndarray, mask: np.ndarray, least: float = 0.06, contrast: float = CONTRAST) -> bool:
    """Whether a structure differs enough from what lies around it to be asked for.

    `least` is the difference of the median intensities as a share of the image's range, `contrast` the same
    in units of their summed deviations; `image` is uint8 (H, W, 3).
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = (slice(max(rows[0] - 6, 0), rows[-1] + 7), slice(max(columns[0] - 6, 0), columns[-1] + 7))
    gray, mask = image[window].mean(axis=2), mask[window]
    near = ndimage.maximum_filter(mask, 9) & ~ndimage.maximum_filter(mask, 3)
    if not near.any():
        return False
    inside, around = gray[mask], gray[near]
    gap = abs(float(np.median(inside)) - float(np.median(around)))
    return gap > least * 255 and gap > contrast * float(around.std() + inside.std())
