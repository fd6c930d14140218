"""Prompt encoder and mask decoder for the prompts of many images in one pass, with gradients: what training needs.

The numbers are those of segment_anything's `PromptEncoder` and `MaskDecoder.predict_masks`, one image after the other.
The order of operations is that of `pipeline.vision.sam.decoder`, which holds copies of the weights and has no
gradients; it halves the time of a training step on a CPU.


Attention between a few tokens of a prompt and many of an image, as SAM's mask decoder has it.

Notation: B prompts, T tokens of a prompt, N tokens of an image, C channels, H heads of d channels, I = H·d.


SAM's mask decoder for many prompts at once: the same numbers as segment_anything's, in fewer operations.

All prompts of an image begin with the same image tokens, so that the first layer's projections of them are taken once.
From then on every prompt has its own N image tokens but only T = 7 tokens of its own, and H heads; since T·H is smaller
than the width of the model, or about it, the projections of image tokens are moved to the other side of the products:
(x W) · q = x · (W q). What predicted IoU decides is known before any mask is drawn.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.encoder import DTYPES
from pipeline.vision.sam.settings import Precision


def self_attention(module: Attention, asking: Tensor, values: Tensor) -> Tensor:
    """Attend among the tokens (B, T, C) of each prompt, by the weights of segment_anything's `module`."""
    batch, count, _ = values.shape

    def heads(x: Tensor) -> Tensor:
        return x.view(batch, count, module.num_heads, -1).transpose(1, 2)

    q, k, v = heads(module.q_proj(asking)), heads(module.k_proj(asking)), heads(module.v_proj(values))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, -1)
    result: Tensor = module.out_proj(out)
    return result


