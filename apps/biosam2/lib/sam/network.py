"""SAM 2 networks: which architecture a checkpoint has, and building it.

The modules are sam2's own; only the configuration is ours, as a typed value instead of Hydra files, so that
nothing here depends on (or disturbs) Hydra's process-wide state, and so that a checkpoint can carry its
architecture in its own metadata without naming Python classes to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base

from lib.errors import UserError

BACKBONE_STRIDE = 16
MAX_CONDITIONING = 16  # prompted slices that another one attends to, the nearest ones
MAX_IMAGE_SIZE = 2048
MAX_TRUNK_PARAMETERS = 500_000_000  # hiera_large has 213 million


@dataclass(frozen=True)
class Architecture:
    """The shape of a SAM 2 network.

    The values of the published networks are those of `sam2/configs/sam2.1/*.yaml`. `image_size` is the side,
    in pixels, of the square the network looks at; `sam21` tells SAM 2.1 from SAM 2 (three switches and the
    parameters behind them). `draws_prompts` tells that prompts are also drawn into the mask prompt
    (`lib.sam.drawing`), which no published network expects.
    """

    name: str
    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    pos_embed_size: tuple[int, int] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    d_model: int = 256
    mem_dim: int = 64
    memory_layers: int = 4
    memory_feedforward: int = 2048
    image_size: int = 1024
    sam21: bool = True
    draws_prompts: bool = False

    def __post_init__(self) -> None:
        """Refuse what sam2 cannot build, and what no published network comes near: a file must not make
        the server allocate more than it holds itself."""
        counts = {
            "embed_dim": (self.embed_dim, 512),
            "num_heads": (self.num_heads, 64),
            "d_model": (self.d_model, 512),
            "mem_dim": (self.mem_dim, 512),
            "memory_layers": (self.memory_layers, 16),
            "memory_feedforward": (self.memory_feedforward, 8192),
            "image_size": (self.image_size, MAX_IMAGE_SIZE),
        }
        for name, (value, most) in counts.items():
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most}")
        sequences = {
            "stages": (self.stages, 4, 64),
            "window_spec": (self.window_spec, 4, 64),
            "pos_embed_size": (self.pos_embed_size, 2, 64),
            "global_att_blocks": (self.global_att_blocks, len(self.global_att_blocks), 255),
        }
        for name, (values, length, most) in sequences.items():
            if len(values) != length or not all(type(v) is int and 1 <= v <= most for v in values):
                raise ValueError(f"{name} must be {length} numbers from 1 to {most}")
        if not isinstance(self.name, str):
            raise ValueError("name must be text")
        if type(self.sam21) is not bool or type(self.draws_prompts) is not bool:
            raise ValueError("sam21 and draws_prompts must be true or false")
        if self.embed_dim % self.num_heads or self.mem_dim % 32 or self.d_model % self.mem_dim:
            raise ValueError("num_heads must divide embed_dim, 32 mem_dim, and mem_dim d_model")
        widths = zip(self.stages, reversed(self.backbone_channels), strict=True)
        if sum(12 * count * width**2 for count, width in widths) > MAX_TRUNK_PARAMETERS:
            raise ValueError("the image encoder is larger than any known")

    @property
    def backbone_channels(self) -> list[int]:
        """Channels of the trunk's stages, deepest first."""
        return [self.embed_dim * 2**i for i in reversed(range(len(self.stages)))]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises
        ------
        UserError
            If the text is not an architecture.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            known = {f.name for f in fields(cls)}
            if not isinstance(values, dict) or set(values) - known:
                raise ValueError("unknown fields")
            fixed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**fixed)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"The checkpoint's architecture is not readable: {str(error)[:80]}.") from error


NANO = Architecture(
    name="biosam2_nano",
    embed_dim=32,
    num_heads=1,
    stages=(1, 2, 6, 1),
    global_att_blocks=(5, 8),
    pos_embed_size=(8, 8),
    window_spec=(8, 8, 8, 8),
    d_model=128,
    mem_dim=64,
    memory_layers=2,
    memory_feedforward=512,
    image_size=256,
    draws_prompts=True,
)

PUBLISHED = {
    a.name: a
    for a in (
        Architecture("hiera_tiny", 96, 1, (1, 2, 7, 2), (5, 7, 9)),
        Architecture("hiera_small", 96, 1, (1, 2, 11, 2), (7, 10, 13)),
        Architecture("hiera_base_plus", 112, 2, (2, 3, 16, 3), (12, 16, 20), pos_embed_size=(14, 14)),
        Architecture("hiera_large", 144, 2, (2, 6, 36, 4), (23, 33, 43), window_spec=(8, 4, 16, 8)),
    )
}


def recognise(weights: Mapping[str, torch.Tensor]) -> Architecture:
    """The architecture of the published ones, or the embedded one, that a state dict has, by its shapes.

    Parameters
    ----------
    weights : mapping of str to Tensor
        A SAM 2, SAM 2.1 or MedSAM2 state dict (parameter names of `sam2.modeling.sam2_base.SAM2Base`).

    Raises
    ------
    UserError
        If the weights are not those of a SAM 2 network we know.
    """
    patch = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    found = "no patch embedding"
    blocks = [re.match(r"image_encoder\.trunk\.blocks\.(\d{1,4})\.", key) for key in weights]
    depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
    if patch is not None and patch.ndim == 4:
        found = f"width {patch.shape[0]}"
        for architecture in (NANO, *PUBLISHED.values()):
            if patch.shape[0] == architecture.embed_dim and depth == sum(architecture.stages):
                return replace(architecture, sam21="no_obj_embed_spatial" in weights)
    raise UserError(f"The checkpoint holds no SAM 2 network that is known here ({found}, {depth} blocks).")


