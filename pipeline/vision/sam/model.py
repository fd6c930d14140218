"""SAM as segment_anything's modules: Meta's layouts, and a mini one of the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import SettingsError
from pipeline.vision.sam.settings import SamSettings, SamVariant
from pipeline.weights import load_exactly, load_state_dict


@dataclass(frozen=True)
class SamLayout:
    """Dimensions of a variant.

    Attributes:
        width: Channels of the image encoder's tokens.
        depth: Its blocks.
        heads: Its attention heads.
        global_blocks: Blocks with global attention; the others attend within windows.
        size: Side in pixels of the images that it was trained on.
        patch: Pixels per token.
        window: Tokens a side of an attention window.
        channels: Channels of the image embedding, and of prompts and mask decoder.
        decoder_heads: Attention heads of the mask decoder.
        decoder_mlp: Hidden units of its feed-forward networks.
        iou_hidden: Hidden units of the head that predicts a mask's IoU.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    size: int = 1024
    patch: int = 16
    window: int = 14
    channels: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_hidden: int = 256


LAYOUTS: Mapping[SamVariant, SamLayout] = {
    # 128 pixels at a metre each show a scene of the synthetic world; windows of 8 tokens divide its 16 × 16 evenly.
    "mini": SamLayout(
        width=128, depth=6, heads=4, global_blocks=(2, 5), size=128, patch=8, window=8, channels=64, decoder_heads=4,
        decoder_mlp=256, iou_hidden=64,
    ),
    "vit_b": SamLayout(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SamLayout(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamLayout(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}  # fmt: skip

# Of the published normalisation; the mini one is trained with the same.
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def encoder_size(settings: SamSettings) -> int:
    """Return the side in pixels that images are resized to.

    Raises:
        SettingsError: It is no multiple of the variant's patch.
    """
    layout = LAYOUTS[settings.variant]
    size = settings.encoder_size or layout.size
    if size % layout.patch:
        raise SettingsError(
            f"encoder_size {size} is no multiple of {layout.patch}, the patch of {settings.variant}",
            where="encoder_size",
            fix=f"set it to {size - size % layout.patch or layout.patch}",
        )
    return size


def embedding_shape(settings: SamSettings) -> tuple[int, int, int]:
    """Return channels, rows and columns of an image embedding.

    Raises:
        SettingsError: See `encoder_size`.
    """
    layout = LAYOUTS[settings.variant]
    side = encoder_size(settings) // layout.patch
    return layout.channels, side, side


def build_sam(settings: SamSettings, *, random_weights: bool = False, seed: int = 0) -> Sam:
    """Build SAM in evaluation mode at the encoder size of the settings.

    Its image encoder maps normalised images (B, 3, S, S), S = `encoder_size`, to embeddings (B, channels, S/patch,
    S/patch); low-resolution masks are four times as fine as these.

    Args:
        settings: Variant, weights, size.
        random_weights: Initialise by `seed` instead of reading the file, as for training from scratch.
        seed: Seed of that initialisation.

    Raises:
        CheckpointError: The weights are missing, damaged, or another variant's.
        SettingsError: See `encoder_size`.
    """
    size = encoder_size(settings)
    layout = LAYOUTS[settings.variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = _modules(layout, size)
    if not random_weights:
        path = Path(settings.weights)
        _load(sam, _resize_positions(load_state_dict(path), layout, size // layout.patch), settings.variant, path)
    return sam.eval()


def _modules(layout: SamLayout, size: int) -> Sam:
    grid = size // layout.patch
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=size,
            patch_size=layout.patch,
            embed_dim=layout.width,
            depth=layout.depth,
            num_heads=layout.heads,
            mlp_ratio=4,
            out_chans=layout.channels,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=layout.window,
            global_attn_indexes=layout.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=layout.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=layout.channels, mlp_dim=layout.decoder_mlp, num_heads=layout.decoder_heads
            ),
            transformer_dim=layout.channels,
            iou_head_depth=3,
            iou_head_hidden_dim=layout.iou_hidden,
        ),
        pixel_mean=_MEAN,
        pixel_std=_STD,
    )


def _resize_positions(state: dict[str, Tensor], layout: SamLayout, grid: int) -> dict[str, Tensor]:
    """Interpolate the position embeddings of a state dict to a grid of `grid` × `grid` tokens.

    The absolute one is interpolated bicubically. Relative ones of global attention have 2·grid − 1 entries and are
    interpolated linearly; those of windows do not depend on the image's size.
    """
    absolute = state.get("image_encoder.pos_embed")
    if absolute is None or absolute.ndim != 4 or absolute.shape[1] == grid:
        return state
    resized = dict(state)
    resized["image_encoder.pos_embed"] = F.interpolate(
        absolute.float().permute(0, 3, 1, 2), size=(grid, grid), mode="bicubic", antialias=True, align_corners=False
    ).permute(0, 2, 3, 1)
    for name in (
        f"image_encoder.blocks.{block}.attn.rel_pos_{side}" for block in layout.global_blocks for side in "hw"
    ):
        if name in state and state[name].ndim == 2:
            line = state[name].float().T[None]
            resized[name] = F.interpolate(line, size=2 * grid - 1, mode="linear", align_corners=False)[0].T
    return resized


def _load(sam: Sam, state: dict[str, Tensor], variant: SamVariant, path: Path) -> None:
    # Older published files contain the normalisation, which is a constant here.
    weights = {name: tensor for name, tensor in state.items() if name not in ("pixel_mean", "pixel_std")}
    load_exactly(
        sam,
        weights,
        kind=f"a SAM {variant}",
        path=path,
        fix="set the variant to the model that the file belongs to, or the weights to another file",
    )
