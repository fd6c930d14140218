"""`sagecc draw`: masks, matches and semantic regions of pairs, as a picture; no stage of dvc.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.paths import Paths
from pipeline.vision.drawing.canvas import save_png
from pipeline.vision.drawing.gather import gather_pair
from pipeline.vision.drawing.pair import draw_pair, draw_sheet, without_imagery


def run(
    pairs: Sequence[str],
    paths: Paths,
    output: Path,
    *,
    kinds: Sequence[str] = (),
    imagery: bool = True,
) -> Path:
    """Draw masks, correspondences and semantic regions of pairs; caches that do not exist yet are left out.

    Args:
        pairs: Their ids. One is drawn large, several row by row.
        paths: The prepared data set and the caches; only masks.h5 must exist.
        output: PNG to write.
        kinds: Which of `pipeline.vision.drawing.pair.KINDS` are drawn of several pairs; none: all that there are.
        imagery: Whether the images themselves are shown; else their regions lie on grey, for imagery that may not be
            passed on.

    Returns:
        `output`.

    Raises:
        CacheError: The masks are missing, or a cache is damaged or of other pairs.
        DataError: There is no such pair, or an image cannot be read.
        SettingsError: A kind is unknown, or its cache does not exist; or kinds are given for one pair.
    """
    drawn = [
        gather_pair(
            paths.prepared,
            pair,
            masks=paths.masks,
            matches=paths.matches if paths.matches.exists() else None,
            semantics=paths.semantics if paths.semantics.exists() else None,
        )
        for pair in pairs
    ]
    if not imagery:
        drawn = [without_imagery(pair) for pair in drawn]
    available = drawn[0].kinds
    chosen = tuple(kind for kind in available if kind in kinds or not kinds)
    for kind in kinds:
        if kind not in available:
            raise SettingsError(f"there are no {kind} to draw", where="--kind", fix=f"one of: {', '.join(available)}")
    if len(drawn) == 1:
        if kinds:
            raise SettingsError(
                "of one pair everything is drawn", where="--kind", fix="leave it out, or name more pairs"
            )
        return save_png(draw_pair(drawn[0]), output)
    return save_png(draw_sheet(drawn, chosen), output)
