"""Generated movies: textured shapes that move, deform, hide and come back, with exact masks.

Frames are (x, y) as every picture here: (W, H), along the first axis one after the other. What hides a shape
is cut out of its mask, as people who label videos do (DAVIS); where it is hidden whole the mask is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from lib.trainers.generated import is_seen

KINDS = ("moving", "deforming", "occluded", "leaving", "crowded", "fading", "ultrasound")
SIZES = ((256, 192), (192, 192), (160, 224), (320, 240))
FRAMES = {"occluded": 32, "leaving": 32}  # of a movie; 24 of the others
MOST_RADII = 0.35  # what an object moves by from frame to frame, in its radii
HIDDEN = (3, 8)  # frames for which an object may be hidden, or away, at a stretch
TILE = 96  # pixels of a texture that repeats
LEAST_SEEN, LEAST_CONTRAST = 0.08, 0.7  # see `is_seen`
LEAST_AREA = 60  # pixels on the first frame


@dataclass(frozen=True, eq=False)
class Movie:
    """Frames and where the objects are on them.

    Attributes
    ----------
    name : str
    frames : ndarray uint8, (T, W, H) or (T, W, H, 3)
    truths : ndarray of bool, (N, T, W, H)
        Every object is on the first frame, and nothing hides it there.
    """

    name: str
    frames: np.ndarray
    truths: np.ndarray


@dataclass(frozen=True, eq=False)
class _Thing:
    """A layer of a movie, from the back to the front: an object, or what hides one.

    path : ndarray (T, 2), pixels
    turn, scale : ndarray (T,), radians and factor
    radius : float, pixels
    lobes : ndarray (T, M), share of the radius by which the outline swings m + 2 times around
    phases : ndarray (M,)
    bend : ndarray (T,), by how many radii its ends are bent aside
    stretch : float, one axis over the other
    colours : ndarray (T, C), 0 to 1
    texture : ndarray (TILE, TILE, C), zero mean
    bar : bool, endless along its second axis
    """

    path: np.ndarray
    turn: np.ndarray
    scale: np.ndarray
    radius: float
    lobes: np.ndarray
    phases: np.ndarray
    bend: np.ndarray
    stretch: float
    colours: np.ndarray
    texture: np.ndarray
    bar: bool = False


def movies(kind: str, count: int, seed: int, **how) -> Iterator[Movie]:
    """`count` movies of a kind; each is the same however many are asked for. `how` as for `movie`."""
    for number in range(count):
        yield movie(kind, seed, number, **how)


def movie(
    kind: str, seed: int, number: int = 0, size: tuple[int, int] | None = None, frames: int | None = None
) -> Movie:
    """One generated movie.

    Parameters
    ----------
    kind : str
        One of `KINDS`. A movie of any kind has a textured ground with things on it that moves as a whole,
        objects that move, turn, change their size and deform a little, noise and, in half of them, colours.
    seed, number : int
    size : (W, H), optional
        Pixels; one of `SIZES` if left out.
    frames : int, optional
        As many as the kind usually has if left out.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no kind of movies is named {kind!r}")
    attempt = 0
    while True:
        rng = np.random.default_rng((seed, KINDS.index(kind), number, attempt))
        made = _drawn(kind, rng, size, frames or FRAMES.get(kind, 24))
        if made is not None:
            return replace(made, name=f"{kind} {number + 1}")
        attempt += 1


def _drawn(kind: str, rng: np.random.Generator, size: tuple[int, int] | None, count: int) -> Movie | None:
    """A movie; None if by chance nobody would find its objects, or the kind's event is missing."""
    size = size or SIZES[int(rng.integers(len(SIZES)))]
    channels = 1 if kind == "ultrasound" or rng.random() < 0.5 else 3
    ground = _ground(rng, size, count, channels, still=kind == "ultrasound")
    objects, before = _cast(kind, rng, size, count, channels)
    image, layer = ground, np.full((count, *size), -1, np.int8)
    for number, thing in enumerate([*objects, *before]):
        for t in range(count):
            _paint(image[t], layer[t], thing, t, number)
    wanted = 2 if kind == "crowded" else 1  # the others only look like them
    truths = np.stack([layer == number for number in range(wanted)])
    shown = _acquire(kind, rng, image)
    if not _is_fair(kind, shown, truths):
        return None
    return Movie(kind, shown[..., 0] if channels == 1 else shown, truths)


