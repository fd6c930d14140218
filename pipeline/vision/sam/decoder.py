"""SAM's prompt encoder and mask decoder for the prompts of many images at once, in inference and in training.

The numbers are those of segment_anything's `PromptEncoder` and `MaskDecoder.predict_masks`, one image after the other,
in fewer operations. All prompts of an image begin with the same image tokens, so the first layer projects these once.
From then on every prompt has image tokens of its own, N of them, but only T = 7 other tokens, and H heads. Since T·H is
about the width of the model or less, the projections of image tokens are moved to the other side of the products:
(x W) · q = x · (W q). Predicted IoU is known before any mask is drawn.

Notation: V images, P prompts of each, B = V·P prompts, T tokens of a prompt, N = h·w tokens of an image, C channels,
H heads of d channels.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.encoder import DTYPES
from pipeline.vision.sam.settings import Precision

MASKS = 4
"""Masks per prompt: number 0 is for prompts that are not ambiguous (boxes), 1 to 3 for those that are (points)."""


def attention(module: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return segment_anything's `module` of queries (B, S, C), keys and values (B, L, C), as (B, S, C)."""

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], module.num_heads, -1).transpose(1, 2)

    q, k, v = heads(module.q_proj(query)), heads(module.k_proj(key)), heads(module.v_proj(value))
    out: Tensor = module.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out


class _Heads:
    """The projections of segment_anything's `module` by head, and products of them as linear layers.

    Attributes:
        query, key, value: Weight (H, d, C) and bias (H, d, 1).
        scale: 1/√d.
        value_to_output: Linear layer from C to H·C channels: of each head, value projection, then output projection.
    """

    def __init__(self, module: Attention, dtype: torch.dtype | None) -> None:
        heads: int = module.num_heads
        width: int = module.internal_dim // heads
        self.query, self.key, self.value = (
            (layer.weight.unflatten(0, (heads, width)), layer.bias.view(heads, width, 1))
            for layer in (module.q_proj, module.k_proj, module.v_proj)
        )
        self.scale = 1 / math.sqrt(width)
        out = module.out_proj.weight.unflatten(1, (heads, width)).transpose(0, 1)
        # The attention weights of a head add up to one, so the bias arrives once if each head has its share.
        share = module.out_proj.bias[:, None] / heads
        weight, bias = self.value
        self.value_to_output = _as_linear(out @ weight, out @ bias + share, dtype)


