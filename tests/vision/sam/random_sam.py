"""SAMs of random weights whose masks differ from point to point, and random images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam

from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import SamSettings


def random_sam(settings: SamSettings, *, seed: int = 3) -> Sam:
    """Build a SAM of random weights, larger ones where the usual would give every point the same mask.

    About half of its masks have a predicted IoU above 0.5. Their boxes overlap almost wholly, so that non-maximum
    suppression is best left at 1, or little below.
    """
    sam = build_sam(settings, random_weights=True, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    decoder = sam.mask_decoder
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0, 0.1, generator=generator)
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1 and name.split("_")[0] in ("output", "iou") and "token" not in name:
                parameter.mul_(2)
        for layer in decoder.transformer.layers:
            # Image tokens near the point then find its token: their position embeddings are alike.
            attention = layer.cross_attn_image_to_token
            attention.q_proj.weight.mul_(4)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.v_proj.weight.mul_(3)
            attention.out_proj.weight.mul_(3)
        for network in decoder.output_hypernetworks_mlps:
            bias = network.layers[-1].bias
            bias.sub_(24 / len(bias))
        size = sam.image_encoder.img_size
        probe = torch.from_numpy(random_image(size, size).copy()).permute(2, 0, 1)
        points = torch.rand((64, 1, 2), generator=generator) * size
        sparse, dense = sam.prompt_encoder((points, torch.ones(64, 1)), None, None)
        embedding = sam.image_encoder(sam.preprocess(probe)[None])
        _, iou = decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        decoder.iou_prediction_head.layers[-1].bias.sub_(iou.median(dim=0).values - 0.5)
    return sam


def random_image(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Draw smooth blobs of random colours (H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))
