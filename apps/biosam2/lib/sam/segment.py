"""Prompts on one slice -> a mask of that slice, and the only place where slice axes become sam2's (x, y).

A slice is an array (A, B) in the volume's own order. As a picture it is its transpose: column x = a, row
y = b, which is how an axial slice looks upright. Voxel index and pixel index both mean the centre, 0-based.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from lib.imaging.window import stretched
from lib.prompts.prompts import SlicePrompts
from lib.sam import zoom
from lib.sam.drawing import BOX_HIGH, BOX_LOW, NEGATIVE, POSITIVE, draw
from lib.sam.embeddings import Embedding, signature
from lib.sam.model import Model
from lib.sam.network import decode
from lib.sam.zoom import Corners, View

MASK_LOGIT = 10.0  # a mask prompt as logits, as in SAM2Base._use_mask_as_output
CLAMP = 32.0  # sam2's own limit for logits that are fed back
DEEP = 0.3  # of a mask's deepest point: a negative click as deep in it says that another structure is meant
MORE_LOOKS = 3  # wider ones, where a structure runs out of the view


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer on one slice.

    Attributes
    ----------
    mask : ndarray of bool, (A, B)
    score : float
        The network's own estimate of the IoU, 0 to 1.
    view : View
        Where the network looked last.
    cached : bool
        True when no picture had to be encoded.
    own : bool
        True when the mask is what SAM 2's own `track_step` makes of the points, with nothing chosen or left
        out here, and not from a mask prompt.
    """

    mask: np.ndarray
    score: float
    view: View
    cached: bool
    own: bool


@dataclass(frozen=True, eq=False)
class Decoded:
    """One answer of the mask decoder in a view: logits (1, 1, h, w) and predicted IoU."""

    logits: torch.Tensor
    score: float


def segment(model: Model, plane: np.ndarray, prompts: SlicePrompts, use_zoom: bool = True) -> Segmentation:
    """Segment what the prompts of one object mean on one slice.

    Parameters
    ----------
    model : Model
    plane : ndarray uint8, (A, B) or (A, B, 3)
        The slice after its window.
    prompts : SlicePrompts
    use_zoom : bool
        Look at what the prompts point to; otherwise always at the whole slice.
    """
    if not use_zoom:
        look = _look(model, plane, prompts, zoom.whole(zoom.shape_of(plane)))
    elif prompts.box is None and prompts.mask is None and prompts.positive.any():
        look = _click_by_click(model, plane, prompts)
    else:
        view = first_view(prompts, zoom.shape_of(plane), model.size)
        look = _widened(model, plane, prompts, _look(model, plane, prompts, view))
    # a network of ours is asked several times for one answer
    own = not model.checkpoint.architecture.draws_prompts and prompts.mask is None and look.is_whole
    return Segmentation(look.mask, look.score, look.view, look.cached, own)


@dataclass(frozen=True, eq=False)
class _Look:
    """What was seen in one view.

    Attributes
    ----------
    view : View
    mask : ndarray of bool, (A, B)
    is_whole : bool
        Whether the mask is all that the network found.
    sure : float
        Mean probability over the mask, 0 where it is empty.
    score : float
    cached : bool
    """

    view: View
    mask: np.ndarray
    is_whole: bool
    sure: float
    score: float
    cached: bool


def _look(model: Model, plane: np.ndarray, prompts: SlicePrompts, view: View, cached: bool = True) -> _Look:
    """Look once, or from two distances; `cached` tells whether the looks before this one were."""
    shape = zoom.shape_of(plane)
    decoded, hit = decode_in_view(model, plane, prompts, view)
    logits = to_slice(decoded.logits, view, shape)
    farther = zoom.farther(view, shape, model.size)
    if model.checkpoint.architecture.draws_prompts and not _ambiguous(prompts) and farther != view:
        second, second_hit = decode_in_view(model, plane, prompts, farther)
        logits, hit = (logits + to_slice(second.logits, farther, shape)) / 2, hit and second_hit
    found = logits > 0
    mask = connected(found, prompts)
    sure = float((1 / (1 + np.exp(-logits[mask]))).mean()) if mask.any() else 0.0
    return _Look(view, mask, bool((mask == found).all()), sure, decoded.score, cached and hit)