def _as_linear(weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Return weights (H, X, C) and biases (H, X, 1) of heads as those of one linear layer, (H·X, C) and (H·X)."""
    return weight.flatten(0, 1).to(dtype or weight.dtype), bias.flatten().to(dtype or bias.dtype)


class TokenToImageAttention:
    """Cross-attention; queries: the tokens of prompts, keys and values: image tokens.

    A head's score of query q and key k, (W_q q + b_q) · (W_k k) / √d, is k · (W_kᵀ W_q q + W_kᵀ b_q) / √d: one linear
    layer on the queries. The key's bias adds the same to all scores of a query, which the softmax does not see.

    Args:
        module: segment_anything's Attention, whose weights are used; gradients reach them.
        dtype: Type of the products of weights; None for theirs.
    """

    def __init__(self, module: Attention, dtype: torch.dtype | None = None) -> None:
        self._module = module
        heads = _Heads(module, dtype)
        (query, query_bias), (key, _) = heads.query, heads.key
        self._query = _as_linear(key.mT @ query * heads.scale, key.mT @ query_bias * heads.scale, dtype)
        weight, bias = heads.value_to_output
        count = module.num_heads
        self._output = weight.unflatten(0, (count, -1)).transpose(0, 1).flatten(1), bias.view(count, -1).sum(0)

    def shared(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (V, P·T, C) of the queries of all P prompts of an image, and its image tokens (V, N, C)."""
        return attention(self._module, query, key, value)

    def separate(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B, T, C) of queries (B, T, C) and the image tokens (B, N, C) of each prompt."""
        batch, count, width = query.shape
        rows = F.linear(query, *self._query).view(batch, -1, width)
        weights = (rows @ key.transpose(1, 2)).softmax(dim=-1)
        return F.linear((weights @ value).view(batch, count, -1), *self._output)


class ImageToTokenAttention:
    """Cross-attention added to its input; queries: image tokens, keys and values: the tokens of prompts.

    A head's score of query q and key k, (W_q q + b_q) · (W_k k + b_k) / √d, is q · (W_qᵀ W_k k + W_qᵀ b_k) / √d plus
    b_q · (W_k k + b_k) / √d: two linear layers on the keys.

    Args:
        module: segment_anything's Attention, whose weights are used; gradients reach them.
        dtype: Type of the products of weights; None for theirs.
    """

    def __init__(self, module: Attention, dtype: torch.dtype | None = None) -> None:
        self._module = module
        heads = _Heads(module, dtype)
        (query, query_bias), (key, key_bias) = heads.query, heads.key
        self._scale = heads.scale
        self._key = _as_linear(query.mT @ key * self._scale, query.mT @ key_bias * self._scale, dtype)
        self._constant = _as_linear(query_bias.mT @ key * self._scale, query_bias.mT @ key_bias * self._scale, dtype)
        self._value = heads.value_to_output
        # (H, H·d): 1 where a channel is of the head.
        one = torch.eye(module.num_heads, dtype=dtype or query.dtype, device=query.device)
        self._channels_of_head = one.repeat_interleave(query.shape[1], dim=1)

    def shared(self, query: Tensor, key: Tensor, value: Tensor, residual: Tensor) -> Tensor:
        """Return the image tokens (B, N, C) of each prompt, where all P prompts of an image begin with the same.

        Args:
            query: (V, N, C).
            key: (B, T, C).
            value: (B, T, C).
            residual: (V, N, C), to which the attention's output is added.
        """
        module = self._module
        images, tokens, _ = residual.shape
        # Taken once for all prompts, the image's projection is worth it: each row is zero outside of its head.
        rows = ((module.k_proj(key) * self._scale).unsqueeze(-2) * self._channels_of_head).view(
            images, -1, module.internal_dim
        )
        scores = rows @ module.q_proj(query).transpose(1, 2)
        out = self._weighted(scores.view(len(key), -1, tokens), value)
        out.unflatten(0, (images, -1)).add_(residual[:, None])
        return out

    def separate(self, query: Tensor, key: Tensor, value: Tensor, residual: Tensor) -> Tensor:
        """Return the image tokens (B, N, C) of each prompt; see `shared`, but queries and residual are (B, N, C)."""
        batch, _, width = key.shape
        scores = F.linear(key, *self._key).view(batch, -1, width) @ query.transpose(1, 2)
        scores += F.linear(key, *self._constant).view(batch, -1, 1)
        return self._weighted(scores, value).add_(residual)

    def _weighted(self, scores: Tensor, value: Tensor) -> Tensor:
        """Return the attention's output (B, N, C) by scores (B, T·H, N) and values (B, T, C)."""
        batch, count, width = value.shape
        weights = scores.view(batch, count, self._module.num_heads, -1).softmax(dim=1).flatten(1, 2)
        return weights.transpose(1, 2) @ F.linear(value, *self._value).view(batch, -1, width)


class _Upscaling:
    """The mask decoder's two transposed convolutions, and the product with a mask's weights.

    A transposed convolution of kernel and stride 2 turns each token into 2 × 2 of its own, independently of its
    neighbours: it is a linear layer, with channels last and tokens written as whole rows of pixels.
    """

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype | None) -> None:
        first, norm, _, second, _ = layers
        self._first = _convolution_as_linear(cast(nn.ConvTranspose2d, first), dtype)
        self._second = _convolution_as_linear(cast(nn.ConvTranspose2d, second), dtype)
        # A LayerNorm2d, which has the same weights; channels are last here.
        self._norm = cast(nn.LayerNorm, norm)

    def __call__(self, tokens: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return logits (K, M, 4·h, 4·w) of image tokens (K, h·w, C) and mask weights (K, M, C/8)."""
        count, masks, _ = weights.shape
        height, width = grid
        norm = self._norm
        fine = F.linear(tokens, *self._first).unflatten(-1, (4, -1))
        fine = F.gelu(F.layer_norm(fine, fine.shape[-1:], norm.weight, norm.bias, norm.eps))
        weight, bias = self._second
        if torch.is_grad_enabled():
            # In one product: a training's gradients are summed, and so rounded, in this order.
            finer = F.gelu(F.linear(fine, weight, bias).unflatten(-1, (4, -1))).flatten(1, 3)
            pixels = (weights @ finer.transpose(1, 2)).view(count, masks, height, width, 2, 2, 2, 2)
            return pixels.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(count, masks, 4 * height, 4 * width)
        fine = fine.view(count, height, width, 2, -1).transpose(2, 3).reshape(count, 4 * height * width, -1)
        logits = fine.new_empty((count, masks, 2 * height, 2, 4 * width))
        for row, (half_weight, half_bias) in enumerate(zip(weight.chunk(2), bias.chunk(2), strict=True)):
            finer = F.gelu(F.linear(fine, half_weight, half_bias)).view(count, 8 * height * width, -1)
            logits[:, :, :, row] = (weights @ finer.transpose(1, 2)).view(count, masks, 2 * height, 4 * width)
        return logits.flatten(2, 3).float()


def _convolution_as_linear(layer: nn.ConvTranspose2d, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Return weight (4·out, in) and bias (4·out) of a transposed convolution of kernel and stride 2.

    The outputs are those of the upper left, upper right, lower left and lower right pixel, channels last.
    """
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.weight.shape[0])
    bias = cast(Tensor, layer.bias).repeat(4)
    return weight.to(dtype or weight.dtype), bias.to(dtype or bias.dtype)


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of V images share.

    Attributes:
        values: (V, N, C): the embeddings as tokens, with the embedding for "no mask given" added.
        keys: (V, N, C): the same with their position embeddings added.
    """

    values: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Decoded:
    """What the transformer returns for B prompts.

    Attributes:
        iou: (B, 4) float32: predicted IoU of each mask.
        masks: (B, 4, C): the token of each mask.
        image: (B, N, C): the image tokens of each prompt.
    """

    iou: Tensor
    masks: Tensor
    image: Tensor


class _Decoder:
    """segment_anything's mask decoder on tokens, by its own modules.

    Products of weights are computed once, by the constructor: inference keeps the object, training constructs one at
    each step, so that gradients reach the weights through the products.

    Args:
        prompt_encoder: Of the model.
        mask_decoder: Of the model.
        dtype: Type of what is computed from weights here; None for theirs.
    """

    def __init__(
        self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, dtype: torch.dtype | None = None
    ) -> None:
        transformer = mask_decoder.transformer
        self._layers = [
            (
                layer,
                TokenToImageAttention(layer.cross_attn_token_to_image, dtype),
                ImageToTokenAttention(layer.cross_attn_image_to_token, dtype),
            )
            for layer in transformer.layers
        ]
        self._final_attention = TokenToImageAttention(transformer.final_attn_token_to_image, dtype)
        self._final_norm: nn.Module = transformer.norm_final_attn
        self._iou_head: nn.Module = mask_decoder.iou_prediction_head
        self._mask_heads = mask_decoder.output_hypernetworks_mlps
        self._upscaling = _Upscaling(mask_decoder.output_upscaling, dtype)
        self._grid: tuple[int, int] = prompt_encoder.image_embedding_size

        def typed(x: Tensor) -> Tensor:
            return x.to(dtype or x.dtype)

        self._no_mask = typed(prompt_encoder.no_mask_embed.weight)
        self._position = typed(prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2))
        self._output_tokens = typed(torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight]))

    def image_tokens(self, embeddings: Tensor) -> ImageTokens:
        """Return the tokens of image embeddings (V, C, h, w)."""
        values = embeddings.flatten(2).transpose(1, 2)
        # With gradients the layout stays: it decides in what order sums over the tokens are rounded.
        values = (values if torch.is_grad_enabled() else values.contiguous()) + self._no_mask
        return ImageTokens(values, values + self._position)

    def transform(self, values: Tensor, keys: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `Decoded`'s fields of `ImageTokens`' fields and embedded prompts (V, P, 2, C)."""
        images, count, _, width = prompts.shape
        tokens = torch.cat([self._output_tokens.expand(images, count, -1, -1), prompts], dim=2).flatten(0, 1)
        # As segment_anything has it, the tokens are their own position embeddings.
        queries = tokens
        for number, (layer, to_image, to_tokens) in enumerate(self._layers):
            query = queries if layer.skip_first_layer_pe else queries + tokens
            attended = attention(layer.self_attn, query, query, queries)
            queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)
            query = queries + tokens
            if number == 0:
                attended = to_image.shared(query.view(images, -1, width), keys, values).view_as(queries)
            else:
                attended = to_image.separate(query, keys, values)
            queries = layer.norm2(queries + attended)
            queries = layer.norm3(queries + layer.mlp(queries))
            attend = to_tokens.shared if number == 0 else to_tokens.separate
            values = layer.norm4(attend(keys, queries + tokens, queries, values))
            keys = values + self._position
        # Nothing reads the prompts' tokens any more.
        queries, tokens = queries[:, : 1 + MASKS], tokens[:, : 1 + MASKS]
        attended = self._final_attention.separate(queries + tokens, keys, values)
        outputs = self._final_norm(queries + attended)
        return self._iou_head(outputs[:, 0]).float(), outputs[:, 1:], values

    def logits(self, tokens: Tensor, image: Tensor, masks: slice) -> Tensor:
        """Return logits (K, M, 4·h, 4·w) float32 of mask tokens (K, 4, C) and image tokens (K, N, C).

        Args:
            tokens: Of K prompts, those of all four masks.
            image: Image tokens of each prompt.
            masks: Which M of the four masks are drawn.
        """
        weights = torch.stack([self._mask_heads[number](tokens[:, number]) for number in range(MASKS)[masks]], dim=1)
        return self._upscaling(image, weights, self._grid)


