"""Our answers and upstream sam2's own predictors, side by side on the same frames and weights."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from sam2.build_sam import build_sam2, build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor

from lib.prompts.prompts import SlicePrompts
from lib.sam import network, zoom
from lib.sam.checkpoints import Checkpoint
from lib.sam.model import Model, square
from lib.sam.propagate import Target, propagate
from lib.sam.segment import decode_in_view, to_points, to_slice

SIZE = 128
FRAMES = 12
START = 3  # more slices follow than sam2 has memories for


@pytest.fixture(scope="module")
def upstream_image():
    torch.manual_seed(7)
    net = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu", hydra_overrides_extra=_sized(SIZE))
    # weights at random may find nothing anywhere, and comparing nothing would prove nothing
    net.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10.0)
    return net


@pytest.fixture(scope="module")
def upstream_video(upstream_image):
    predictor = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu", hydra_overrides_extra=_sized(SIZE)
    )
    predictor.fill_hole_area = 0  # needs a CUDA extension; the rest of upstream's switches stay on
    predictor.load_state_dict(upstream_image.state_dict())
    return predictor


def _sized(size: int) -> list[str]:
    grid = f"[{size // 16},{size // 16}]"
    return [
        f"++model.image_size={size}",
        f"++model.memory_attention.layer.self_attention.feat_sizes={grid}",
        f"++model.memory_attention.layer.cross_attention.feat_sizes={grid}",
    ]


@pytest.fixture(scope="module")
def ours(upstream_image) -> Model:
    weights = upstream_image.state_dict()
    architecture = network.recognise(weights)
    net = network.build(architecture, SIZE)
    net.load_state_dict(weights)
    return Model(net, Checkpoint("random", "0", architecture), "cpu", 1 << 28)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """A disc that moves and grows over a textured ground: uint8 (A, B, K)."""
    rng = np.random.default_rng(3)
    a, b = np.mgrid[:SIZE, :SIZE]
    slices = []
    for k in range(FRAMES):
        disc = np.hypot(a - 46 - 2 * k, b - 70) < 15 + k / 2
        slices.append(60 + 120 * disc + rng.normal(0, 12, disc.shape))
    return np.clip(np.stack(slices, -1), 0, 255).astype(np.uint8)


def _prompts(points=(), positive=(), box=None, mask=None) -> SlicePrompts:
    return SlicePrompts(np.array(points, float).reshape(-1, 2), np.array(positive, bool), box, mask)


def _rgb(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane.T[..., None], 3, axis=2)


PROMPTS = {
    "one click": _prompts([(52, 71)], [True]),
    "a click and a correction": _prompts([(52, 71), (20, 30)], [True, False]),
    "a box": _prompts(box=(35.0, 55.0, 65.0, 86.0)),
    "a box and two clicks": _prompts([(52, 71), (38, 58)], [True, False], (35.0, 55.0, 65.0, 86.0)),
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (110, 90)], ids=["native", "scaled and not square"])
def test_a_slice_gets_the_logits_of_upstreams_image_predictor(ours, upstream_image, volume, prompts, shape):
    plane = volume[: shape[0], : shape[1], 2]
    predictor = SAM2ImagePredictor(upstream_image)
    predictor._bb_feat_sizes = [(SIZE // s, SIZE // s) for s in (4, 8, 16)]  # upstream writes those of 1024
    predictor.set_image(_rgb(plane))
    view = zoom.whole(shape)
    decoded, _ = decode_in_view(ours, plane, prompts, view)

    # upstream takes (x, y) of the picture and scales them; ours are already on its square
    points, labels = to_points(prompts, view, SIZE)
    scale = np.array(shape) / SIZE
    boxed = 2 if prompts.box else 0
    logits, expected = None, None
    for count in range(min(boxed or 1, len(points)), len(points) + 1):
        clicks = slice(boxed, count)
        has_clicks = count > boxed
        expected, scores, logits = predictor.predict(
            point_coords=points[clicks] * scale if has_clicks else None,
            point_labels=labels[clicks] if has_clicks else None,
            box=(points[:2] * scale).ravel() if boxed else None,
            mask_input=logits,
            multimask_output=count == 1,
            return_logits=True,
        )
        best = int(scores.argmax())
        logits = logits[best : best + 1]
    ours_logits = to_slice(decoded.logits, view, shape)
    np.testing.assert_allclose(ours_logits.T, expected[best], atol=2e-3, rtol=1e-3)
    assert decoded.score == pytest.approx(float(scores[best]), abs=1e-4)


def _upstream_state(volume):
    """An upstream inference state on our frames: `images` needs no more than len and getitem."""
    frames = torch.cat([square(volume[:, :, k].T, SIZE) for k in range(volume.shape[2])])
    device = torch.device("cpu")
    return {
        "images": frames,
        "num_frames": len(frames),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": volume.shape[1],
        "video_width": volume.shape[0],
        "device": device,
        "storage_device": device,
        **{
            key: {}
            for key in (
                "point_inputs_per_obj",
                "mask_inputs_per_obj",
                "cached_features",
                "constants",
                "output_dict_per_obj",
                "temp_output_dict_per_obj",
                "frames_tracked_per_obj",
            )
        },
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
    }


@pytest.fixture(scope="module")
def followed(ours, upstream_video, volume):
    """Every kind of prompt through the volume, one structure each: upstream's masks and ours."""
    state = _upstream_state(volume)
    # upstream scales a mask down and up before it remembers it; this one survives that unchanged
    band = np.zeros((SIZE, SIZE), bool)
    band[32:64] = True
    kinds = {
        "click": PROMPTS["one click"],
        "clicks": PROMPTS["a click and a correction"],
        "box": PROMPTS["a box"],
        "mask": _prompts(mask=band),
    }
    for number, (kind, prompts) in enumerate(kinds.items()):
        points, labels = to_points(prompts, zoom.whole((SIZE, SIZE)), SIZE)
        if kind == "mask":
            upstream_video.add_new_mask(state, START, number, band.T)
        elif kind == "box":
            upstream_video.add_new_points_or_box(state, START, number, box=points.ravel())
        else:
            for count in range(1, len(points) + 1):
                upstream_video.add_new_points_or_box(state, START, number, points[:count], labels[:count])
    expected = {}
    for reverse in (False, True):
        for index, _, logits in upstream_video.propagate_in_video(state, START, reverse=reverse):
            expected |= {(kind, index): (logits[n, 0] > 0).numpy().T for n, kind in enumerate(kinds)}

    targets = [Target({START: prompts}, 0, FRAMES - 1) for prompts in kinds.values()]
    with pytest.MonkeyPatch.context() as patch:
        # upstream also shows the pieces of a mask that were not clicked on
        patch.setattr("lib.sam.segment.connected", lambda mask, prompts: mask)
        answers = list(propagate(ours, lambda k: volume[:, :, k], FRAMES, targets, use_zoom=False))
    return expected, {(list(kinds)[m.target], m.index): m.mask for m in answers}


@pytest.mark.parametrize("kind", ["click", "clicks", "box", "mask"])
def test_a_volume_gets_the_masks_of_upstreams_video_predictor(followed, kind):
    expected, found = followed
    assert any(0.01 < found[kind, index].mean() < 0.99 for index in range(FRAMES))
    for index in range(FRAMES):
        differing = np.mean(found[kind, index] != expected[kind, index])
        assert differing < 2e-4, index


def test_building_leaves_hydra_as_it_was():
    before = GlobalHydra.instance().hydra
    network.build(network.NANO)
    assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
def test_every_published_network_is_recognised_and_built(size, version, monkeypatch):
    name = "sam2_hiera" if version == "sam2" else "sam2.1_hiera"
    # shapes alone, without the memory; sam2 reads numbers from linspace, and moves tables to a GPU it finds
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with torch.device("meta"):
        upstream = build_sam2(f"configs/{version}/{name}_{size}.yaml", device="meta").state_dict()
        built = network.build(network.recognise(upstream)).state_dict()
    assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in upstream.items()}
