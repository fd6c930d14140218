"""Grounding DINO as groundingdino-py's modules: the published variants and a mini one, construction and forward pass.

The first part gathers all that is changed of groundingdino-py and why; the second one builds models and loads weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from pipeline.vision.grounding.prompts import load_text_encoder, phrase_attention
from pipeline.vision.grounding.settings import GroundingSettings, GroundingVariant
from pipeline.weights import load_exactly, load_state_dict

# ---- Changes to groundingdino-py ----


# Why: the library is written for older versions of timm, torch and transformers, whose deprecation warnings would stand
# before every result. Each filter names one message, so that any other warning is still shown.
@contextmanager
def library_warnings_ignored() -> Iterator[None]:
    """Ignore the warnings that importing and running groundingdino's modules is known to cause, and no others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Importing from timm\.models\.layers is deprecated", FutureWarning)
        # The CUDA extension is not built; `deformable_attention` below takes its place.
        warnings.filterwarnings("ignore", "Failed to load custom C\\+\\+ ops", UserWarning)
        warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.autocast\(args", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.meshgrid: in an upcoming release", UserWarning)
        warnings.filterwarnings("ignore", "The `device` argument is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)
        yield


with library_warnings_ignored():
    from groundingdino.models.GroundingDINO import ms_deform_attn
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.fuse_modules import BiMultiHeadAttention
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO as GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import Transformer
    from groundingdino.models.GroundingDINO.utils import MLP, gen_encoder_output_proposals
    from groundingdino.util import get_tokenlizer as text_models
    from groundingdino.util.misc import NestedTensor, inverse_sigmoid


# Why: the library's own function stacks the samples of all levels and points before it weighs them, which takes levels
# times points the memory of the features; on a CPU these copies cost more than the sampling. This one adds the weighted
# samples up one by one. The attention module looks the function up by name in its own module, hence the assignment.
def deformable_attention(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Return the weighted sum of bilinear samples of feature maps (Deformable DETR, Zhu et al. 2021, equation 3).

    Args:
        value: (B, N, H, D): the cells of all levels one after the other, H heads.
        value_spatial_shapes: (L, 2) rows and columns of every level.
        sampling_locations: (B, Q, H, L, P, 2): x, y as shares of the map.
        attention_weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H·D) in the type of `attention_weights`.
    """
    batch, _, heads, width = value.shape
    queries, levels, points = (sampling_locations.shape[dim] for dim in (1, 3, 4))
    grids = (2 * sampling_locations.float() - 1).permute(3, 4, 0, 2, 1, 5)
    grids = grids.reshape(levels, points, batch * heads, queries, 1, 2)
    weights = attention_weights.permute(3, 4, 0, 2, 1).reshape(levels, points, batch * heads, 1, queries, 1)
    sizes = value_spatial_shapes.tolist()
    total = value.new_zeros(batch * heads, width, queries, 1, dtype=torch.float32)
    for level, cells in enumerate(value.float().split([rows * columns for rows, columns in sizes], dim=1)):
        maps = cells.permute(0, 2, 3, 1).reshape(batch * heads, width, *sizes[level])
        for point in range(points):
            samples = F.grid_sample(
                maps, grids[level, point], mode="bilinear", padding_mode="zeros", align_corners=False
            )
            total = total + samples * weights[level, point]
    return total.view(batch, heads * width, queries).transpose(1, 2).to(attention_weights.dtype)


ms_deform_attn.multi_scale_deformable_attn_pytorch = deformable_attention


# Why: GroundingDINO's constructor calls two functions of the library that download tokenizer and BERT from the Hugging
# Face hub by name and print that name. While the constructor runs they are replaced by what the project has read from a
# folder; nothing is downloaded, and BERT's weights come with all others.
@contextmanager
def _local_text_encoder(tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> Iterator[None]:
    """Make GroundingDINO's constructor take this tokenizer and a BERT by `config`."""
    replacements: dict[str, Any] = {
        "get_tokenlizer": lambda _: tokenizer,
        "get_pretrained_language_model": lambda _: BertModel(config),
    }
    originals = {name: getattr(text_models, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(text_models, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(text_models, name, original)


# Why: the fusion layers subtract the greatest logit of the whole batch before their softmax, so that the result of one
# image depends on the others by a rounding. torch's softmax is stable without.
def _make_images_independent(model: GroundingDINO) -> None:
    """Switch off the one operation of the model that mixes the images of a batch."""
    for module in model.modules():
        if isinstance(module, BiMultiHeadAttention):
            module.stable_softmax_2d = False


_SINE_WIDTH: Final = 512
"""Width of groundingdino's sine embedding of a box."""


# Why: the library's decoder takes for granted that the model is 256 wide, half of the sine embedding's width; the mini
# one is narrower.
def _fit_box_embedding(transformer: Transformer, width: int) -> None:
    """Give the decoder of a model of another width a layer that takes the sine embedding of boxes."""
    if 2 * width != _SINE_WIDTH:
        transformer.decoder.ref_point_head = MLP(_SINE_WIDTH, width, width, 2)


@dataclass(frozen=True)
class Proposals:
    """Boxes that the encoder proposes, one per cell of every level; the best become queries.

    Attributes:
        logits: (B, N, T) per token of the text; −∞ where a text is padded.
        boxes: (B, N, 4) centre x, y, width, height as shares of the canvas.
        centres: (N, 2) x, y of the cells as shares of the canvas.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor


@dataclass(frozen=True)
class GroundingOutputs:
    """Predictions of all decoder layers, and the states that they are made from.

    Attributes:
        logits: Per layer (B, Q, T) per token of the text; −∞ where a text is padded.
        boxes: Per layer (B, Q, 4) centre x, y, width, height as shares of the canvas.
        queries: (B, Q, d) region embeddings: the last layer's, whose dot product with `text` is its logits.
        text: (B, T, d) token features after the feature enhancer.
        proposals: The encoder's.
        levels: Image features (B, d, h, w) of every level before the enhancer.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    queries: Tensor
    text: Tensor
    proposals: Proposals
    levels: list[Tensor]


# Why: the library's `forward` returns logits and boxes alone. The similarity of regions and text needs the decoder's
# queries and the text features, training needs the encoder's proposals and the image features. The modules, their order
# and the results are the library's; tests compare both.
def forward_with_states(
    model: GroundingDINO, images: Tensor, padding: Tensor, captions: Sequence[str], *, half: bool = False
) -> GroundingOutputs:
    """Run Grounding DINO on images and their captions.

    Args:
        model: Grounding DINO.
        images: (B, 3, H, W) normalised.
        padding: (B, H, W) bool, true on padded pixels.
        captions: One per image.
        half: Compute the network in bfloat16; outputs are float32 either way.
    """
    with library_warnings_ignored(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
        text = encode_text(model, captions, images.device)
        levels, masks, positions = _encode_images(model, images, padding)
        memories: list[Tensor] = []
        handle = model.transformer.enc_output_norm.register_forward_hook(lambda *call: memories.append(call[2]))
        try:
            states, references, _, _, _ = model.transformer(levels, masks, None, positions, None, None, text)
        finally:
            handle.remove()
        memory = memories[0]
        offsets = model.transformer.enc_out_bbox_embed(memory)
        deltas = [bbox_embed(state) for bbox_embed, state in zip(model.bbox_embed, states, strict=True)]
    shapes = torch.tensor([level.shape[-2:] for level in levels])
    flat_masks = torch.cat([mask.flatten(1) for mask in masks], dim=1)
    with library_warnings_ignored():
        _, anchors = gen_encoder_output_proposals(memory.new_zeros(*memory.shape[:2], 1), flat_masks, shapes)
    features = text["encoded_text"].float()
    return GroundingOutputs(
        logits=[_logits(state, features, text["text_token_mask"]) for state in states],
        boxes=[
            (delta.float() + inverse_sigmoid(reference)).sigmoid()
            for delta, reference in zip(deltas, references[:-1], strict=True)
        ],
        queries=states[-1].float(),
        text=features,
        proposals=Proposals(
            logits=_logits(memory, features, text["text_token_mask"]),
            boxes=(offsets.float() + anchors).sigmoid(),
            centres=anchors[0, :, :2].sigmoid(),
        ),
        levels=levels,
    )


def encode_text(model: GroundingDINO, captions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Return the text inputs of the model's transformer; `encoded_text` (B, T, d) is independent of any image."""
    tokenized = model.tokenizer(list(captions), padding="longest", return_tensors="pt").to(device)
    token_mask = tokenized["attention_mask"].bool()
    attention, position_ids = phrase_attention(tokenized["input_ids"], token_mask, model.specical_tokens)
    with library_warnings_ignored():
        encoded = model.bert(
            input_ids=tokenized["input_ids"],
            token_type_ids=tokenized["token_type_ids"],
            attention_mask=attention,
            position_ids=position_ids,
        )
    return {
        "encoded_text": model.feat_map(encoded["last_hidden_state"]),
        "text_token_mask": token_mask,
        "position_ids": position_ids,
        "text_self_attention_masks": attention,
    }


def _encode_images(
    model: GroundingDINO, images: Tensor, padding: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return features, padding masks and position embeddings of every level."""
    features, positions = model.backbone(NestedTensor(images, padding))
    levels = [project(feature.tensors) for project, feature in zip(model.input_proj, features, strict=False)]
    masks = [feature.mask for feature in features]
    coarsest = features[-1].tensors
    for project in model.input_proj[len(features) :]:
        coarsest = project(coarsest)
        mask = F.interpolate(padding[None].float(), size=coarsest.shape[-2:]).to(torch.bool)[0]
        levels.append(coarsest)
        masks.append(mask)
        positions.append(model.backbone[1](NestedTensor(coarsest, mask)).to(coarsest.dtype))
    return levels, masks, positions


def _logits(states: Tensor, text: Tensor, token_mask: Tensor) -> Tensor:
    """Return the dot products of states (B, N, d) and text tokens (B, T, d) as (B, N, T), −∞ on padded tokens."""
    with torch.autocast(states.device.type, enabled=False):
        logits = states.float() @ text.transpose(1, 2)
    return logits.masked_fill(~token_mask[:, None], float("-inf"))


# ---- Models and their weights ----


@dataclass(frozen=True)
class GroundingLayout:
    """Hyperparameters of a variant.

    Attributes:
        swin_width: Channels of the Swin backbone's first stage.
        swin_depths: The backbone's blocks per stage.
        swin_heads: The backbone's attention heads per stage.
        swin_window: Side of the backbone's attention windows in tokens.
        stages: Stages of the backbone whose features the detector takes.
        levels: Number of feature resolutions: those of the stages, then halves of the last.
        width: Channels of image and text features in the detector.
        heads: Attention heads.
        feed_forward: Hidden units of the feed-forward layers.
        encoder_layers: Layers of the feature enhancer.
        encoder_points: Sampling points of its deformable attention per head and level.
        decoder_layers: Layers of the decoder.
        queries: Number of the decoder's queries, each of which gives a box.
        learned_queries: Whether queries begin as learned embeddings or as the selected image features.
        text_enhancer: Whether the feature enhancer has self-attention over the text.
        size: Side of its input in pixels.
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
    # Trees of the synthetic world are six pixels wide, so that it needs the finest stage. The text enhancer's position
    # embedding is 256 wide whatever the model's width, so that a narrower model cannot have one.
    "mini": GroundingLayout(
        swin_width=48, swin_depths=(2, 2, 2), swin_heads=(2, 4, 8), swin_window=4, stages=(0, 1, 2), levels=3,
        width=96, heads=6, feed_forward=384, encoder_layers=1, encoder_points=2, decoder_layers=2, queries=80,
        learned_queries=False, text_enhancer=False, size=128,
    ),
    "swin_t": GroundingLayout(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_b": GroundingLayout(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
}  # fmt: skip

# The published files hold these, which have no use after training.
_UNUSED_WEIGHTS: Final = frozenset({"label_enc.weight", "bert.embeddings.position_ids"})


def build_grounding_dino(
    settings: GroundingSettings, *, random_weights: bool = False, seed: int = 0, layout: GroundingLayout | None = None
) -> GroundingDINO:
    """Build Grounding DINO in evaluation mode.

    Its BERT's weights come from the same file as all others; only vocabulary and configuration are read from
    `settings.text_encoder`.

    Args:
        settings: Variant, weights, text encoder.
        random_weights: Initialise by `seed` instead of reading the file of weights, as for training from scratch.
        seed: Seed of that initialisation.
        layout: Hyperparameters in place of the variant's.

    Raises:
        CheckpointError: The weights or the text encoder are missing, damaged, or another variant's.
    """
    tokenizer, config = load_text_encoder(settings.text_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _construct(layout or LAYOUTS[settings.variant], tokenizer, config)
    if not random_weights:
        path = Path(settings.weights)
        load_weights(model, load_state_dict(path), settings.variant, path)
    return model.eval()


def load_weights(model: GroundingDINO, state: Mapping[str, Tensor], variant: str, path: Path) -> None:
    """Load a state dict, published or the project's own, into `model`.

    Raises:
        CheckpointError: It is another model's.
    """
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    weights = {name: tensor for name, tensor in weights.items() if name not in _UNUSED_WEIGHTS}
    load_exactly(
        model,
        weights,
        kind=f"a Grounding DINO {variant}",
        path=path,
        fix="set variant and text encoder to the model that the file belongs to, or the weights to another file",
    )


def _construct(layout: GroundingLayout, tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> GroundingDINO:
    with library_warnings_ignored(), _local_text_encoder(tokenizer, config):
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
        _fit_box_embedding(transformer, layout.width)
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
    _make_images_independent(model)
    return model