class PromptDecoder:
    """The prompt encoder and mask decoder of a SAM, for inference.

    Attributes:
        device: Where it computes.
        encoder_size: Side in pixels of the encoder's image, in which prompts are given.
        patch: Pixels per token.

    Args:
        sam: The model; what is needed of it is copied.
        device: Where to compute.
        precision: fp32, or bf16 in weights and activations.
        compiled: Whether the transformer goes through torch.compile.
    """

    def __init__(
        self, sam: Sam, device: torch.device | str, *, precision: Precision = "fp32", compiled: bool = False
    ) -> None:
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._prompt_encoder = copy.deepcopy(sam.prompt_encoder).to(self.device)
        self.encoder_size: int = self._prompt_encoder.input_image_size[0]
        self.patch = self.encoder_size // self._prompt_encoder.image_embedding_size[0]
        mask_decoder = copy.deepcopy(sam.mask_decoder).to(self.device)
        with torch.inference_mode():
            # Weights are multiplied in full precision, before the modules are brought to their own.
            self._decoder = _Decoder(self._prompt_encoder, mask_decoder, self._dtype)
            mask_decoder.to(self._dtype)
        self._transform = torch.compile(self._decoder.transform) if compiled else self._decoder.transform

    def points(self, points: Tensor) -> Tensor:
        """Embed points.

        Args:
            points: (P, 2) x, y in pixels of the encoder's image; float64 as the reference has them.

        Returns:
            (P, 2, C) float32: the point, and the embedding that stands for "no further point".
        """
        labels = torch.ones((len(points), 1), dtype=torch.int, device=self.device)
        sparse: Tensor = self._prompt_encoder((points.to(self.device)[:, None], labels), None, None)[0]
        return sparse

    def boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes (P, 4), left, top, right, bottom in pixels of the encoder's image, as (P, 2, C) float32."""
        sparse: Tensor = self._prompt_encoder(None, boxes.to(self.device), None)[0]
        return sparse

    def image_tokens(self, embeddings: Tensor) -> ImageTokens:
        """Prepare image embeddings (V, C, h, w) for `decode`."""
        return self._decoder.image_tokens(embeddings.to(self._dtype))

    def decode(self, images: ImageTokens, prompts: Tensor) -> Decoded:
        """Run the transformer.

        Args:
            images: V images.
            prompts: (V, P, 2, C): embedded prompts, P of each image.

        Returns:
            For B = V·P prompts, those of an image one after the other.
        """
        return Decoded(*self._transform(images.values, images.keys, prompts.to(self._dtype)))

    def logits(self, decoded: Decoded, prompts: Tensor, masks: slice) -> Tensor:
        """Draw masks.

        Args:
            decoded: Of B prompts.
            prompts: (K) numbers of prompts in it.
            masks: Which M of the four masks of each.

        Returns:
            (K, M, 4·h, 4·w) float32: logits in low resolution.
        """
        return self._decoder.logits(decoded.masks[prompts], decoded.image[prompts], masks)