def _is_fair(kind: str, frames: np.ndarray, truths: np.ndarray) -> bool:
    """Whether each object can be seen where it is prompted, and what the kind is named for does happen."""
    first = np.repeat(frames[0], 3, -1) if frames.shape[-1] == 1 else frames[0]
    for truth in truths:
        if truth[0].sum() < LEAST_AREA or not is_seen(first, truth[0], LEAST_SEEN, LEAST_CONTRAST):
            return False
        rim = truth[0].copy()
        rim[2:-2, 2:-2] = False
        if rim.any():
            return False
        away = ~truth.any((1, 2))
        if kind in ("occluded", "leaving"):
            if not HIDDEN[0] <= away.sum() <= 2 * HIDDEN[1] or away[-4:].any():
                return False
        elif away.any():
            return False
    return True


# --- who plays -----------------------------------------------------------------------------------------


def _cast(
    kind: str, rng: np.random.Generator, size: tuple[int, int], count: int, channels: int
) -> tuple[list[_Thing], list[_Thing]]:
    """The objects and what looks like them, and what is in front of them; the last ones cover the others."""
    side = min(size)
    low, high = (0.12, 0.25) if kind == "ultrasound" else (0.07, 0.19)
    radius = side * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if kind in ("occluded", "leaving"):
        radius = min(radius, 0.14 * side)
    strength = {"deforming": 1.0, "ultrasound": 0.8}.get(kind, 0.25)
    path = _path(rng, size, count, radius, calm=kind == "ultrasound")
    colour = _colour(rng, channels)
    if kind == "leaving":
        path = _out_and_back(rng, size, count, radius)
    target = _object(rng, path, radius, colour, strength)
    if kind == "occluded":
        return [target], _in_front(rng, target, channels)
    if kind == "crowded":
        alike = [target]
        for _ in range(3):
            other = radius * float(rng.uniform(0.8, 1.2))
            shade = np.clip(colour + rng.normal(0, 0.05, channels), 0, 1)
            way = _path(rng, size, count, other)
            alike.append(_object(rng, way, other, shade, strength))
        return alike, []
    if kind == "fading":
        swing = rng.uniform(0.1, 0.25) * np.sin(np.linspace(0, rng.uniform(1, 2) * np.pi, count))
        colours = np.clip(target.colours + swing[:, None] * rng.choice([-1, 1]), 0, 1)
        target = replace(target, colours=colours)
    return [target], []


def _object(
    rng: np.random.Generator, path: np.ndarray, radius: float, colour: np.ndarray, strength: float
) -> _Thing:
    """A shape on its way; `strength` (0 to 1) is how much it deforms."""
    count = len(path)
    still = rng.uniform(-0.25, 0.25, 4) / np.sqrt(np.arange(2, 6))
    speed = rng.uniform(0.5, 2.5, 4) * 2 * np.pi / count
    beat = np.sin(np.arange(count)[:, None] * speed + rng.uniform(0, 2 * np.pi, 4))
    lobes = still + strength * 0.22 * beat / np.sqrt(np.arange(1, 5))
    return _Thing(
        path=path,
        turn=rng.uniform(0, np.pi) + rng.uniform(-0.08, 0.08) * np.arange(count),
        scale=np.exp(_wave(rng, count, 0.2)),
        radius=radius,
        lobes=lobes,
        phases=rng.uniform(0, 2 * np.pi, 4),
        bend=strength * _wave(rng, count, 0.35),
        stretch=float(np.exp(rng.uniform(-0.35, 0.35))),
        colours=np.tile(colour, (count, 1)),
        texture=_texture(rng, len(colour), float(rng.uniform(0.02, 0.09))),
    )


