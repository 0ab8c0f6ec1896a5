"""One structure followed from slice to slice: SAM 2's memory, and the view in which it looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F

from lib.prompts.prompts import SlicePrompts
from lib.sam import prior, zoom
from lib.sam.embeddings import Embedding
from lib.sam.likeness import mean_features
from lib.sam.memory import Memory, Planes, Remembering
from lib.sam.model import Model
from lib.sam.segment import (
    CLAMP,
    Segmentation,
    first_view,
    in_ways,
    pointed_at,
    segment,
    steps,
    to_logits,
    to_mask_prompt,
    to_points,
    to_prompt,
    to_slice,
    to_square,
)
from lib.sam.zoom import View

ABSENT = -1.0  # object score: below 0 there is no structure
VIEW_MARGIN = 1.5  # a structure may be larger on the next slices than where it was prompted


class Tracker(Remembering):
    """One structure on its way through the slices.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    count : int
        Slices of the volume.
    prompts : dict of int to SlicePrompts
        By slice index, in any order; none empty, one at least with something to point at.
    use_zoom : bool
        Look at what the prompts point to; otherwise always at the whole slices.
    thickness : float, optional
        From slice to slice, in pixels of a slice; None for the frames of a video.
    """

    def __init__(
        self,
        model: Model,
        planes: Planes,
        count: int,
        prompts: dict[int, SlicePrompts],
        use_zoom: bool,
        thickness: float | None = None,
    ) -> None:
        self.use_zoom, self.thickness = use_zoom, thickness
        self.prompts = dict(sorted(prompts.items()))
        self.shape = zoom.shape_of(planes(next(iter(self.prompts))))
        # one way through the slices may need another view than the other
        super().__init__(model, planes, count, zoom.whole(self.shape))
        self.prompted: dict[int, np.ndarray] = {}
        self.previous: tuple[int, np.ndarray] | None = None
        # the slices that were prompted, and those that the network was sure of
        self.known = prior.KnownSlices()
        # object scores of the last slices with the structure on the way since the last prompted one
        self.way: deque[float] = deque(maxlen=max(prior.JUST, prior.ON_THE_WAY))
        # voxels (a, b) by which the structure moved from slice to slice just now
        self.motion = np.zeros(2)
        # of a volume: what the structure looks like on the prompted slices, and the slice that is looked at
        self.appearances: dict[int, torch.Tensor] = {}
        self._prompted_reach = 0.0  # the largest one on these, see `prior.Known`
        self._embedded: Embedding | None = None

    @property
    def _draws(self) -> bool:
        """Whether the network sees prompts drawn: ours, young, which needs help where SAM 2 does not."""
        return self.model.checkpoint.architecture.draws_prompts

    def start(self, check: Callable[[], None]) -> Iterator[tuple[int, np.ndarray, float]]:
        """Do the prompted slices, those that stand by themselves first; yields index, mask, score."""
        prompts = self.prompts
        own = [i for i, p in prompts.items() if p.box is not None or p.mask is not None]
        own = own or [next(i for i, p in prompts.items() if p.positive.any())]
        looks = {}
        for index in own:
            check()
            looks[index] = self._look_alone(index)
        self.view = self.memory.view = self._choose_view(looks)
        for index, look in looks.items():
            # what the person is shown is what is remembered: as SAM 2 itself remembers its answer to points
            # where that is what is shown, else as a mask
            if look.own and look.view == self.memory.view:
                self._condition_on_points(index, prompts[index])
            else:
                self._condition_on_mask(index, look.mask)
            self._prompted(index, look.mask)
            yield index, look.mask, look.score
        rest = [i for i in prompts if i not in looks]
        for index in sorted(rest, key=lambda i: min(abs(i - j) for j in own)):
            check()
            if self._draws and self.thickness is not None:
                mask, score = self._correct_as_shown(index, prompts[index], check)
            else:
                mask, score = self._correct(index, prompts[index])
            self._prompted(index, mask)
            yield index, mask, score

    def track(self, index: int, backwards: bool) -> tuple[np.ndarray, float]:
        """The next slice on the way: its mask (bool, (A, B)) and score."""
        before = index + 1 if backwards else index - 1
        if before in self.prompted:
            self._begin_way()
        self.view = self._follow(before)
        mask, score, output = self._look(index, backwards)
        wider = None
        if self.use_zoom:
            # what is remembered must be in sight: the prompted slices tell what to follow
            known = zoom.union(*(zoom.extent(prompted) for prompted in self.prompted.values()))
            wider = zoom.wider_look(self.view, mask, self.model.size, known)
        if wider is not None:
            self._move(wider, before)
            mask, score, output = self._look(index, backwards)
        self.memory.recent[index] = self._compact(output)
        self.memory.forget(index)
        last = self._mask_of(before)
        self.motion = np.zeros(2) if last is None else prior.motion(last, mask)
        self.previous = index, mask
        if mask.any():
            self.way.append(output["presence"])
        if score >= prior.SURE:
            self.known.add(index, prior.Known.of(mask))
        return mask, score

    def resume(self, index: int, mask: np.ndarray) -> None:
        """Go on behind a slice whose mask, bool (A, B), was found in another way (after `start`)."""
        self.previous = index, mask
        corners = zoom.extent(mask)
        if corners is None:
            return
        view = self.view
        if not view.contains(*corners):
            known = zoom.union(corners, *(zoom.extent(prompted) for prompted in self.prompted.values()))
            view = zoom.around(*(known or corners), self.shape, self.model.size, least=float(view.side))
        self._move(view, index)

    def _prompted(self, index: int, mask: np.ndarray) -> None:
        known = prior.Known.of(mask)
        self.prompted[index] = mask
        self.known.add(index, known)
        if self.thickness is not None and self._draws and mask.any():
            shape = to_square(mask, self.view, self.model.size).to(self.model.device)
            with self.model.running():
                self.appearances[index] = mean_features(self._embed(index), shape)
            self._prompted_reach = max(self._prompted_reach, known.reach)

    def _begin_way(self) -> None:
        """From a prompted slice a way begins anew.

        sam2 remembers what lies on the other side of it as if that were the way here, and a structure that
        has ended there would end here at once. Published networks have learnt from videos that go both ways.
        """
        self.way.clear()
        self.motion = np.zeros(2)
        if self._draws:
            self.memory.recent.clear()

    def _look(self, index: int, backwards: bool) -> tuple[np.ndarray, float, dict]:
        embedding = self._embedded = self._embed(index)
        with self.model.running():
            beside = self._beside(index, backwards)
            output = self._step(embedding, index, previous=beside, backwards=backwards)
            mask = to_slice(output["pred_masks"], self.view, self.shape) > 0
            return mask, output["score"], output

    def _follow(self, before: int) -> View:
        """The memory's view moved as far as the structure has moved since the slice where it was prompted.

        Memory tells where a structure was. A young one clings to that place: what it sees of a structure that
        moves through the slices should stay in place as far as it can.
        """
        view, mask = self.memory.view, self._mask_of(before)
        if not self._draws or len(self.prompted) > 1 or mask is None:
            return view
        start = next(iter(self.prompted.values()))
        if not mask.any() or not start.any():
            return self.view
        return zoom.moved(view, prior.way_from(start, mask) + self.motion, self.shape)

    def _mask_of(self, index: int) -> np.ndarray | None:
        """The mask of the slice before or of a prompted one; None for others, which are not kept."""
        if self.previous is not None and self.previous[0] == index:
            return self.previous[1]
        return self.prompted.get(index)

    def _beside(self, index: int, backwards: bool) -> torch.Tensor | None:
        """For networks that see prompts drawn: the mask of the slice before, as a mask prompt.

        Their memory is young; what the structure looked like a slice ago they see at once. What moves fast is
        shown where it must be by now.
        """
        if not self._draws:
            return None
        mask = self._mask_of(index + 1 if backwards else index - 1)
        if mask is None:
            return None
        expected = prior.moved(mask, self.motion)
        return to_logits(expected, self.view, self.model.size).to(self.model.device)

    def _look_alone(self, index: int) -> Segmentation:
        """A slice that stands by itself; a mask without clicks is the person's answer, not a question."""
        prompts = self.prompts[index]
        if prompts.mask is not None and prompts.box is None and not len(prompts.points):
            view = first_view(prompts, self.shape, self.model.size)
            return Segmentation(prompts.mask, 1.0, view, cached=True, own=False)
        return segment(self.model, self.planes(index), prompts, self.use_zoom)

    def _choose_view(self, looks: dict[int, Segmentation]) -> View:
        """One view that holds the structure, and what was pointed at, on all prompted slices."""
        if not self.use_zoom or any(look.view.is_whole(self.shape) for look in looks.values()):
            return zoom.whole(self.shape)
        found = zoom.union(*(zoom.extent(look.mask) for look in looks.values()))
        corners = zoom.union(found, *(pointed_at(prompts) for prompts in self.prompts.values()))
        if corners is None:  # `Target` refuses prompts that point at nothing
            return zoom.whole(self.shape)
        low, high = corners
        reach = VIEW_MARGIN * zoom.MARGIN * (float((high - low).max()) + 1)
        only = next(iter(looks.values())).view
        if len(looks) == 1 and only.contains(low, high) and (found is None or only.side >= reach):
            return only
        return zoom.around(low, high, self.shape, self.model.size, least=reach)

    def _move(self, view: View, last_index: int) -> None:
        """Go on in another view, remembering the prompted slices and the last one as they were found."""
        known = dict(self.prompted)
        if self.previous is not None and self.previous[0] == last_index:
            known[last_index] = self.previous[1]
        self.memory = Memory(view)
        self.view = view
        for index, mask in known.items():
            self._condition_on_mask(index, mask)

    def _weigh(
        self, index: int, previous: torch.Tensor, low: torch.Tensor, high: torch.Tensor, present: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Less what is unlikely in a volume (`lib.sam.prior`)."""
        present = present - self._price_of_presence(index) - self._price_of_strangeness(index, low[:1])
        presence = float(present.max())
        if prior.has_ended(presence, list(self.way)):
            present = torch.full_like(present, ABSENT)
        return *self._pay(low, high, previous), present, presence

    def _price_of_presence(self, index: int) -> float:
        return prior.price_of_presence(self.known.from_nearest(index), self.thickness, self.known.reach)

    def _price_of_strangeness(self, index: int, logits: torch.Tensor) -> float:
        shape = (logits > 0).float()
        if not self.appearances or not shape.any():
            return 0.0
        assert self._embedded is not None  # `_look` has just embedded the slice
        here = mean_features(self._embedded, shape)
        likeness = max(float(F.cosine_similarity(here, there, 0)) for there in self.appearances.values())
        slices = min(abs(index - prompted) for prompted in self.appearances)
        return prior.price_of_strangeness(slices, self.thickness, self._prompted_reach, likeness)

    def _pay(
        self, low: torch.Tensor, high: torch.Tensor, previous: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A mask from memory in as many ways, low and high, less what is unlikely in it (`lib.sam.prior`)."""
        view = self.view
        cells = low.shape[-2] * low.shape[-1] / (view.na * view.nb)  # of a pixel
        usual = cells * self.known.area
        price = prior.price_of_distance(previous)
        price = price + prior.price_of_size(low[:1] - price, usual)
        wide = F.interpolate(price, high.shape[-2:], mode="bilinear", align_corners=False)
        return low - in_ways(price, len(low)), high - in_ways(wide, len(high))

    def _condition_on_points(self, index: int, prompts: SlicePrompts) -> None:
        """Prompt a slice by itself; clicks are played one by one, each with the mask before it."""
        points, labels = to_points(prompts, self.memory.view, self.model.size)
        embedding = self._embed(index)
        with self.model.running():
            output = self._interact(embedding, index, points, labels, steps(prompts, len(points)), None)
            self._keep_prompted(embedding, index, output)

    def _correct_as_shown(
        self, index: int, prompts: SlicePrompts, check: Callable[[], None]
    ) -> tuple[np.ndarray, float]:
        """Clicks on a further slice of a volume: they correct the mask that the person sees there.

        That is the one which is reached slice by slice from the nearest prompted slice. A young network that
        jumps there in one step, as `_correct` does, finds another one, and would have that corrected.
        """
        start = min(self.prompted, key=lambda prompted: abs(prompted - index))
        backwards, known = index < start, deepcopy(self.known)
        by = -1 if backwards else 1
        for at in range(start + by, index + by, by):
            check()
            mask, score = self.track(at, backwards)
        self.previous, self.known = None, known  # what is about to be corrected was not known
        self._begin_way()
        if mask.any() or prompts.positive.any():  # else there is nothing to take away
            clicks = SlicePrompts(prompts.points, prompts.positive, None, mask if mask.any() else None)
            found = segment(self.model, self.planes(index), clicks, self.use_zoom)
            mask, score = found.mask, found.score
        self._condition_on_mask(index, mask)
        return mask, score

    def _correct(self, index: int, prompts: SlicePrompts) -> tuple[np.ndarray, float]:
        """Clicks on a further slice: read with what is remembered, then remembered as prompted."""
        backwards = index < min(self.prompted)
        points, labels = to_points(prompts, self.memory.view, self.model.size)
        embedding = self._embed(index)
        with self.model.running():
            output = self._step(embedding, index, backwards=backwards, remember=False)
            present = bool((output["pred_masks"] > 0).any())
            # clicks beside a structure that is absent, or beside the view, have nothing to take away
            if len(points) and (present or prompts.positive.any()):
                # an absent structure leaves logits that no click could lift: then the click starts afresh
                previous = output["pred_masks"].clamp(-CLAMP, CLAMP) if present else None
                counts = steps(prompts, len(points))
                output = self._interact(
                    embedding, index, points, labels, counts, previous, alone=False, backwards=backwards
                )
            return self._keep_prompted(embedding, index, output)

    def _interact(
        self,
        embedding: Embedding,
        index: int,
        points: np.ndarray,
        labels: np.ndarray,
        counts: range,
        previous: torch.Tensor | None,
        alone: bool = True,
        backwards: bool = False,
    ) -> dict:
        """The answer to labelled points, given in steps of `counts` points, each with the mask before it."""
        output: dict = {}
        for count in counts:
            prompt = to_prompt(self.model, points[:count], labels[:count])
            output = self._step(
                embedding,
                index,
                {"point_coords": prompt[0], "point_labels": prompt[1]},
                previous=to_mask_prompt(self.model, prompt, previous),
                alone=alone,
                backwards=backwards,
                remember=False,
            )
            previous = output["pred_masks"].clamp(-CLAMP, CLAMP)
        return output

    def _keep_prompted(self, embedding: Embedding, index: int, output: dict) -> tuple[np.ndarray, float]:
        network = self.model.network
        features, _, sizes = self.model.flat(embedding)
        masks = F.interpolate(
            output["pred_masks"], (self.model.size,) * 2, mode="bilinear", align_corners=False
        )
        memory, positions = network._encode_new_memory(
            current_vision_feats=features,
            feat_sizes=sizes,
            pred_masks_high_res=in_ways(masks, embedding.ways),
            object_score_logits=output["object_score_logits"],
            is_mask_from_pts=True,
        )
        output |= {"maskmem_features": memory, "maskmem_pos_enc": positions}
        self.memory.conditioning[index] = self._compact(output)
        mask = to_slice(output["pred_masks"], self.memory.view, self.shape) > 0
        return mask, output["score"]
