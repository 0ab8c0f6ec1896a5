"""The three pipelines: what they ask, what they count and what they call the result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.errors import UserError
from lib.evaluation import pipelines
from lib.evaluation.datasets import Pair
from lib.evaluation.metrics import dice, iou, nsd
from lib.evaluation.protocol import Protocol
from lib.evaluation.study import Structure, Study, read_study
from lib.prompts.prompts import Direction
from lib.sam.checkpoints import load_network
from lib.sam.model import Model
from lib.sam.propagate import SliceMask

NANO = Path(__file__).parents[2] / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"
LARGE = Structure("large", 1)


@pytest.fixture(scope="module")
def model() -> Model:
    checkpoint, network = load_network(NANO, 128)
    return Model(network, checkpoint, "cpu", 1 << 28)


@pytest.fixture
def slices_of(study) -> list[int]:
    return [int(k) for k in np.flatnonzero(study.truth(LARGE).any((1, 2)))]


class Script:
    """Answers a slice with given masks in turn, and notes what it was asked."""

    def __init__(self, *masks: np.ndarray) -> None:
        self.masks, self.asked = list(masks), []

    def __call__(self, plane, prompts):
        self.asked.append((plane, prompts))
        return self.masks[min(len(self.asked), len(self.masks)) - 1]


def test_the_curve_has_a_value_for_each_click_and_the_last_is_the_result(study):
    truth = study.truth(LARGE)[5]
    half = truth.copy()
    half[:16] = False
    script = Script(np.zeros_like(truth), half, truth)
    found = pipelines.on_slice(script, study, LARGE, 5, "5clicks", Protocol("image", ("5clicks",)))
    assert found.curve == [0, pytest.approx(dice(half, truth)), 1, 1, 1]  # right once, right for the rest
    assert (found.dice, found.iou, found.nsd) == (1, 1, 1)
    assert len(script.asked) == 3
    np.testing.assert_array_equal(script.asked[0][0], study.plane(5))


def test_a_slice_is_judged_with_the_spacing_of_its_own_axes(tmp_path, write_case):
    write_case(tmp_path / "i.nii", tmp_path / "l.nii", shape=(40, 40, 10), spacing=(1, 0.5, 3))
    study = read_study(Pair("case", tmp_path / "i.nii", tmp_path / "l.nii"))
    truth = study.truth(LARGE)[5]
    moved = np.roll(truth, 3, 1)  # 1.5 mm
    found = pipelines.on_slice(Script(moved), study, LARGE, 5, "box", Protocol("image", nsd_mm=1.0))
    assert found.nsd == nsd(moved, truth, (1, 0.5), 1.0) < 1
    assert found.dice == pytest.approx(dice(moved, truth))
    assert pipelines.on_slice(Script(moved), study, LARGE, 5, "box", Protocol("image", nsd_mm=1.5)).nsd == 1


def test_the_time_is_the_models_and_the_first_answers_is_told_apart(study, monkeypatch):
    now = iter(float(t) for t in (0, 2, 10, 11, 20, 20.5))
    monkeypatch.setattr(pipelines.time, "perf_counter", lambda: next(now))
    truth = study.truth(LARGE)[5]
    script = Script(np.zeros_like(truth), np.zeros_like(truth), truth)
    found = pipelines.on_slice(script, study, LARGE, 5, "3clicks", Protocol("image"))
    assert (found.first, found.seconds) == (2, 3.5)


def test_more_clicks_begin_like_fewer_and_another_seed_does_not(study):
    def points(design: str, seed: int) -> list[tuple]:
        truth = study.truth(LARGE)[5]
        script = Script(np.zeros_like(truth))
        protocol = Protocol("image", (design,), jitter=4, seed=seed)
        pipelines.on_slice(script, study, LARGE, 5, design, protocol)
        return [tuple(p) for p in script.asked[-1][1].points]

    assert points("3clicks", 1) == points("5clicks", 1)[:3]
    assert points("1click", 1) == points("noc", 1)[:1]
    assert len(points("noc", 1)) == 20
    assert points("3clicks", 1) != points("3clicks", 2)


@pytest.fixture
def propagated(monkeypatch):
    """`propagate` replaced: it gives masks from a stack, both ways from the prompts, and notes its calls."""
    calls: list[dict] = []

    def install(*stacks: np.ndarray) -> list[dict]:
        def propagate(model, planes, count, targets, direction, use_zoom, thickness):
            masks = stacks[min(len(calls), len(stacks) - 1)]
            calls.append({"prompts": dict(targets[0].prompts), "direction": direction, "zoom": use_zoom})
            calls[-1]["thickness"] = thickness
            start = min(targets[0].prompts)
            yield SliceMask(0, start, masks[start], 1.0)
            first = start if direction == Direction.FORWARD else 0
            last = start if direction == Direction.BACKWARD else count - 1
            for index in range(first, last + 1):
                if index != start:
                    yield SliceMask(0, index, masks[index], 1.0)

        monkeypatch.setattr(pipelines, "propagate", propagate)
        return calls

    return install


def through(study: Study, design: str, protocol: Protocol, model=None):
    prompted = protocol.prompted([int(a) for a in study.truth(LARGE).sum((1, 2))])
    ask = pipelines.through_video if protocol.pipeline == "video" else pipelines.through_volume
    return ask(model, study, LARGE, prompted, design, protocol)


def test_a_volume_is_judged_in_3d_with_its_own_spacing(study, propagated):
    truth = study.truth(LARGE)
    masks = np.roll(truth, 1, 0)  # one slice off: 2 mm
    propagated(masks)
    found = through(study, "box", Protocol("volume", nsd_mm=1.5))
    assert found.dice == pytest.approx(dice(masks, truth)) and found.iou == pytest.approx(iou(masks, truth))
    assert found.nsd == nsd(masks, truth, (2, 1, 1), 1.5) < 1
    assert through(study, "box", Protocol("volume", nsd_mm=2.0)).nsd == 1


def test_slices_that_are_not_reached_count_as_empty(study, propagated, slices_of):
    truth = study.truth(LARGE)
    calls = propagated(truth)
    middle = slices_of[len(slices_of) // 2]
    found = through(study, "mask", Protocol("volume", direction=Direction.FORWARD))
    assert calls[0]["direction"] == Direction.FORWARD and list(calls[0]["prompts"]) == [middle]
    half = truth.copy()
    half[:middle] = False
    assert found.dice == pytest.approx(dice(half, truth))
    before = middle - slices_of[0]
    assert found.slices == [0] * before + [1] * (len(slices_of) - before)
    assert through(study, "mask", Protocol("volume")).dice == 1


def test_absence_is_the_share_of_empty_slices_that_were_found_empty(study, propagated, slices_of):
    masks = study.truth(LARGE).copy()
    absent = [k for k in range(study.count) if k not in slices_of]
    assert len(absent) == 5
    masks[absent[0], 0, 0] = True
    propagated(masks)
    assert through(study, "box", Protocol("volume")).absence == pytest.approx(4 / 5)
    forward = through(study, "box", Protocol("volume", direction=Direction.FORWARD))
    assert forward.absence == 1  # the slice with the mistake is not reached


@pytest.mark.parametrize(
    ("which", "expected"),
    [("middle", [4]), ("largest", [3]), ("every:2", [3, 5]), ("every:3", [3, 6]), ("every:50", [4])],
)
def test_the_prompted_slices_are_those_asked_for(which, expected):
    areas = [0, 0, 3, 9, 4, 4, 1, 0]
    assert Protocol("volume", prompted_slice=which).prompted(areas) == expected


def test_every_prompted_slice_gets_its_own_prompt(study, propagated):
    calls = propagated(study.truth(LARGE))
    through(study, "box", Protocol("volume", prompted_slice="every:4"))
    (prompts,) = [call["prompts"] for call in calls]
    assert list(prompts) == [5, 9]
    for index, given in prompts.items():
        a, b = np.nonzero(study.truth(LARGE)[index])
        assert given.box == (a.min(), b.min(), a.max(), b.max())


def test_the_challenges_protocol_clicks_where_the_largest_error_is(study, propagated, slices_of):
    """First answer: the upper slices missing; second: a leak beside them; then all is right."""
    truth = study.truth(LARGE)
    missing, leaking = truth.copy(), truth.copy()
    missing[6:] = False
    leaking[2, 2:12, 25:39] = True
    calls = propagated(missing, leaking, truth)
    found = through(study, "cvpr", Protocol("volume"))
    assert len(calls) == 3
    middle = slices_of[len(slices_of) // 2]
    assert list(calls[0]["prompts"]) == [middle] and calls[0]["prompts"][middle].box is not None
    assert calls[0]["thickness"] == study.volume.thickness(study.volume.slice_axis) > 0
    first = {k: p for k, p in calls[1]["prompts"].items() if len(p.points)}
    ((index, prompt),) = first.items()
    point = tuple(int(x) for x in prompt.points[0])
    assert index >= 6 and truth[(index, *point)] and prompt.positive.tolist() == [True]
    second = calls[2]["prompts"][2]
    assert second.positive.tolist() == [False] and leaking[(2, *map(int, second.points[0]))]
    expected = [dice(missing, truth), dice(leaking, truth), 1, 1, 1, 1]
    assert found.curve == pytest.approx(expected)
    assert found.nsd_curve[0] == pytest.approx(nsd(missing, truth, (2, 1, 1), 2.0))
    assert len(found.nsd_curve) == 6 and found.nsd_curve[2:] == [1, 1, 1, 1]


def test_the_challenges_protocol_ends_after_five_clicks(study, propagated):
    calls = propagated(np.zeros_like(study.truth(LARGE)))
    assert through(study, "cvpr", Protocol("volume")).curve == [0] * 6
    assert sum(len(p.points) for p in calls[-1]["prompts"].values()) == 5


def test_a_video_is_prompted_where_the_structure_comes_and_judged_frame_by_frame(
    study, propagated, slices_of
):
    truth = study.truth(LARGE)
    masks = truth.copy()
    masks[slices_of[2]] = np.roll(truth[slices_of[2]], 5, 0)
    masks[slices_of[-1] + 1, 0, 0] = True  # found where it is gone
    calls = propagated(masks)
    protocol = Protocol("video", nsd_mm=1.0)
    found = through(study, "box", protocol)
    assert list(calls[0]["prompts"]) == [slices_of[0]] and calls[0]["direction"] == Direction.FORWARD
    assert calls[0]["thickness"] is None  # frames have none
    frames = range(slices_of[0], study.count)
    each = [dice(masks[k], truth[k]) for k in frames]
    assert sorted(each)[0] == 0 and sorted(each)[1] < 1 and sorted(each)[2] == 1
    assert found.slices == pytest.approx(each) and found.dice == pytest.approx(np.mean(each))
    assert found.iou == pytest.approx(np.mean([iou(masks[k], truth[k]) for k in frames]))
    assert found.nsd == pytest.approx(np.mean([nsd(masks[k], truth[k], (1, 1), 1.0) for k in frames]))
    assert len(through(study, "mask", protocol).slices) == len(each) - 1  # its mask was given


def test_a_video_with_a_structure_on_its_last_frame_only_has_nothing_to_judge(tmp_path, write_case):
    write_case(tmp_path / "i.nii", tmp_path / "l.nii")
    array = np.zeros((48, 40, 14), np.uint8)
    array[10:20, 10:20, 13] = 1
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), tmp_path / "l.nii")
    study = read_study(Pair("case", tmp_path / "i.nii", tmp_path / "l.nii"))
    with pytest.raises(UserError, match="last frame"):
        through(study, "mask", Protocol("video"))


@pytest.mark.parametrize("design", ["box", "3clicks", "mask"])
def test_the_default_checkpoint_follows_a_bright_ball_through_a_volume(study, model, design):
    found = through(study, design, Protocol("volume"), model)
    assert found.dice > 0.7
    assert 0 < found.first <= found.seconds
    assert len(found.slices) == 9


def test_corrections_in_3d_are_read_by_a_real_model(study, model):
    found = through(study, "cvpr", Protocol("volume", jitter=1), model)
    assert len(found.curve) == len(found.nsd_curve) == 6
    assert found.curve[-1] > 0.7


def test_the_default_checkpoint_answers_single_slices_and_videos(study, model):
    look = pipelines.look_with(model, zoom=True)
    found = pipelines.on_slice(look, study, LARGE, 5, "noc", Protocol("image", ("noc",)))
    assert len(found.curve) == 20 and max(found.curve) > 0.85
    assert through(study, "box", Protocol("video"), model).dice > 0.5


def test_what_is_shown_is_the_prompted_slice_and_the_worst(study, propagated, slices_of):
    masks = study.truth(LARGE).copy()
    masks[0, :20] = True
    propagated(masks)
    first, worst = through(study, "box", Protocol("volume")).shown
    assert first.index == slices_of[len(slices_of) // 2] and first.prompts.box is not None
    assert worst.index == 0 and worst.prompts is None
    np.testing.assert_array_equal(worst.mask, masks[0])
    np.testing.assert_array_equal(worst.plane, study.plane(0))
    assert worst.upwards and worst.aspect == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pipeline": "image", "designs": ("mask",)}, "mask has no meaning in the image pipeline"),
        ({"pipeline": "volume", "designs": ("noc",)}, "noc has no meaning in the volume pipeline"),
        ({"pipeline": "video", "designs": ("cvpr",)}, "cvpr has no meaning in the video pipeline"),
        ({"pipeline": "image", "designs": ("21clicks",)}, "--prompts 21clicks is not known"),
        ({"pipeline": "image", "designs": ("2click",)}, "--prompts 2click is not known"),
        ({"pipeline": "image", "jitter": -1}, "--jitter must be 0 or more"),
        ({"pipeline": "image", "nsd_mm": float("nan")}, "--nsd-mm must be 0 or more"),
        ({"pipeline": "volume", "prompted_slice": "every:0"}, "--prompted-slice must be"),
        ({"pipeline": "video", "direction": Direction.BOTH}, "no meaning in a video"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Protocol(**settings)


def test_the_protocols_signature_follows_everything_but_the_list_of_designs():
    base = Protocol("volume", ("1click",))
    assert dataclasses.replace(base, designs=("box",)).signature == base.signature
    changes = [{"jitter": 1}, {"seed": 1}, {"zoom": False}, {"nsd_mm": 1.0}, {"prompted_slice": "largest"}]
    changes += [{"image_size": 512}, {"direction": Direction.FORWARD}, {"pipeline": "image"}]
    signatures = {dataclasses.replace(base, **change).signature for change in changes}
    assert len(signatures | {base.signature}) == len(changes) + 1