def _in_front(rng: np.random.Generator, target: _Thing, channels: int) -> list[_Thing]:
    """A bar or a larger shape that hides the target for a while, and often a narrow one that hides a part."""
    count = len(target.path)
    things = []
    if rng.random() < 0.6:
        things.append(_hider(rng, target, int(count * rng.uniform(0.15, 0.3)), channels, whole=False))
    middle = int(count * rng.uniform(0.45, 0.6))
    things.append(_hider(rng, target, middle, channels, whole=True))
    return things


def _hider(rng: np.random.Generator, target: _Thing, at: int, channels: int, whole: bool) -> _Thing:
    """What passes in front of the target, or stands there, so that it is behind it on frame `at`."""
    count, radius = len(target.path), target.radius * float(target.scale[at]) * 1.35
    velocity = np.gradient(target.path, axis=0)[at]
    bar = rng.random() < 0.5
    width = radius * float(rng.uniform(1.25, 1.5)) if whole else radius * float(rng.uniform(0.25, 0.5))
    # it must pass the target: hidden for a few frames if it covers all of it
    stretch = float(rng.uniform(*HIDDEN)) if whole else 4.0
    need = 2 * max(width - radius, 0.25 * radius) / stretch
    angle = float(np.arctan2(velocity[1], velocity[0])) + float(rng.normal(0, 0.25))
    along = np.array([np.cos(angle), np.sin(angle)])
    own = velocity - along * need * rng.choice([1.0, 1.0, 1.6])
    path = target.path[at] + own * (np.arange(count) - at)[:, None]
    flat = np.zeros(count)
    return _Thing(
        path=path,
        turn=np.full(count, angle),
        scale=np.ones(count),
        radius=width,
        lobes=np.tile(rng.uniform(-0.03, 0.03, 4), (count, 1)),
        phases=rng.uniform(0, 2 * np.pi, 4),
        bend=flat,
        stretch=1.0,
        colours=np.tile(_colour(rng, channels), (count, 1)),
        texture=_texture(rng, channels, float(rng.uniform(0.02, 0.12))),
        bar=bar,
    )


def _path(
    rng: np.random.Generator, size: tuple[int, int], count: int, radius: float, calm: bool = False
) -> np.ndarray:
    """A smooth way through the picture, float (T, 2), no faster than `MOST_RADII` a frame."""
    low, high = np.full(2, 1.6 * radius), np.array(size) - 1.6 * radius
    if calm:
        centre = rng.uniform(low, high)
        swing = np.stack([_wave(rng, count, 0.15 * radius) for _ in (0, 1)], 1)
        return centre + swing
    start, end = rng.uniform(low, high), rng.uniform(low, high)
    most = MOST_RADII * radius * (count - 1) * rng.uniform(0.3, 0.9)
    way = end - start
    end = start + way * min(1.0, most / max(float(np.hypot(*way)), 1e-6))
    line = start + (end - start) * np.linspace(0, 1, count)[:, None]
    swing = np.stack([_wave(rng, count, 0.5 * radius) for _ in (0, 1)], 1)
    return np.clip(line + swing, low * 0.8, np.array(size) - low * 0.8)