class CrossAttention:
    """Attention between tokens and image, with the image's projections moved to the tokens' side.

    What a head does to a token before the product with image tokens is two projections, one after the other. They are
    multiplied here, once: together the heads are one linear layer from C to H·C channels.

    Args:
        module: segment_anything's Attention, whose weights are used; gradients reach them.
        dtype: Type of the products of weights; None for theirs.
    """

    def __init__(self, module: Attention, dtype: torch.dtype | None = None) -> None:
        self._module = module
        self._heads: int = module.num_heads
        width: int = module.internal_dim // self._heads
        self._scale = 1 / math.sqrt(width)
        layers = (module.q_proj, module.k_proj, module.v_proj)
        # Of each head: weights (H, d, C), biases (H, d, 1).
        q, k, v = (layer.weight.unflatten(0, (self._heads, width)) for layer in layers)
        of_q, of_k, of_v = (layer.bias.view(self._heads, width, 1) for layer in layers)
        out = module.out_proj.weight.unflatten(1, (self._heads, width)).transpose(0, 1)
        share = module.out_proj.bias[:, None] / self._heads
        # A key's bias adds the same to all scores of a query, which the softmax does not see; a query's does not.
        self._asking = self._linear(k.mT @ q * self._scale, k.mT @ of_q * self._scale, dtype)
        self._asked = self._linear(q.mT @ k * self._scale, q.mT @ of_k * self._scale, dtype)
        self._constant = self._linear(of_q.mT @ k * self._scale, of_q.mT @ of_k * self._scale, dtype)
        # Attention adds up to one in each head, so that the bias arrives once if each head has its share.
        self._answers = self._linear(out @ v, out @ of_v + share, dtype)
        weight, bias = self._answers
        self._joined = (
            weight.unflatten(0, (self._heads, -1)).transpose(0, 1).flatten(1),
            bias.view(self._heads, -1).sum(0),
        )
        one = torch.eye(self._heads, dtype=dtype or q.dtype, device=q.device)
        self._of_head = one.repeat_interleave(width, dim=1)

    def from_shared(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let the tokens (V, P·T, C) of all P prompts of an image ask its image tokens (V, N, C): (V, P·T, C)."""
        module = self._module

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)

        q, k, v = heads(module.q_proj(asking)), heads(module.k_proj(keys)), heads(module.v_proj(values))
        found: Tensor = module.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found

    def from_tokens(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let tokens (B, T, C) ask the image tokens (B, N, C) of their own prompt: (B, T, C)."""
        batch, count, width = asking.shape
        rows = F.linear(asking, *self._asking).view(batch, -1, width)
        attention = (rows @ keys.transpose(1, 2)).softmax(dim=-1)
        return F.linear((attention @ values).view(batch, count, -1), *self._joined)

    def into_shared(self, keys: Tensor, asked: Tensor, answers: Tensor, values: Tensor) -> Tensor:
        """Let the image tokens (V, N, C) ask the tokens (V·P, T, C) of each prompt; add to `values` (V, N, C).

        Returns:
            (V·P, N, C): the image tokens of each prompt.
        """
        module = self._module
        images, n, _ = values.shape
        # Taken once for all prompts, the image's projection is worth it: each row is zero outside of its head.
        rows = ((module.k_proj(asked) * self._scale).unsqueeze(-2) * self._of_head).view(
            images, -1, module.internal_dim
        )
        scores = rows @ module.q_proj(keys).transpose(1, 2)
        own = self._answer(scores.view(len(asked), -1, n), answers)
        own.unflatten(0, (images, -1)).add_(values[:, None])
        return own

    def into_own(self, keys: Tensor, asked: Tensor, answers: Tensor, values: Tensor) -> Tensor:
        """Let the image tokens (B, N, C) of each prompt ask its tokens (B, T, C); add to `values` (B, N, C)."""
        batch, _, width = asked.shape
        scores = F.linear(asked, *self._asked).view(batch, -1, width) @ keys.transpose(1, 2)
        scores += F.linear(asked, *self._constant).view(batch, -1, 1)
        return self._answer(scores, answers).add_(values)

    def _answer(self, scores: Tensor, answers: Tensor) -> Tensor:
        """Return (B, N, C): what image tokens get from tokens (B, T, C), by scores (B, T·H, N)."""
        batch, count, width = answers.shape
        attention = scores.view(batch, count, self._heads, -1).softmax(dim=1).flatten(1, 2)
        return attention.transpose(1, 2) @ F.linear(answers, *self._answers).view(batch, -1, width)

    @staticmethod
    def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Return weights (H, X, C) and biases (H, X, 1) of heads as those of one linear layer, (H·X, C) and (H·X)."""
        return weight.flatten(0, 1).to(dtype or weight.dtype), bias.flatten().to(dtype or bias.dtype)


MASKS = 4
"""Masks per prompt: number 0 is for prompts that are not ambiguous (boxes), 1 to 3 for those that are (points)."""


@dataclass(frozen=True)
class ImageSide:
    """What all prompts of V images share.

    Attributes:
        tokens: (V, N, C): the embeddings as tokens, with the embedding for "no mask given" added.
        keys: (V, N, C): the same with their positions added.
    """

    tokens: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Decoded:
    """What the transformer made of B prompts.

    Attributes:
        iou: (B, 4) float32: predicted IoU of each mask.
        masks: (B, 4, C): the token of each mask.
        image: (B, N, C): the image tokens of each prompt.
    """

    iou: Tensor
    masks: Tensor
    image: Tensor


class PromptDecoder:
    """The mask decoder and prompt encoder of a SAM.

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
        self._prompts = copy.deepcopy(sam.prompt_encoder).to(self.device)
        decoder = copy.deepcopy(sam.mask_decoder).to(self.device)
        self._decoder = decoder
        self._grid: tuple[int, int] = self._prompts.image_embedding_size
        self.encoder_size: int = self._prompts.input_image_size[0]
        self.patch = self.encoder_size // self._grid[0]
        transformer = decoder.transformer
        with torch.inference_mode():
            # Weights are multiplied in full precision, before the decoder is brought to its own.
            self._layers = [
                (
                    layer,
                    CrossAttention(layer.cross_attn_token_to_image, self._dtype),
                    CrossAttention(layer.cross_attn_image_to_token, self._dtype),
                )
                for layer in transformer.layers
            ]
            self._last = CrossAttention(transformer.final_attn_token_to_image, self._dtype)
            decoder.to(self._dtype)
            self._position = self._prompts.get_dense_pe().flatten(2).transpose(1, 2).to(self._dtype)
            self._none = self._prompts.no_mask_embed.weight.to(self._dtype)
            self._own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self._last_norm: nn.Module = transformer.norm_final_attn
        self._upscaling = _Upscaling(decoder.output_upscaling)
        self._transform = torch.compile(self._transformer) if compiled else self._transformer

    def points(self, points: Tensor) -> Tensor:
        """Embed points.

        Args:
            points: (P, 2) x, y in pixels of the encoder's image; float64 as the reference has them.

        Returns:
            (P, 2, C) float32: the point, and the embedding that stands for "no further point".
        """
        labels = torch.ones((len(points), 1), dtype=torch.int, device=self.device)
        sparse: Tensor = self._prompts((points.to(self.device)[:, None], labels), None, None)[0]
        return sparse

    def boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes (P, 4), left, top, right, bottom in pixels of the encoder's image, as (P, 2, C) float32."""
        sparse: Tensor = self._prompts(None, boxes.to(self.device), None)[0]
        return sparse

    def image_side(self, embeddings: Tensor) -> ImageSide:
        """Prepare image embeddings (V, C, h, w) for `decode`."""
        tokens = embeddings.to(self._dtype).flatten(2).transpose(1, 2).contiguous() + self._none
        return ImageSide(tokens, tokens + self._position)

    def decode(self, images: ImageSide, sparse: Tensor) -> Decoded:
        """Run the transformer.

        Args:
            images: V images.
            sparse: (V, P, 2, C): embedded prompts, P of each image.

        Returns:
            For B = V·P prompts, those of an image one after the other.
        """
        sparse = sparse.to(self._dtype)
        own = self._own.expand(*sparse.shape[:2], -1, -1)
        return Decoded(*self._transform(images.tokens, images.keys, torch.cat([own, sparse], dim=2)))

    def logits(self, decoded: Decoded, prompts: Tensor, masks: slice) -> Tensor:
        """Draw masks.

        Args:
            decoded: Of B prompts.
            prompts: (K) numbers of prompts in it.
            masks: Which of the four masks of each.

        Returns:
            (K, M, 4·h, 4·w) float32: logits in low resolution.
        """
        numbers = range(MASKS)[masks]
        networks = self._decoder.output_hypernetworks_mlps
        tokens = decoded.masks[prompts]
        weights = torch.stack([networks[number](tokens[:, number]) for number in numbers], dim=1)
        return self._upscaling(decoded.image[prompts], weights, self._grid)

    def _transformer(self, values: Tensor, keys: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `Decoded`'s fields of tokens (V, P, T, C), and image tokens (V, N, C) without and with positions."""
        images, _, _, width = first.shape
        first = first.flatten(0, 1)
        queries = first
        for number, (layer, to_image, to_tokens) in enumerate(self._layers):
            shared = number == 0
            start = queries if layer.skip_first_layer_pe else queries + first
            attended = self_attention(layer.self_attn, start, queries)
            queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)
            if shared:
                found = to_image.from_shared((queries + first).view(images, -1, width), keys, values).view_as(queries)
            else:
                found = to_image.from_tokens(queries + first, keys, values)
            queries = layer.norm2(queries + found)
            queries = layer.norm3(queries + layer.mlp(queries))
            into = to_tokens.into_shared if shared else to_tokens.into_own
            values = layer.norm4(into(keys, queries + first, queries, values))
            keys = values + self._position
        queries, first = queries[:, : 1 + MASKS], first[:, : 1 + MASKS]
        outs = self._last_norm(queries + self._last.from_tokens(queries + first, keys, values))
        iou = self._decoder.iou_prediction_head(outs[:, 0])
        return iou.float(), outs[:, 1:], values


class _Upscaling:
    """The decoder's two transposed convolutions, and the product with a mask's weights.

    A transposed convolution of kernel and stride 2 turns each token into 2 × 2 of its own, independently of its
    neighbours: it is a linear layer, with channels last and tokens put in their places as whole rows.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        first, norm, _, second, _ = layers
        self._first, self._first_bias = _as_linear(cast(nn.ConvTranspose2d, first))
        weight, bias = _as_linear(cast(nn.ConvTranspose2d, second))
        self._second = list(zip(weight.chunk(2), bias.chunk(2), strict=True))
        # A LayerNorm2d, which has the same weights; channels are last here.
        self._norm = cast(nn.LayerNorm, norm)

    def __call__(self, tokens: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return logits (K, M, 4·h, 4·w) of tokens (K, h·w, C) and weights (K, M, C/8)."""
        count, masks, _ = weights.shape
        height, width = grid
        norm = self._norm
        fine = F.linear(tokens, self._first, self._first_bias).unflatten(-1, (4, -1))
        fine = F.gelu(F.layer_norm(fine, fine.shape[-1:], norm.weight, norm.bias, norm.eps))
        fine = fine.view(count, height, width, 2, -1).transpose(2, 3).reshape(count, 4 * height * width, -1)
        logits = fine.new_empty((count, masks, 2 * height, 2, 4 * width))
        for row, (weight, bias) in enumerate(self._second):
            finer = F.gelu(F.linear(fine, weight, bias)).view(count, 8 * height * width, -1)
            logits[:, :, :, row] = (weights @ finer.transpose(1, 2)).view(count, masks, 2 * height, 4 * width)
        return logits.flatten(2, 3).float()


def _as_linear(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight (4·out, in) and bias (4·out) of a transposed convolution of kernel and stride 2.

    The results are those of the upper left, upper right, lower left and lower right quarter, channels last.
    """
    weight, bias = layer.weight.detach(), cast(Tensor, layer.bias).detach()
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous(), bias.repeat(4)


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
