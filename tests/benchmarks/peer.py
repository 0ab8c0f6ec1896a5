"""The peer's side: MONAI Label's own `Sam2InferTask`, called as MONAI Label calls it.

Where it looks for its model and keeps its cache comes from the environment (see `benchmark.py`), since its
module reads the settings, and empties its cache folder, when it is imported.
"""

from __future__ import annotations

from typing import Any

import torch
from measures import Counter, clicks, main, propagations
from monailabel.sam2.infer import Sam2InferTask
from plan import Plan
from sam2.sam2_image_predictor import SAM2ImagePredictor

_DEFAULT_SIZE = 1024  # what the image predictor has written into it


def measure_clicks(plan: Plan) -> dict[str, Any]:
    if plan.image_size != _DEFAULT_SIZE:
        _let_image_predictor_follow(plan.image_size)

    def encodes(task: Sam2InferTask):
        counter = Counter(task.predictors[plan.device].model.forward_image)
        task.predictors[plan.device].model.forward_image = counter
        return lambda: counter.count

    result = clicks(plan, lambda: _task(plan, 2), encodes)
    del result["task"]
    return result


def measure_propagation(plan: Plan) -> dict[str, Any]:
    def encodes(task: Sam2InferTask):
        counter = Counter(task.predictors[plan.device].forward_image)
        task.predictors[plan.device].forward_image = counter
        return lambda: counter.count

    return propagations(plan, _task(plan, 3), lambda task: _visited(task.predictors[plan.device]), encodes)


def _task(plan: Plan, dimension: int) -> Sam2InferTask:
    return Sam2InferTask(str(plan.path("model")), dimension=dimension)


def _visited(predictor: Any) -> set[int]:
    """A set of the slices the video predictor has answered for, from now on."""
    slices: set[int] = set()
    add, propagate = predictor.add_new_points_or_box, predictor.propagate_in_video

    def add_noted(*args: Any, **kwargs: Any):
        slices.add(kwargs["frame_idx"])
        return add(*args, **kwargs)

    def propagate_noted(*args: Any, **kwargs: Any):
        for answer in propagate(*args, **kwargs):
            slices.add(answer[0])
            yield answer

    predictor.add_new_points_or_box, predictor.propagate_in_video = add_noted, propagate_noted
    return slices


def _let_image_predictor_follow(size: int) -> None:
    """sam2's image predictor knows the grids of 1024 only; at other sizes it needs to be told."""
    make = SAM2ImagePredictor.__init__

    def make_and_tell(self: SAM2ImagePredictor, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        make(self, model, *args, **kwargs)
        self._bb_feat_sizes = [(size // stride, size // stride) for stride in (4, 8, 16)]

    SAM2ImagePredictor.__init__ = make_and_tell


if __name__ == "__main__":
    main({"clicks": measure_clicks, "propagation": measure_propagation})