def embed_boxes(encoder: PromptEncoder, boxes: Tensor) -> Tensor:
    """Embed boxes (B, P, 4), left, top, right, bottom in encoder pixels, as (B, P, 2, C)."""
    sparse: Tensor = encoder(None, boxes.flatten(0, 1), None)[0]
    embedded: Tensor = sparse.unflatten(0, boxes.shape[:2])
    return embedded


def embed_points(encoder: PromptEncoder, points: Tensor) -> Tensor:
    """Embed points (B, P, 2), column and row of encoder pixels, as (B, P, 2, C): each by itself, as foreground."""
    single = points.flatten(0, 1)[:, None]
    sparse: Tensor = encoder((single, torch.ones(single.shape[:2], device=single.device)), None, None)[0]
    embedded: Tensor = sparse.unflatten(0, points.shape[:2])
    return embedded


def decode(sam: Sam, embeddings: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the masks of prompts, with gradients: what training needs.

    Args:
        sam: The model.
        embeddings: (V, C, h, w): of its image encoder.
        prompts: (V, P, 2, C): P embedded prompts of each image, boxes and points in any order.

    Returns:
        Logits (V, P, 4, 4·h, 4·w) in low resolution, and predicted IoU (V, P, 4).
    """
    decoder = _Decoder(sam.prompt_encoder, sam.mask_decoder)
    images = decoder.image_tokens(embeddings)
    iou, tokens, image = decoder.transform(images.values, images.keys, prompts)
    logits = decoder.logits(tokens, image, slice(None))
    return logits.unflatten(0, prompts.shape[:2]), iou.unflatten(0, prompts.shape[:2])
