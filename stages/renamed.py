"""Keys of params.yaml that have another name now: an old key is refused with its new name."""

from __future__ import annotations

from typing import Final

RENAMED: Final[dict[str, str]] = {
    "masks.generator.predicted_iou": "masks.generator.pred_iou_thresh",
    "masks.generator.stability": "masks.generator.stability_score_thresh",
    "masks.generator.stability_offset": "masks.generator.stability_score_offset",
    "masks.generator.box_nms": "masks.generator.box_nms_thresh",
    "masks.generator.mask_nms": "masks.generator.mask_nms_thresh",
    "masks.generator.crop_layers": "masks.generator.crop_n_layers",
    "masks.generator.crop_nms": "masks.generator.crop_nms_thresh",
    "masks.generator.crop_overlap": "masks.generator.crop_overlap_ratio",
    "masks.generator.crop_points_downscale": "masks.generator.crop_n_points_downscale_factor",
    "masks.generator.min_region_area": "masks.generator.min_mask_region_area",
    "masks.generator.images_per_pass": "masks.generator.images_per_batch",
    "masks.generator.prompts_per_pass": "masks.generator.points_per_batch",
    "masks.generator.keep": "masks.generator.max_masks",
    "semantics.grounding.nms": "semantics.grounding.nms_threshold",
    "semantics.grounding.boxes": "semantics.grounding.max_boxes",
    "semantics.q": "semantics.top_q",
    "train.batch": "train.batch_size",
    "train.captioner.evidence.motion": "train.captioner.inputs.regions",
    "train.captioner.evidence.masks_kept": "train.captioner.inputs.max_masks",
    "train.captioner.evidence.graph_encoder": "models.graph_encoder",
    "train.captioner.evidence": "train.captioner.inputs",
    "caption.batch": "caption.batch_size",
    "pretrain.scenes.batch": "pretrain.scenes.batch_size",
    "pretrain.sam.batch": "pretrain.sam.batch_size",
    "pretrain.matcher.batch": "pretrain.matcher.batch_size",
    "pretrain.grounding_dino.batch": "pretrain.grounding_dino.batch_size",
}
"""Old key → new key, both with their sections: `masks.generator.predicted_iou`. A key may be a whole subsection."""

SAME_CLASS: Final = (
    ("masks", "pretrain.matcher.masks"),
    ("regions", "pretrain.matcher.regions"),
    ("matches", "pretrain.matcher"),
    ("prepare.world", "pretrain.scenes.world"),
    ("prepare.world", "pretrain.sam.world"),
    ("prepare.world", "pretrain.matcher.world"),
    ("prepare.world", "pretrain.grounding_dino.world"),
)
"""Pairs (a section, another with the same keys), which are renamed alike."""
