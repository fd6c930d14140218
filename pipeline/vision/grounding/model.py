"""Grounding DINO as groundingdino-py's modules: the published layouts, and a mini one of the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from pipeline.vision.grounding.library import (
    MLP,
    BiMultiHeadAttention,
    GroundingDINO,
    Joiner,
    PositionEmbeddingSineHW,
    SwinTransformer,
    Transformer,
    quiet,
    text_models,
)
from pipeline.vision.grounding.settings import GroundingSettings, GroundingVariant
from pipeline.vision.grounding.text import load_text_encoder
from pipeline.vision.weights import load_exactly, load_state_dict


@dataclass(frozen=True)
class GroundingLayout:
    """The numbers that make a variant.

    Attributes:
        swin_width: Channels of the Swin backbone's first stage.
        swin_depths: Its blocks per stage.
        swin_heads: Its attention heads per stage.
        swin_window: Tokens a side of its attention windows.
        stages: Its stages that the detector sees.
        levels: Resolutions that the detector sees: those of the stages, then halves of the last.
        width: Channels of image and text features in the detector.
        heads: Attention heads.
        feed_forward: Hidden units.
        encoder_layers: Layers of the feature enhancer.
        encoder_points: Sampling points of its deformable attention, per head and level.
        decoder_layers: Layers of the decoder.
        queries: Boxes that the decoder refines.
        learned_queries: Whether these begin as learned embeddings or as the image features that were selected.
        text_enhancer: Whether the feature enhancer has self-attention over the text.
        size: Side in pixels that it is made for.
    """

    swin_width: int
    swin_depths: tuple[int, ...]
    swin_heads: tuple[int, ...]
    swin_window: int
    stages: tuple[int, ...] = (1, 2, 3)
    levels: int = 4
    width: int = 256
    heads: int = 8
    feed_forward: int = 2048
    encoder_layers: int = 6
    encoder_points: int = 4
    decoder_layers: int = 6
    queries: int = 900
    learned_queries: bool = True
    text_enhancer: bool = True
    size: int = 800


LAYOUTS: Mapping[GroundingVariant, GroundingLayout] = {
    # Trees of the synthetic world are six pixels wide: it needs the finest stage. The text enhancer's position
    # embedding is 256 wide whatever the model's width, so a narrow one goes without.
    "mini": GroundingLayout(
        swin_width=48, swin_depths=(2, 2, 2), swin_heads=(2, 4, 8), swin_window=4, stages=(0, 1, 2), levels=3,
        width=96, heads=6, feed_forward=384, encoder_layers=1, encoder_points=2, decoder_layers=2, queries=80,
        learned_queries=False, text_enhancer=False, size=128,
    ),
    "swin_t": GroundingLayout(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_b": GroundingLayout(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
}  # fmt: skip

_SINE = 512
"""Width of groundingdino's sine embedding of a box, whatever the model's width."""

# In the published files, and of no use after training.
_LEFT_OVER = frozenset({"label_enc.weight", "bert.embeddings.position_ids"})


def build_grounding_dino(
    settings: GroundingSettings, *, random_weights: bool = False, seed: int = 0, layout: GroundingLayout | None = None
) -> GroundingDINO:
    """Build Grounding DINO in evaluation mode.

    Its BERT's weights come from the same file as all others; only vocabulary and configuration are read from
    `settings.text_encoder`.

    Args:
        settings: Variant, weights, text encoder.
        random_weights: Leave the file of weights alone and initialise by `seed`, as for training from scratch.
        seed: Seed of that initialisation.
        layout: Numbers other than the variant's.

    Raises:
        CheckpointError: The weights or the text encoder are missing, damaged, or another variant's.
    """
    tokenizer, config = load_text_encoder(settings.text_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _modules(layout or LAYOUTS[settings.variant], tokenizer, config)
    if not random_weights:
        path = Path(settings.weights)
        load_weights(model, load_state_dict(path), settings.variant, path)
    return model.eval()


def load_weights(model: GroundingDINO, state: Mapping[str, Tensor], variant: str, path: Path) -> None:
    """Load a state dict, published or our own, into `model`.

    Raises:
        CheckpointError: It is another model's.
    """
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    found = {name: tensor for name, tensor in found.items() if name not in _LEFT_OVER}
    load_exactly(
        model,
        found,
        kind=f"a Grounding DINO {variant}",
        path=path,
        fix="set variant and text encoder to the model that the file belongs to, or the weights to another file",
    )


def _modules(layout: GroundingLayout, tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> GroundingDINO:
    with quiet(), _text_models(tokenizer, config):
        swin = SwinTransformer(
            pretrain_img_size=layout.size,
            embed_dim=layout.swin_width,
            depths=list(layout.swin_depths),
            num_heads=list(layout.swin_heads),
            window_size=layout.swin_window,
            drop_path_rate=0.0,
            out_indices=layout.stages,
        )
        backbone = Joiner(swin, PositionEmbeddingSineHW(layout.width // 2, 20, 20, normalize=True))
        backbone.num_channels = [swin.num_features[stage] for stage in layout.stages]
        transformer = Transformer(
            d_model=layout.width,
            nhead=layout.heads,
            num_queries=layout.queries,
            num_encoder_layers=layout.encoder_layers,
            num_decoder_layers=layout.decoder_layers,
            dim_feedforward=layout.feed_forward,
            dropout=0.0,
            return_intermediate_dec=True,
            query_dim=4,
            num_feature_levels=layout.levels,
            enc_n_points=layout.encoder_points,
            dec_n_points=4,
            learnable_tgt_init=True,
            two_stage_type="standard",
            embed_init_tgt=layout.learned_queries,
            use_text_enhancer=layout.text_enhancer,
            use_fusion_layer=True,
            use_text_cross_attention=True,
            text_dropout=0.0,
            fusion_dropout=0.0,
            fusion_droppath=0.0,
        )
        if 2 * layout.width != _SINE:
            transformer.decoder.ref_point_head = MLP(_SINE, layout.width, layout.width, 2)
        model = GroundingDINO(
            backbone,
            transformer,
            num_queries=layout.queries,
            aux_loss=True,
            iter_update=True,
            query_dim=4,
            num_feature_levels=layout.levels,
            nheads=layout.heads,
            two_stage_type="standard",
            dec_pred_bbox_embed_share=True,
            two_stage_class_embed_share=False,
            two_stage_bbox_embed_share=False,
        )
    for module in model.modules():
        if isinstance(module, BiMultiHeadAttention):
            # It subtracts the greatest logit of the whole batch, so that a result would depend on its neighbours by
            # a rounding; softmax is stable without.
            module.stable_softmax_2d = False
    return model


@contextmanager
def _text_models(tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> Iterator[None]:
    """Have GroundingDINO's constructor take this tokenizer and a BERT by `config` instead of downloading them."""
    functions: dict[str, Any] = {
        "get_tokenlizer": lambda _: tokenizer,
        "get_pretrained_language_model": lambda _: BertModel(config),
    }
    originals = {name: getattr(text_models, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(text_models, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(text_models, name, function)
