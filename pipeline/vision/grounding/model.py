"""One pass through Grounding DINO that also returns what its own `forward` keeps to itself.

Region–text similarity needs the decoder's queries and the text features, training needs every layer; the modules and
their order are the library's.


The classes of groundingdino-py, imported and run without the deprecation warnings of an older library.

Deformable attention's sampling, level by level and point by point.

groundingdino's own lays the samples of all levels next to each other before it weighs them: copies as large as the
features times levels times points. On a CPU they cost more than the sampling.


Grounding DINO as groundingdino-py's modules: the published layouts, and a mini one of the same classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from pipeline.vision.grounding.prompts import load_text_encoder, phrase_attention
from pipeline.vision.grounding.settings import GroundingSettings, GroundingVariant
from pipeline.weights import load_exactly, load_state_dict


@contextmanager
def quiet() -> Iterator[None]:
    """Silence exactly what importing and running groundingdino's modules is known to warn of, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Importing from timm\.models\.layers is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Failed to load custom C\\+\\+ ops", UserWarning)
        warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.autocast\(args", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.meshgrid: in an upcoming release", UserWarning)
        warnings.filterwarnings("ignore", "The `device` argument is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)
        yield


with quiet():
    from groundingdino.models.GroundingDINO import ms_deform_attn
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.fuse_modules import BiMultiHeadAttention
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import Transformer
    from groundingdino.models.GroundingDINO.utils import MLP, gen_encoder_output_proposals
    from groundingdino.util import get_tokenlizer as text_models
    from groundingdino.util.misc import NestedTensor, inverse_sigmoid


def sample(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum bilinear samples of feature maps (Deformable DETR, Zhu et al. 2021, equation 3).

    Args:
        value: (B, N, H, D): all levels' cells one after the other, H heads.
        shapes: (L, 2) rows and columns of every level.
        locations: (B, Q, H, L, P, 2): x, y as shares of the map.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H·D) in the type of `weights`.
    """
    batch, _, heads, width = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = (2 * locations.float() - 1).permute(3, 4, 0, 2, 1, 5).reshape(levels, points, batch * heads, queries, 1, 2)
    shares = weights.permute(3, 4, 0, 2, 1).reshape(levels, points, batch * heads, 1, queries, 1)
    sizes = shapes.tolist()
    total = value.new_zeros(batch * heads, width, queries, 1, dtype=torch.float32)
    for level, part in enumerate(value.float().split([rows * columns for rows, columns in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, *sizes[level])
        for point in range(points):
            seen = F.grid_sample(maps, grids[level, point], mode="bilinear", padding_mode="zeros", align_corners=False)
            total = total + seen * shares[level, point]
    return total.view(batch, heads * width, queries).transpose(1, 2).to(weights.dtype)


ms_deform_attn.multi_scale_deformable_attn_pytorch = sample


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


@dataclass(frozen=True)
class Proposals:
    """What the encoder proposes at every cell of every level, before the best become queries.

    Attributes:
        logits: (B, N, T) per token of the text.
        boxes: (B, N, 4) centre x, y, width, height as shares of the canvas.
        centres: (N, 2) x, y of the cells as shares of the canvas.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor


@dataclass(frozen=True)
class Grounding:
    """Answers of all decoder layers.

    Attributes:
        logits: Per layer (B, Q, T) per token of the text; −∞ where a text is padded.
        boxes: Per layer (B, Q, 4) centre x, y, width, height as shares of the canvas.
        queries: (B, Q, d) region embeddings: the last layer's, whose dot product with `text` is the logits.
        text: (B, T, d) token features after the feature enhancer.
        proposals: Of the encoder.
        levels: Image features (B, d, h, w) of every level before the enhancer.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    queries: Tensor
    text: Tensor
    proposals: Proposals
    levels: list[Tensor]


def ground(
    model: GroundingDINO, images: Tensor, padding: Tensor, captions: Sequence[str], *, half: bool = False
) -> Grounding:
    """Detect what captions name.

    Args:
        model: Grounding DINO.
        images: (B, 3, H, W) normalised.
        padding: (B, H, W) bool, true on padded pixels.
        captions: One per image.
        half: Compute the network in bfloat16; answers are float32 either way.
    """
    with quiet(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
        text = encode_text(model, captions, images.device)
        levels, masks, positions = _encode_images(model, images, padding)
        kept: list[Tensor] = []
        handle = model.transformer.enc_output_norm.register_forward_hook(lambda *call: kept.append(call[2]))
        try:
            states, references, _, _, _ = model.transformer(levels, masks, None, positions, None, None, text)
        finally:
            handle.remove()
        memory = kept[0]
        offsets = model.transformer.enc_out_bbox_embed(memory)
        deltas = [head(state) for head, state in zip(model.bbox_embed, states, strict=True)]
    shapes = torch.tensor([level.shape[-2:] for level in levels])
    flat = torch.cat([mask.flatten(1) for mask in masks], dim=1)
    with quiet():
        _, anchors = gen_encoder_output_proposals(memory.new_zeros(*memory.shape[:2], 1), flat, shapes)
    features = text["encoded_text"].float()
    return Grounding(
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
    """Return what the model's transformer takes of captions; `encoded_text` (B, T, d) has not met an image yet."""
    tokenized = model.tokenizer(list(captions), padding="longest", return_tensors="pt").to(device)
    real = tokenized["attention_mask"].bool()
    attention, position_ids = phrase_attention(tokenized["input_ids"], real, model.specical_tokens)
    with quiet():
        encoded = model.bert(
            input_ids=tokenized["input_ids"],
            token_type_ids=tokenized["token_type_ids"],
            attention_mask=attention,
            position_ids=position_ids,
        )
    return {
        "encoded_text": model.feat_map(encoded["last_hidden_state"]),
        "text_token_mask": real,
        "position_ids": position_ids,
        "text_self_attention_masks": attention,
    }


def _encode_images(
    model: GroundingDINO, images: Tensor, padding: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
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


def _logits(states: Tensor, text: Tensor, real: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        logits = states.float() @ text.transpose(1, 2)
    return logits.masked_fill(~real[:, None], float("-inf"))