def _out_and_back(rng: np.random.Generator, size: tuple[int, int], count: int, radius: float) -> np.ndarray:
    """A way over an edge of the picture and, some frames later and somewhere near, back again."""
    axis, far = int(rng.integers(2)), bool(rng.random() < 0.5)
    inside = radius * rng.uniform(1.8, 2.6)
    outside = -2.0 * radius
    away = int(rng.integers(HIDDEN[0], HIDDEN[1] + 1))
    gone, back = int(count * rng.uniform(0.3, 0.4)), int(count * rng.uniform(0.3, 0.4)) + away
    back = max(back, gone + away)
    speed = MOST_RADII * radius * rng.uniform(0.6, 1.2)
    t = np.arange(count)
    depth = np.minimum(
        outside + speed * np.maximum(gone - t, 0), inside + speed * 3
    )  # comes near the edge with speed
    depth = np.maximum(depth, np.minimum(outside + speed * np.maximum(t - back + 2, 0), inside + speed * 3))
    depth = ndimage.gaussian_filter1d(depth, 1.0, mode="nearest")
    across = rng.uniform(2 * radius, size[1 - axis] - 2 * radius) + _wave(rng, count, radius)
    across = np.clip(
        across + np.where(t > gone, rng.uniform(-1.5, 1.5) * radius, 0), radius, size[1 - axis] - radius
    )
    across = ndimage.gaussian_filter1d(across, 2.0, mode="nearest")
    path = np.empty((count, 2))
    path[:, axis] = size[axis] - depth if far else depth
    path[:, 1 - axis] = across
    return path


def _wave(rng: np.random.Generator, count: int, height: float) -> np.ndarray:
    """A slow swing, float (T,)."""
    t = np.linspace(0, 1, count)
    waves = [np.sin(2 * np.pi * (rng.uniform(0.3, 1.6) * t + rng.random())) for _ in range(2)]
    return height * rng.uniform(0.3, 1.0) * np.mean(waves, 0)


# --- how it looks --------------------------------------------------------------------------------------


def _colour(rng: np.random.Generator, channels: int) -> np.ndarray:
    return rng.uniform(0.08, 0.92, channels)


def _texture(rng: np.random.Generator, channels: int, strength: float, side: int = TILE) -> np.ndarray:
    """A texture that repeats, float (side, side, C), of zero mean and that deviation: coarse and fine."""
    grain = rng.standard_normal((side, side, channels))
    if channels == 3:  # mostly brightness
        grain = 0.4 * grain + 0.9 * rng.standard_normal((side, side, 1))
    sum_ = np.zeros_like(grain)
    for width in np.exp(rng.uniform(np.log(0.8), np.log(8), 2)):
        smooth = ndimage.gaussian_filter(grain, (width, width, 0), mode="wrap")
        sum_ += smooth / (smooth.std() + 1e-9)
    return strength * sum_ / sum_.std()