def build(architecture: Architecture, image_size: int | None = None) -> SAM2Base:
    """A SAM 2 network with fresh weights, in evaluation mode on the CPU.

    Parameters
    ----------
    architecture : Architecture
    image_size : int, optional
        Side in pixels of the square it looks at, a multiple of 32 up to 2048; the architecture's own when
        left out. The same weights serve every size: only the rotary tables of the memory attention follow it.

    Returns
    -------
    SAM2Base
        With upstream's inference switches (`build_sam2(apply_postprocessing=True)`), except the hole filling
        that needs a CUDA extension.

    Raises
    ------
    UserError
        If `image_size` is not such a side.
    """
    a = architecture
    size = a.image_size if image_size is None else image_size
    if size % 32 or not 32 <= size <= MAX_IMAGE_SIZE:
        raise UserError(f"image_size must be a multiple of 32 from 32 to {MAX_IMAGE_SIZE}, not {size}.")
    grid = size // BACKBONE_STRIDE

    def rope(**more) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0,
            feat_sizes=(grid, grid),
            embedding_dim=a.d_model,
            num_heads=1,
            downsample_rate=1,
            dropout=0.1,
            **more,
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=rope(rope_k_repeat=True, kv_in_dim=a.mem_dim),
        d_model=a.d_model,
        dim_feedforward=a.memory_feedforward,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=rope(),
    )
    network = SAM2Base(
        image_encoder=ImageEncoder(
            trunk=Hiera(
                embed_dim=a.embed_dim,
                num_heads=a.num_heads,
                stages=a.stages,
                global_att_blocks=a.global_att_blocks,
                window_pos_embed_bkg_spatial_size=a.pos_embed_size,
                window_spec=a.window_spec,
            ),
            neck=FpnNeck(
                position_encoding=_CoarsePositions(a.d_model, size // BACKBONE_STRIDE),
                d_model=a.d_model,
                backbone_channel_list=a.backbone_channels,
                fpn_top_down_levels=[2, 3],
                fpn_interp_model="nearest",
            ),
            scalp=1,
        ),
        memory_attention=MemoryAttention(
            d_model=a.d_model, pos_enc_at_input=True, layer=layer, num_layers=a.memory_layers
        ),
        memory_encoder=MemoryEncoder(
            out_dim=a.mem_dim,
            in_dim=a.d_model,
            position_encoding=_sine(a.mem_dim),
            mask_downsampler=MaskDownSampler(embed_dim=a.d_model, kernel_size=3, stride=2, padding=1),
            fuser=Fuser(CXBlock(dim=a.d_model, kernel_size=7, padding=3, use_dwconv=True), num_layers=2),
        ),
        num_maskmem=7,
        # upstream attends to every prompted slice; a starting mask can prompt hundreds
        max_cond_frames_in_attn=MAX_CONDITIONING,
        image_size=size,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        binarize_mask_from_pts_for_mem_enc=True,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        no_obj_embed_spatial=a.sam21,
        add_tpos_enc_to_obj_ptrs=a.sam21,
        proj_tpos_enc_in_obj_ptrs=a.sam21,
        use_signed_tpos_enc_to_obj_ptrs=a.sam21,
        sam_mask_decoder_extra_args={
            # a network that draws its prompts is trained to answer boxes with its first mask, stable or not
            "dynamic_multimask_via_stability": not a.draws_prompts,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    )
    return network.eval()


def _sine(features: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(num_pos_feats=features, normalize=True, scale=None, temperature=10000)


class _CoarsePositions(PositionEmbeddingSine):
    """Positions of the stride-16 grid, zeros of no size for the finer ones.

    Nothing reads the positions of the finer levels, and sam2 keeps two to three copies: 250 MB at 1024.
    """

    def __init__(self, features: int, grid: int) -> None:
        super().__init__(num_pos_feats=features, normalize=True, temperature=10000, warmup_cache=False)
        self.grid = grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Positions for features (B, C, H, W), of the same shape."""
        if x.shape[-1] > self.grid:
            return x.new_zeros(()).expand(x.shape)
        return super().forward(x)


def decode(
    network: SAM2Base,
    low: torch.Tensor,
    high: list[torch.Tensor],
    points: tuple[torch.Tensor, torch.Tensor] | None,
    mask: torch.Tensor | None,
    several: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass of prompt encoder and mask decoder over N prompts.

    Parameters
    ----------
    low : Tensor (N, C, S/16, S/16)
        Image features, with the memory or `no_mem_embed` in them.
    high : list of Tensor
        The finer levels, (N, C/8, S/4, S/4) and (N, C/4, S/8, S/8).
    points : pair of Tensor, optional
        (N, P, 2) as (x, y) on the input square, and (N, P) labels.
    mask : Tensor, optional
        Logits of a mask prompt, (N, 1, S/4, S/4).
    several : bool
        Three readings of an ambiguous prompt instead of one.

    Returns
    -------
    logits : Tensor (N, M, S/4, S/4); scores : Tensor (N, M), predicted IoU
    tokens : Tensor (N, M, C), which become object pointers; present : Tensor (N, 1), object score logits
    """
    sparse, dense = network.sam_prompt_encoder(points=points, boxes=None, masks=mask)
    return network.sam_mask_decoder(
        image_embeddings=low,
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=several,
        repeat_image=False,
        high_res_features=high,
    )
