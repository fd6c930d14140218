"""Prompt encoder and mask decoder for the prompts of many images in one pass, with gradients: what training needs.

The numbers are those of segment_anything's `PromptEncoder` and `MaskDecoder.predict_masks`, one image after the other.
The order of operations is that of `pipeline.vision.sam.decoding`, which holds copies of the weights and has no
gradients; it halves the time of a training step on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.attention import CrossAttention, self_attention
from pipeline.vision.sam.decoding import MASKS


def embed_boxes(encoder: PromptEncoder, boxes: Tensor) -> Tensor:
    """Embed boxes (B, P, 4), left, top, right, bottom in encoder pixels, as (B, P, 2, C)."""
    sparse: Tensor = encoder(None, boxes.flatten(0, 1), None)[0]
    embedded: Tensor = sparse.unflatten(0, boxes.shape[:2])
    return embedded


def embed_points(encoder: PromptEncoder, points: Tensor) -> Tensor:
    """Embed points (B, P, 2), column and row of encoder pixels, as (B, P, 2, C): each by itself, as foreground."""
    alone = points.flatten(0, 1)[:, None]
    sparse: Tensor = encoder((alone, torch.ones(alone.shape[:2], device=alone.device)), None, None)[0]
    embedded: Tensor = sparse.unflatten(0, points.shape[:2])
    return embedded


def decode(sam: Sam, embeddings: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the masks of prompts.

    Args:
        sam: The model.
        embeddings: (B, C, h, w): of its image encoder.
        prompts: (B, P, 2, C): P embedded prompts of each image, boxes and points as they come.

    Returns:
        Logits (B, P, 4, 4·h, 4·w) in low resolution, and predicted IoU (B, P, 4).
    """
    decoder, images, count = sam.mask_decoder, len(prompts), prompts.shape[1]
    outs, tokens = _transform(sam.prompt_encoder, decoder, embeddings, prompts)
    iou = decoder.iou_prediction_head(outs[:, 0])
    networks = decoder.output_hypernetworks_mlps
    weights = torch.stack([networks[number](outs[:, 1 + number]) for number in range(MASKS)], dim=1)
    logits = _draw(decoder.output_upscaling, tokens, weights, embeddings.shape[-2:])
    return logits.unflatten(0, (images, count)), iou.unflatten(0, (images, count))


def _transform(
    encoder: PromptEncoder, decoder: MaskDecoder, embeddings: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the tokens of IoU and masks (B·P, 5, C), and the image tokens of each prompt (B·P, h·w, C)."""
    transformer = decoder.transformer
    values = embeddings.flatten(2).transpose(1, 2) + encoder.no_mask_embed.weight
    position = encoder.get_dense_pe().flatten(2).transpose(1, 2)
    keys = values + position
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(*prompts.shape[:2], -1, -1)
    first = torch.cat([own, prompts], dim=2)
    images, count, width, _ = first.shape
    first = first.flatten(0, 1)
    queries = first
    for number, layer in enumerate(transformer.layers):
        to_image, to_tokens = (
            CrossAttention(layer.cross_attn_token_to_image),
            CrossAttention(layer.cross_attn_image_to_token),
        )
        shared = number == 0
        asking = queries if layer.skip_first_layer_pe else queries + first
        attended = self_attention(layer.self_attn, asking, queries)
        queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)
        if shared:
            found = to_image.from_shared((queries + first).view(images, count * width, -1), keys, values)
            found = found.view_as(queries)
        else:
            found = to_image.from_tokens(queries + first, keys, values)
        queries = layer.norm2(queries + found)
        queries = layer.norm3(queries + layer.mlp(queries))
        into = to_tokens.into_shared if shared else to_tokens.into_own
        values = layer.norm4(into(keys, queries + first, queries, values))
        keys = values + position
    queries, first = queries[:, : 1 + MASKS], first[:, : 1 + MASKS]
    last = CrossAttention(transformer.final_attn_token_to_image)
    return transformer.norm_final_attn(queries + last.from_tokens(queries + first, keys, values)), values


def _draw(upscaling: nn.Sequential, tokens: Tensor, weights: Tensor, grid: torch.Size) -> Tensor:
    """Return logits (K, M, 4·h, 4·w) of image tokens (K, h·w, C) and mask weights (K, M, C/8).

    A transposed convolution of kernel and stride 2 is a linear layer from each token to four of its own.
    """
    parts: list[Any] = list(upscaling.children())
    coarse, norm, activation, fine, _ = parts
    height, width = grid
    shape, weight, bias = [len(norm.weight)], norm.weight, norm.bias
    quarters = activation(F.layer_norm(_quarter(coarse, tokens), shape, weight, bias, norm.eps))
    finer = activation(_quarter(fine, quarters)).flatten(1, 3)
    logits: Tensor = (weights @ finer.transpose(1, 2)).view(*weights.shape[:2], height, width, 2, 2, 2, 2)
    return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*weights.shape[:2], 4 * height, 4 * width)


def _quarter(layer: Any, x: Tensor) -> Tensor:
    """Return (…, 4, out) of (…, in): what a transposed convolution makes of each token, row by row."""
    weight: Tensor = layer.weight
    bias: Tensor = layer.bias
    flat = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    quarters: Tensor = F.linear(x, flat, bias.repeat(4)).unflatten(-1, (4, -1))
    return quarters
