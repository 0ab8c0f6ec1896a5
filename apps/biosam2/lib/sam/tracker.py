"""One structure followed from slice to slice: SAM 2's memory, and the view in which it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from lib.prompts.prompts import SlicePrompts
from lib.sam import prior, zoom
from lib.sam.drawing import PADDING
from lib.sam.embeddings import Embedding
from lib.sam.model import Model
from lib.sam.segment import (
    CLAMP,
    Segmentation,
    embed_in_ways,
    first_view,
    in_ways,
    mean_of_ways,
    picture,
    pointed_at,
    points_in_ways,
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

Planes = Callable[[int], np.ndarray]

# sam2 attends to the masks of the last 6 slices and the object pointers of the last 15
REACH = 16
ABSENT = -1.0  # object score: below 0 there is no structure
VIEW_MARGIN = 1.5  # a structure may be larger on the next slices than where it was prompted


@dataclass(eq=False)
class _Memory:
    """What the network remembers of one structure in one view; the dicts are those of SAM2Base."""

    view: View
    conditioning: dict[int, dict] = field(default_factory=dict)
    recent: dict[int, dict] = field(default_factory=dict)

    def as_outputs(self) -> dict[str, dict[int, dict]]:
        return {"cond_frame_outputs": self.conditioning, "non_cond_frame_outputs": self.recent}

    def forget(self, index: int) -> None:
        """Drop what no slice after `index` can reach; the ways from prompted slices start near them."""
        anchors = [index, *self.conditioning]
        self.recent = {
            i: output for i, output in self.recent.items() if any(abs(i - a) <= REACH for a in anchors)
        }


class Tracker:
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
        self.model, self.planes, self.count, self.thickness = model, planes, count, thickness
        self.use_zoom = use_zoom
        self.prompts = dict(sorted(prompts.items()))
        self.shape = zoom.shape_of(planes(next(iter(self.prompts))))
        self.prompted: dict[int, np.ndarray] = {}
        self.previous: tuple[int, np.ndarray] | None = None
        # the slices that were prompted, and those that the network was sure of
        self.known: dict[int, prior.Known] = {}
        # object scores of the slices with the structure on the way since the last prompted one
        self.way: list[float] = []
        # voxels (a, b) by which the structure moved from slice to slice just now
        self.motion = np.zeros(2)
        # one way through the slices may need another view than the other
        self.memory = _Memory(zoom.whole(self.shape))
        # where the network looks now: the memory's view, or that moved along with the structure
        self.view = self.memory.view
        self.memory_positions: list[torch.Tensor] | None = None

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
            mask, score = self._correct(index, prompts[index])
            self._prompted(index, mask)
            yield index, mask, score

    def track(self, index: int, backwards: bool) -> tuple[np.ndarray, float]:
        """The next slice on the way: its mask (bool, (A, B)) and score."""
        before = index + 1 if backwards else index - 1
        if before in self.prompted:
            self.way, self.motion = [], np.zeros(2)
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
            self.known[index] = prior.Known.of(mask)
        return mask, score

    def _prompted(self, index: int, mask: np.ndarray) -> None:
        self.prompted[index] = mask
        self.known[index] = prior.Known.of(mask)

    def _look(self, index: int, backwards: bool) -> tuple[np.ndarray, float, dict]:
        embedding = self._embed(index)
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
        if not self.model.checkpoint.architecture.draws_prompts or len(self.prompted) > 1 or mask is None:
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
        if not self.model.checkpoint.architecture.draws_prompts:
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
        self.memory = _Memory(view)
        self.view = view
        for index, mask in known.items():
            self._condition_on_mask(index, mask)

    def _embed(self, index: int) -> Embedding:
        """One picture, or that and the same turned by 180 degrees, as two objects of one batch."""
        return embed_in_ways(self.model, picture(self.planes(index), self.view))[0]

    def _step(
        self,
        embedding: Embedding,
        index: int,
        points: dict | None = None,
        mask: torch.Tensor | None = None,
        previous: torch.Tensor | None = None,
        alone: bool = False,
        backwards: bool = False,
        remember: bool = True,
    ) -> dict:
        """The network's answer on one slice: `SAM2Base.track_step`, which would drop the predicted IoU.

        `alone` leaves the memory out; `remember` encodes the answer as a memory for the slices to come.
        """
        network = self.model.network
        features, positions, sizes = self.model.flat(embedding)
        ways = embedding.ways
        asked = points
        if points is None and previous is not None:
            # sam2 takes a mask prompt on a slice only beside points; this is the point that it means by none
            empty = torch.zeros(1, 1, 2, device=self.model.device)
            label = torch.full((1, 1), PADDING, dtype=torch.int32, device=self.model.device)
            asked = {"point_coords": empty, "point_labels": label}
        mask, previous = (None if m is None else in_ways(m, ways) for m in (mask, previous))
        if asked is not None:
            both = points_in_ways(asked["point_coords"], asked["point_labels"], self.model.size, ways)
            asked = {"point_coords": both[0], "point_labels": both[1]}
        output, answer, _, _ = network._track_step(
            frame_idx=index,
            is_init_cond_frame=alone,
            current_vision_feats=features,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=asked,
            mask_inputs=mask,
            output_dict=self.memory.as_outputs(),
            num_frames=self.count,
            track_in_reverse=backwards,
            prev_sam_mask_logits=previous,
        )
        _, _, ious, low, high, pointer, present = answer
        low, high = mean_of_ways(low), mean_of_ways(high)
        present = present.amin(0, keepdim=True).expand_as(present)
        presence = float(present.max())
        if points is None and previous is not None:
            present = present - self._price_of_presence(index)
            presence = float(present.max())
            if prior.has_ended(presence, self.way):
                present = torch.full_like(present, ABSENT)
            low, high = self._pay(low, high, previous[:1])
            gone = (present <= 0).float()
            low, high = (torch.where(gone[..., None, None] > 0, NO_OBJ_SCORE, m) for m in (low, high))
            pointer = (1 - gone) * pointer + gone * network.no_obj_ptr
        network._encode_memory_in_output(features, sizes, points, remember, high, present, output)
        return output | {
            "pred_masks": low[:1],
            "obj_ptr": pointer,
            "object_score_logits": present,
            "presence": presence,
            "score": float(ious.max()) if bool(present.max() > 0) else 0.0,
        }

    def _price_of_presence(self, index: int) -> float:
        slices = min(abs(index - known) for known in self.known)
        reach = max(known.reach for known in self.known.values())
        return prior.price_of_presence(slices, self.thickness, reach)

    def _pay(
        self, low: torch.Tensor, high: torch.Tensor, previous: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A mask from memory in as many ways, low and high, less what is unlikely in it (`lib.sam.prior`)."""
        view = self.view
        cells = low.shape[-2] * low.shape[-1] / (view.na * view.nb)  # of a pixel
        usual = cells * max(known.area for known in self.known.values())
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

    def _condition_on_mask(self, index: int, mask: np.ndarray) -> None:
        embedding = self._embed(index)
        with self.model.running():
            shape = (to_square(mask, self.memory.view, self.model.size) >= 0.5).float().to(self.model.device)
            output = self._step(embedding, index, mask=shape, alone=True)
            self.memory.conditioning[index] = self._compact(output)

    def _compact(self, output: dict) -> dict:
        """What later slices need of an answer, as sam2's video predictor keeps it (bf16 memory).

        The positions of a memory follow from the network's input size alone: one copy serves all.
        """
        if self.memory_positions is None:
            self.memory_positions = output["maskmem_pos_enc"]
        return {
            "maskmem_features": output["maskmem_features"].to(torch.bfloat16),
            "maskmem_pos_enc": self.memory_positions,
            "obj_ptr": output["obj_ptr"],
        }
