"""`sagecc draw`: what the caches know of one pair, as a picture; no stage of dvc.yaml."""

from __future__ import annotations

from pathlib import Path


def run(prepared: Path, pair: str, masks: Path, matches: Path, semantics: Path, output: Path) -> Path:
    """Draw masks, correspondences and semantic regions of a pair; of caches that are not there yet, nothing is drawn.

    Args:
        prepared: Folder that `sagecc prepare` wrote.
        pair: The pair's id.
        masks: Cache that `sagecc masks` wrote.
        matches: Cache that `sagecc matches` wrote, if it is there.
        semantics: Cache that `sagecc semantics` wrote, if it is there.
        output: PNG to write.

    Returns:
        `output`.

    Raises:
        CacheError: The masks are missing, or a cache is damaged or of other pairs.
        DataError: There is no such pair, or an image cannot be read.
    """
    from pipeline.vision.drawing.canvas import save_png
    from pipeline.vision.drawing.gather import gather_pair
    from pipeline.vision.drawing.pair import draw_pair

    known = gather_pair(
        prepared,
        pair,
        masks=masks,
        matches=matches if matches.exists() else None,
        semantics=semantics if semantics.exists() else None,
    )
    return save_png(draw_pair(known), output)