def _ambiguous(prompts: SlicePrompts) -> bool:
    """Whether it is a lone click: what it means depends on the distance, so that no mean of two tells it."""
    return prompts.box is None and prompts.mask is None and len(prompts.points) == 1


def _widened(model: Model, plane: np.ndarray, prompts: SlicePrompts, look: _Look) -> _Look:
    """Look wider for as long as the mask runs into the view's border."""
    keep = pointed_at(prompts)
    for _ in range(MORE_LOOKS):
        wider = zoom.wider_look(look.view, look.mask, model.size, keep)
        if wider is None or wider == look.view:
            break
        look = _look(model, plane, prompts, wider, look.cached)
    return look


def _click_by_click(model: Model, plane: np.ndarray, prompts: SlicePrompts) -> _Look:
    """Clicks alone: the first one decides how close to look, and the next ones stay with that.

    Each request brings all clicks, and their order of old: what was answered before is remembered. Who
    corrects a mask means that mask, so the view changes only when a click or the mask leaves it.
    """
    start = int(np.argmax(prompts.positive))
    order = [start, *(n for n in range(len(prompts.points)) if n != start)]
    points, positive = prompts.points[order], prompts.positive[order]
    shown = signature(plane, model.checkpoint.version, model.size)
    look: _Look | None = None
    for count in range(1, len(points) + 1):
        given = SlicePrompts(points[:count], positive[:count], None, None)
        key = (shown, given.points.tobytes(), given.positive.tobytes())
        kept: _Kept | None = model.recall(key)
        if kept is not None:
            look = kept.look(zoom.shape_of(plane))
            continue
        look = _first_click(model, plane, given) if look is None else _next_click(model, plane, given, look)
        model.remember(key, _Kept.of(look))
    assert look is not None  # there is a click
    return look


@dataclass(frozen=True, eq=False)
class _Kept:
    """A look as it is remembered: its mask as bits."""

    view: View
    bits: np.ndarray
    is_whole: bool
    sure: float
    score: float

    @classmethod
    def of(cls, look: _Look) -> _Kept:
        return cls(look.view, np.packbits(look.mask), look.is_whole, look.sure, look.score)

    def look(self, shape: tuple[int, int]) -> _Look:
        """What it was on a slice of `shape`; nothing has to be encoded for it."""
        mask = np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        return _Look(self.view, mask, self.is_whole, self.sure, self.score, cached=True)


def _next_click(model: Model, plane: np.ndarray, given: SlicePrompts, look: _Look) -> _Look:
    """The last one of several clicks corrects what was seen before it, from where that was seen.

    Where it takes most of that away, it was not a mask with an error but another structure: a network of ours
    clings to it, click after click, so it also looks afresh, and what is surest of its pixels counts.
    """
    clicked, view = pointed_at(given), look.view
    assert clicked is not None  # the first click is positive
    if not view.contains(*clicked):
        corners = zoom.union(clicked, zoom.extent(look.mask)) or clicked
        view = zoom.around(*corners, zoom.shape_of(plane), model.size, least=view.side)
    corrected = _widened(model, plane, given, _look(model, plane, given, view, look.cached))
    if not model.checkpoint.architecture.draws_prompts or not _is_another(look.mask, given):
        return corrected
    views = zoom.distances(*clicked, zoom.shape_of(plane), model.size)
    afresh = [_look(model, plane, given, view, look.cached) for view in views]
    agreeing = [x for x in (corrected, *_whole_in_view(afresh)) if _agrees(x.mask, given)]
    return max(agreeing, key=lambda x: x.sure, default=corrected)


def _whole_in_view(looks: list[_Look]) -> list[_Look]:
    """Those that show something, and all of it."""
    return [x for x in looks if x.mask.any() and not zoom.touches_border(x.view, x.mask)]


def _is_another(mask: np.ndarray, given: SlicePrompts) -> bool:
    """Whether the newest click is a negative one far inside a mask, bool (A, B), that was found before it."""
    (at,) = _voxels(given.points[-1:], mask.shape)
    if given.positive[-1] or not mask[tuple(at)]:
        return False
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return bool(depth[tuple(at)] >= DEEP * depth.max())


