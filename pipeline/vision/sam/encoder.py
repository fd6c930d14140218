"""SAM's image encoder: images resized as segment_anything does, many per pass, with fused attention."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.model import LAYOUTS, encoder_size
from pipeline.vision.sam.settings import Precision, SamSettings

_MAX_PLAIN_TOKENS = 1024
"""Tokens up to which plain attention is faster on a CPU."""

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def input_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) of an image of `height` × `width` pixels once its longer side is `size`."""
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) so that its longer side is `size`; bilinear, as segment_anything's ResizeLongestSide.

    Pillow does it, in whole grey levels: torch's antialiased interpolation differs from it by up to one level.
    """
    height, width = input_size(image.shape[0], image.shape[1], size)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


class ImageEncoder:
    """SAM's image encoder, for images of any size.

    Attributes:
        size: Side in pixels that the longer side of an image is resized to.
        patch: Pixels per token.
        grid: Tokens a side: embeddings are (channels, grid, grid).
        channels: Channels of an embedding.
        device: Where it computes.

    Args:
        sam: The model; its image encoder is copied and left as it is.
        settings: What `sam` was built from.
        device: Where to compute.
        precision: fp32, or bf16 in weights and activations.
        compiled: Whether the encoder goes through torch.compile.
    """

    def __init__(
        self,
        sam: Sam,
        settings: SamSettings,
        device: torch.device | str,
        *,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        layout = LAYOUTS[settings.variant]
        self.size = encoder_size(settings)
        self.patch = layout.patch
        self.grid = self.size // layout.patch
        self.channels = layout.channels
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._mean = sam.pixel_mean.to(self.device)
        self._std = sam.pixel_std.to(self.device)
        encoder = _with_fused_attention(sam.image_encoder).to(self.device, self._dtype)
        self._encode: Callable[[Tensor], Tensor] = torch.compile(encoder) if compiled else encoder

    def scale(self, height: int, width: int) -> float:
        """Return encoder pixels per pixel of an image of `height` × `width`."""
        return self.size / max(height, width)

    def spatial_scale(self, height: int, width: int) -> float:
        """Return tokens per pixel of an image of `height` × `width`: RoIAlign's scale for boxes in its pixels."""
        return self.scale(height, width) / self.patch

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Encode images in one pass.

        Args:
            images: RGB (H, W, 3), of any and of different sizes; those of the encoder's own size (see `resize`) are
                used as they are.

        Returns:
            Embeddings (B, channels, grid, grid) float32 on the device. Where an image is not square, what lies right of
            or below its `spatial_scale` × width or height is padding.
        """
        batch = torch.zeros((len(images), 3, self.size, self.size), device=self.device)
        for slot, image in zip(batch, images, strict=True):
            pixels = torch.from_numpy(np.array(resize(image, self.size))).to(self.device).permute(2, 0, 1)
            slot[:, : pixels.shape[1], : pixels.shape[2]] = (pixels - self._mean) / self._std
        return self._encode(batch.to(self._dtype)).float()


def _with_fused_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Return a copy of an image encoder with faster attention and the same results."""
    copied = copy.deepcopy(encoder)
    grid = copied.img_size // copied.patch_embed.proj.stride[0]
    for block in copied.blocks:
        block.attn = _Attention(block.attn, block.window_size or grid)
    return copied


class _Attention(nn.Module):
    """segment_anything's Attention over squares of `side` × `side` tokens, its tables of positions computed once.

    The decomposed relative position of query q and key k adds rel_h[q, row(k)] + rel_w[q, column(k)] to their scalar
    product. Where there are many tokens, the matrix of all products is never computed: with rel_h[q] and rel_w[q]
    appended to the query, and one-hot codes of row and column to the key, the sum is the scalar product of longer
    vectors, which scaled_dot_product_attention takes. Few tokens on a CPU are faster by the plain formula.
    """

    rows: Tensor
    columns: Tensor
    code: Tensor

    def __init__(self, attention: Attention, side: int) -> None:
        super().__init__()
        self._heads: int = attention.num_heads
        self._scale: float = attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        line = torch.eye(side)
        code = torch.cat([line.repeat_interleave(side, dim=0), line.repeat(side, 1)], dim=1)
        with torch.no_grad():
            self.register_buffer("rows", get_rel_pos(side, side, attention.rel_pos_h))
            self.register_buffer("columns", get_rel_pos(side, side, attention.rel_pos_w))
        self.register_buffer("code", code)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        tokens = height * width
        qkv: Tensor = self.qkv(x).view(batch, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        grid = q.unflatten(2, (height, width))
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, self.rows)
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, self.columns)
        if x.device.type == "cpu" and tokens <= _MAX_PLAIN_TOKENS:
            scores = (q * self._scale) @ k.transpose(-2, -1)
            # A view, so that the relative positions are added to the scores in place.
            grid_scores = scores.view(batch, self._heads, height, width, height, width)
            grid_scores += rel_h[..., :, None]
            grid_scores += rel_w[..., None, :]
            out = scores.softmax(dim=-1) @ v
        else:
            query = torch.cat([q * self._scale, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], dim=-1)
            key = torch.cat([k, self.code.expand(batch, self._heads, -1, -1)], dim=-1)
            out = F.scaled_dot_product_attention(query, key, v, scale=1.0)
        result: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return result