def _ground(
    rng: np.random.Generator, size: tuple[int, int], count: int, channels: int, still: bool
) -> np.ndarray:
    """The ground, with things on it, as a camera sees it that pans a little: float (T, W, H, C)."""
    pan = (
        np.zeros((count, 2))
        if still
        else np.cumsum(rng.normal(0, 0.6, 2) + rng.normal(0, 0.25, (count, 2)), 0)
    )
    margin = int(np.abs(pan).max()) + 4
    wide = np.array(size) + 2 * margin
    tile = _texture(rng, channels, float(rng.uniform(0.02, 0.08)))
    canvas = np.tile(tile, (*(-(-wide // TILE)), 1))[: wide[0], : wide[1]] + _colour(rng, channels)
    broad = _texture(rng, channels, 0.06, 64)
    canvas += ndimage.zoom(broad, (wide[0] / 64, wide[1] / 64, 1), order=1)
    layer = np.zeros(tuple(wide), np.int8)
    for number in range(int(rng.integers(2, 9))):
        radius = min(size) * float(rng.uniform(0.04, 0.25))
        thing = _object(rng, rng.uniform(0, wide, (1, 2)), radius, _colour(rng, channels), 0.3)
        _paint(canvas, layer, thing, 0, number)
    out = np.empty((count, *size, channels), np.float32)
    for t in range(count):
        out[t] = ndimage.shift(canvas, (*pan[t], 0), order=1, mode="nearest")[
            margin : margin + size[0], margin : margin + size[1]
        ]
    return out


def _paint(image: np.ndarray, layer: np.ndarray, thing: _Thing, t: int, number: int) -> None:
    """Draw a thing as it is on frame `t` into image (W, H, C) and layer (W, H), over what is there."""
    shape = layer.shape
    reach = 1e6 if thing.bar else thing.radius * float(thing.scale[t]) * 2.6 + 3
    low = np.clip(np.floor(thing.path[t] - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(thing.path[t] + reach) + 1, 0, shape).astype(int)
    if (low >= high).any():
        return
    window = slice(low[0], high[0]), slice(low[1], high[1])
    x, y = np.mgrid[window].astype(float) - thing.path[t][:, None, None]
    c, s, scale = np.cos(thing.turn[t]), np.sin(thing.turn[t]), float(thing.scale[t])
    u, v = (x * c + y * s) / scale, (y * c - x * s) / scale
    if thing.bar:
        beyond = np.abs(u) - thing.radius * (1 + 0.1 * np.sin(v / thing.radius))
    else:
        v = v + thing.bend[t] * thing.radius * ((u / thing.radius) ** 2 - 0.5)
        around = np.arctan2(v / thing.stretch, u * thing.stretch)
        waves = np.arange(2, 2 + len(thing.phases))[:, None, None] * around + thing.phases[:, None, None]
        edge = 1 + np.tensordot(thing.lobes[t], np.cos(waves), 1)
        beyond = np.hypot(u * thing.stretch, v / thing.stretch) - thing.radius * np.clip(edge, 0.3, 1.8)
    cover = np.clip(0.5 - beyond * scale / 1.5, 0, 1)
    places = np.stack([u, v]) + TILE / 2
    skin = np.stack(
        [
            ndimage.map_coordinates(thing.texture[..., n], places, order=1, mode="grid-wrap")
            for n in range(image.shape[-1])
        ],
        -1,
    )
    colour = thing.colours[t] + skin
    image[window] += cover[..., None] * (colour - image[window])
    layer[window][cover > 0.5] = number


def _acquire(kind: str, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera, or an ultrasound probe, makes of the scenes (T, W, H, C): uint8 of the same shape."""
    count, width, height, channels = image.shape
    x, y = np.mgrid[:width, :height]
    if kind == "fading":
        gain = 1 + _wave(rng, count, 0.6)
        gamma = np.exp(_wave(rng, count, 0.5))
        slope = rng.normal(0, 0.25, 2)
        light = 1 + np.clip(slope[0] * (x / width - 0.5) + slope[1] * (y / height - 0.5), -0.3, 0.3)
        image = np.clip(image * gain[:, None, None, None] * light[..., None], 0, 1)
        image = image ** gamma[:, None, None, None]
    if kind == "ultrasound":
        return _echo(rng, image)
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, (0, *[rng.uniform(0.3, 0.9)] * 2, 0))
    noise = rng.uniform(0, 0.05) * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image + noise, 0, 1) * 255).astype(np.uint8)


def _echo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Speckle, part of which stays from frame to frame, fall-off with depth, a sector, compression."""
    count, width, height, _ = image.shape
    x, y = np.mgrid[:width, :height]

    def speckle() -> np.ndarray:
        waves = rng.standard_normal((2, width, height))
        waves = ndimage.gaussian_filter(waves, (0, 1.1, 0.7))
        return waves / waves.std()

    lasting, sets = speckle(), rng.uniform(0.3, 0.8)
    depth = np.hypot(x - width / 2, y + 0.1 * height)
    inside = (np.abs(np.arctan2(x - width / 2, y + 0.1 * height)) < rng.uniform(0.75, 0.95)) & (
        depth < 1.08 * height
    )
    fall = np.exp(-rng.uniform(0.0, 0.6) * depth / height)
    out = np.zeros(image.shape, np.uint8)
    for t in range(count):
        a, b = sets * lasting + np.sqrt(1 - sets**2) * speckle()
        envelope = np.hypot(a, b) / 1.25  # Rayleigh, mean about 1
        echo = np.clip(image[t, ..., 0], 0.02, 1) * envelope * fall
        shown = np.log1p(12 * echo) / np.log1p(18)
        out[t, ..., 0] = np.clip(shown, 0, 1) * inside * 255
    return out