def _agrees(mask: np.ndarray, given: SlicePrompts) -> bool:
    """Whether all positive clicks are on a mask, bool (A, B), and all negative ones beside it."""
    return bool((mask[tuple(_voxels(given.points, mask.shape).T)] == given.positive).all())


def _voxels(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels (N, 2) of a slice in which points (a, b) lie; those beside it are taken to its border."""
    return np.clip(np.floor(points + 0.5).astype(int), 0, np.array(shape) - 1)


def _first_click(model: Model, plane: np.ndarray, click: SlicePrompts) -> _Look:
    """A lone click says where, not how big: look from several distances, or from one that is then mended.

    From several distances where that costs little and the network was trained for it: of the structures that
    are whole in view, the one whose pixels are surest. On generated images the Dice of a first click is 0.76
    so, against 0.64 from one distance. A large network looks at native resolution, then closer if what it
    found is small there.
    """
    shape, keep = zoom.shape_of(plane), pointed_at(click)
    assert keep is not None  # it is a positive click
    if model.checkpoint.architecture.draws_prompts:
        looks = [_look(model, plane, click, view) for view in zoom.distances(*keep, shape, model.size)]
        surest = max(_whole_in_view(looks) or looks, key=lambda x: x.sure)
        # the next click looks from two distances (`_look`): it should find both ready
        ready = embed_in_ways(model, picture(plane, zoom.farther(surest.view, shape, model.size)))[1]
        return replace(surest, cached=all(x.cached for x in looks) and ready)
    look = _look(model, plane, click, zoom.first_look(*keep, shape, model.size))
    closer = zoom.closer_look(look.view, look.mask, model.size, keep)
    if closer is not None and zoom.wider_look(look.view, look.mask, model.size, keep) is None:
        look = _look(model, plane, click, closer, look.cached)
    return _widened(model, plane, click, look)


def decode_in_view(
    model: Model, plane: np.ndarray, prompts: SlicePrompts, view: View
) -> tuple[Decoded, bool]:
    """The decoder's answer for prompts seen in a view; the second value tells whether the view was cached.

    A network of ours is asked about the view in two ways (`embed_in_ways`).

    The clicks are played one by one, each with the mask of those before it, which is how SAM 2 is trained to
    be corrected. Earlier steps are remembered, so a new click costs one decode. Clicks outside the view are
    left out.

    Raises
    ------
    ValueError
        If the view shows none of the prompts.
    """
    embedding, hit = embed_in_ways(model, picture(plane, view))
    points, labels = to_points(prompts, view, model.size)
    logits = None if prompts.mask is None else to_logits(prompts.mask, view, model.size)
    if not len(points) and logits is None:
        raise ValueError("there is no prompt in this view of the slice")
    # the same pixels may lie under another part of a mask: only the part in the view tells answers apart
    given = b"" if logits is None else hashlib.blake2b(logits.numpy().data).digest()
    decoded: Decoded | None = None
    for count in steps(prompts, len(points)):
        key = (embedding.key, given, points[:count].tobytes(), labels[:count].tobytes())
        remembered = model.recall(key)
        if remembered is not None:
            decoded = remembered
        else:
            decoded = _decode(model, embedding, points[:count], labels[:count], logits)
            model.remember(key, decoded)
        logits = decoded.logits.clamp(-CLAMP, CLAMP)
    assert decoded is not None  # there is always one step
    return decoded, hit


def steps(prompts: SlicePrompts, count: int) -> range:
    """How many of `count` labelled points are given at each step: the box at once, then click by click."""
    first = 2 if prompts.box is not None else min(count, 1)
    return range(first, count + 1)


def picture(plane: np.ndarray, view: View) -> np.ndarray:
    """The part of a slice in a view as a picture: (A, B[, 3]) -> (nb, na[, 3]), rows b, columns a."""
    part = plane[view.window]
    return np.ascontiguousarray(part.swapaxes(0, 1))


def to_points(prompts: SlicePrompts, view: View, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Box and clicks as sam2's labelled points on its input square.

    Returns
    -------
    points : ndarray float32 (N, 2)
        (x, y) in pixels, the centre of the first pixel at 0; the box's two corners first. Boxes are made of
        inclusive voxels, so their corners are the outer borders of the voxels at them.
    labels : ndarray int32 (N,)
    """
    coordinates, labels = prompts.points, np.where(prompts.positive, POSITIVE, NEGATIVE)
    if prompts.box is not None:
        a0, b0, a1, b1 = prompts.box
        corners = np.array([[a0 - 0.5, b0 - 0.5], [a1 + 0.5, b1 + 0.5]])
        coordinates = np.concatenate([corners, coordinates])
        labels = np.concatenate([[BOX_LOW, BOX_HIGH], labels])
    origin, count = np.array([view.a0, view.b0]), np.array([view.na, view.nb])
    # +0.5 and -0.5: from centres to borders and back, so that the scaling keeps the picture's edges in place
    points = (coordinates - origin + 0.5) * (size / count) - 0.5
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(1) | (labels >= BOX_LOW)
    points = np.clip(points, -0.5, size - 0.5)
    return points[inside].astype(np.float32), labels[inside].astype(np.int32)


def to_logits(mask: np.ndarray, view: View, size: int) -> torch.Tensor:
    """A mask of the slice, bool (A, B), as mask-prompt logits of a view, float32 (1, 1, size/4, size/4)."""
    return as_logits(to_square(mask, view, size // 4))


def as_logits(shape: torch.Tensor) -> torch.Tensor:
    """A mask, float and 0 to 1, as logits of a mask prompt."""
    return shape * (2 * MASK_LOGIT) - MASK_LOGIT


def to_square(mask: np.ndarray, view: View, size: int) -> torch.Tensor:
    """A mask of the slice, bool (A, B), seen in a view, float32 (1, 1, size, size), 0 to 1."""
    shape = torch.from_numpy(picture(mask, view).astype(np.float32))[None, None]
    return F.interpolate(shape, (size, size), mode="bilinear", align_corners=False, antialias=True)


def to_slice(logits: torch.Tensor, view: View, shape: tuple[int, int]) -> np.ndarray:
    """Logits of a view, (1, 1, h, w), on the slice's grid, float32 (A, B); -CLAMP outside the view."""
    part = F.interpolate(logits.float(), (view.nb, view.na), mode="bilinear", align_corners=False)
    out = np.full(shape, -CLAMP, np.float32)
    out[view.window] = part[0, 0].cpu().numpy().T
    return out


def embed_in_ways(model: Model, pixels: np.ndarray) -> tuple[Embedding, bool]:
    """What the encoder makes of a picture and, for a network of ours, of the same turned by 180 degrees.

    Such a network is small enough to be asked twice, and the mean of both answers is better than either. The
    turned picture is in a window of its own: a small network is nearly blind to what is faint. The second
    value tells whether both were in the cache.
    """
    embedding, hit = model.embed(pixels)
    if not model.checkpoint.architecture.draws_prompts:
        return embedding, hit
    turned, turned_hit = model.embed_as(
        f"{embedding.key} turned", lambda: np.ascontiguousarray(stretched(pixels)[::-1, ::-1])
    )
    both = tuple(torch.cat(level) for level in zip(embedding.levels, turned.levels, strict=True))
    return Embedding(both, embedding.key), hit and turned_hit


def in_ways(masks: torch.Tensor, ways: int) -> torch.Tensor:
    """A mask or its logits (1, 1, h, w) as it lies on the picture and, with 2 ways, on the turned one."""
    return masks if ways == 1 else torch.cat([masks, masks.flip(-2, -1)])


def points_in_ways(
    points: torch.Tensor, labels: torch.Tensor, size: int, ways: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labelled points, (1, N, 2) and (1, N), on the picture and, with 2 ways, on the turned one."""
    if ways == 1:
        return points, labels
    corner = (labels == BOX_LOW) | (labels == BOX_HIGH)
    turned = torch.where(corner, BOX_LOW + BOX_HIGH - labels, labels)
    return torch.cat([points, size - 1 - points]), torch.cat([labels, turned])


def mean_of_ways(logits: torch.Tensor) -> torch.Tensor:
    """The mean of answers (N, M, h, w), seen on the picture and on the turned one, in as many ways."""
    return logits if len(logits) == 1 else (logits + logits.flip(0, -2, -1)) / 2


def _decode(
    model: Model,
    embedding: Embedding,
    points: np.ndarray,
    labels: np.ndarray,
    mask_logits: torch.Tensor | None,
) -> Decoded:
    """One pass of prompt encoder and mask decoder; three readings of a lone click, the best one is kept."""
    network, ways = model.network, embedding.ways
    several = len(points) == 1 and mask_logits is None
    with model.running():
        prompt = to_prompt(model, points, labels) if len(points) else None
        drawn = to_mask_prompt(model, prompt, mask_logits)
        drawn = None if drawn is None else in_ways(drawn, ways)
        prompt = None if prompt is None else points_in_ways(*prompt, model.size, ways)
        low = embedding.levels[-1] + network.no_mem_embed.view(1, -1, 1, 1)
        logits, scores, _, _ = decode(network, low, list(embedding.levels[:-1]), prompt, drawn, several)
        logits, scores = mean_of_ways(logits.float())[:1], scores.mean(0)
        best = int(scores.argmax())
        if several and model.checkpoint.architecture.draws_prompts:
            best = _surest(logits, points[0], model.size, otherwise=best)
        return Decoded(logits[:, best : best + 1], float(scores[best]))


def _surest(logits: torch.Tensor, point: np.ndarray, size: int, otherwise: int) -> int:
    """Which of several masks (1, M, h, w) is surest of its own pixels, of those that hold the click.

    A network trained for an hour on a CPU draws better masks than it rates them: picked by its predicted IoU,
    the first click has a Dice of 0.53 on generated images, picked so 0.59, and of its three masks the best
    would have 0.72. SAM 2's own weights are picked by predicted IoU, as upstream does.
    """
    side = logits.shape[-1]
    x, y = np.clip(((point + 0.5) * side / size).astype(int), 0, side - 1)
    holds = logits[0, :, y, x] > 0
    if not bool(holds.any()):
        return otherwise
    inside = logits[0] > 0
    sure = (logits[0].float().sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    return int(torch.where(holds, sure, -1.0).argmax())


def to_prompt(model: Model, points: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Labelled points as sam2's prompt encoder takes them: (1, N, 2) and (1, N) on the model's device."""
    return torch.from_numpy(points)[None].to(model.device), torch.from_numpy(labels)[None].to(model.device)


def to_mask_prompt(
    model: Model, prompt: tuple[torch.Tensor, torch.Tensor] | None, logits: torch.Tensor | None
) -> torch.Tensor | None:
    """The mask prompt (1, 1, size/4, size/4): earlier logits, and the points where they are to be drawn."""
    logits = None if logits is None else logits.to(model.device)
    if prompt is None or not model.checkpoint.architecture.draws_prompts:
        return logits
    return draw(*prompt, model.size, logits)


def connected(mask: np.ndarray, prompts: SlicePrompts) -> np.ndarray:
    """The pieces of a mask, bool (A, B), that were clicked on.

    A click means the structure under it, not every other one that looks like it. A box or a mask prompt says
    by itself how far the structure reaches; where no click lies on the mask, nothing tells its pieces apart.
    """
    if prompts.box is not None or prompts.mask is not None:
        return mask
    pieces, _ = ndimage.label(mask)
    clicked = _voxels(prompts.points[prompts.positive], mask.shape)
    hit = np.unique(pieces[clicked[:, 0], clicked[:, 1]])
    hit = hit[hit > 0]
    return np.isin(pieces, hit) if len(hit) else mask


def first_view(prompts: SlicePrompts, shape: tuple[int, int], size: int) -> View:
    """Where to look first, from the prompts alone."""
    corners = pointed_at(prompts)
    if corners is None:  # only background clicks: nothing says where the structure is
        return zoom.whole(shape)
    if prompts.box is None and prompts.mask is None:
        return zoom.first_look(*corners, shape, size)
    return zoom.around(*corners, shape, size)


def pointed_at(prompts: SlicePrompts) -> Corners | None:
    """The corners (a, b) around box, mask and positive clicks; None when there are only negative clicks."""
    clicks = prompts.points[prompts.positive]
    return zoom.union(
        None if prompts.box is None else (np.array(prompts.box[:2]), np.array(prompts.box[2:])),
        None if prompts.mask is None else zoom.extent(prompts.mask),
        (clicks.min(0), clicks.max(0)) if len(clicks) else None,
    )
