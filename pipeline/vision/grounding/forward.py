"""One pass through Grounding DINO that also returns what its own `forward` keeps to itself.

Region–text similarity needs the decoder's queries and the text features, training needs every layer; the modules and
their order are the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.grounding.library import (
    GroundingDINO,
    NestedTensor,
    gen_encoder_output_proposals,
    inverse_sigmoid,
    quiet,
)
from pipeline.vision.grounding.text import phrase_attention


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
