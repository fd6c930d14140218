"""SAM's mask decoder for many prompts at once: the same numbers as segment_anything's, in fewer operations.

All prompts of an image begin with the same image tokens, so that the first layer's projections of them are taken once.
From then on every prompt has its own N image tokens but only T = 7 tokens of its own, and H heads; since T·H is smaller
than the width of the model, or about it, the projections of image tokens are moved to the other side of the products:
(x W) · q = x · (W q). What predicted IoU decides is known before any mask is drawn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.attention import CrossAttention, self_attention
from pipeline.vision.sam.encoding import DTYPES
from pipeline.vision.sam.settings import Precision

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
