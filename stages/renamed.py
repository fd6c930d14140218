"""Keys of params.yaml that have another name now: an old key is refused with its new name."""

from __future__ import annotations

from typing import Final

RENAMED: Final[dict[str, str]] = {}
"""Old key → new key, both with their sections: `masks.generator.predicted_iou`. A key may be a whole subsection."""
