"""SAM 2's memory of one structure: what it remembers of slices, and its answer on another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from lib.sam.drawing import PADDING
from lib.sam.embeddings import Embedding
from lib.sam.model import Model
from lib.sam.segment import embed_in_ways, in_ways, mean_of_ways, picture, points_in_ways, to_square
from lib.sam.zoom import View

Planes = Callable[[int], np.ndarray]

# sam2 attends to the masks of the last 6 slices and the object pointers of the last 15
REACH = 16
THERE = 10.0  # object score of what is certainly there


@dataclass(eq=False)
class Memory:
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


class Remembering:
    """A network that looks at slices, one at a time, and remembers one structure on them.

    Parameters
    ----------
    model : Model
    planes : callable
        Slice index -> uint8 (A, B) or (A, B, 3), after the window.
    count : int
        Slices in all.
    view : View
        Where it looks.
    """

    def __init__(self, model: Model, planes: Planes, count: int, view: View) -> None:
        self.model, self.planes, self.count = model, planes, count
        self.memory = Memory(view)
        # where the network looks now: the memory's view, or that moved along with the structure
        self.view = view
        self._positions: list[torch.Tensor] | None = None

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
            low, high, present, presence = self._weigh(index, previous[:1], low, high, present)
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

    def _weigh(
        self, index: int, previous: torch.Tensor, low: torch.Tensor, high: torch.Tensor, present: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """An answer from memory beside the mask of the slice before, weighed against what is likely.

        Returns
        -------
        low, high, present : Tensor
            Logits of the mask in two resolutions, and object score logits.
        presence : float
            The object score before it was decided upon.
        """
        return low, high, present, float(present.max())

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
        if self._positions is None:
            self._positions = output["maskmem_pos_enc"]
        return {
            "maskmem_features": output["maskmem_features"].to(torch.bfloat16),
            "maskmem_pos_enc": self._positions,
            "obj_ptr": output["obj_ptr"],
        }


@contextmanager
def masks_of_what_is_absent(model: Model) -> Iterator[list[float]]:
    """Have the decoder give its mask even where the object score says that there is none.

    sam2 (`SAM2Base._forward_sam_heads`) drops such masks; yields the object scores that it is not told.
    """
    presences: list[float] = []

    def there(_module: object, _given: object, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        masks, scores, tokens, presence = output
        presences.extend(presence.float().flatten().tolist())
        return masks, scores, tokens, torch.full_like(presence, THERE)

    handle = model.network.sam_mask_decoder.register_forward_hook(there)
    try:
        yield presences
    finally:
        handle.remove()
