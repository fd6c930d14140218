"""Keys of params.yaml that have another name now: an old key is refused with its new name."""

from __future__ import annotations

from typing import Final

RENAMED: Final[dict[str, str]] = {
    "train.batch": "train.batch_size",
    "caption.batch": "caption.batch_size",
    "pretrain.scenes.batch": "pretrain.scenes.batch_size",
    "pretrain.sam.batch": "pretrain.sam.batch_size",
    "pretrain.matcher.batch": "pretrain.matcher.batch_size",
    "pretrain.grounding_dino.batch": "pretrain.grounding_dino.batch_size",
}
"""Old key → new key, both with their sections: `masks.generator.predicted_iou`. A key may be a whole subsection."""
